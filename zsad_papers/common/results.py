"""Tidy results: published and measured numbers as rows of one schema, which `published.md` explains.
Percentages are percentages here; the functions that measure return fractions, and `rows` multiplies."""

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from zsad_core.cache import write_atomically

KEYS = ["paper", "artifact", "dataset", "category", "task", "shots", "method", "variant", "metric"]
COLUMNS = [*KEYS, "mean", "std"]
TEXT_COLUMNS = [key for key in KEYS if key != "shots"]
TASKS = ("image", "pixel", "text", "")
FULL_SHOT = -1  # shots: all normal training images; written as `full` in files


def read_table(package: str, name: str) -> pd.DataFrame:
    """A CSV file of one of the folders of `zsad_papers`, all as text."""
    with (files(f"zsad_papers.{package}") / name).open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


METRICS = read_table("common", "metrics.csv").set_index("metric").astype({"low": float, "high": float})
PERCENT = list(METRICS.index[METRICS["percent"] == "1"])
SPREADS = {
    "of_mean": "± is the standard deviation over draws of the mean over categories",
    "of_classes": "± is the mean over categories of their standard deviations over draws",
}
"""What the std of a mean row is, in words for captions. The first is smaller, since categories vary apart. A
paper's `contradictions` show which one it prints; tables have the same kind on both sides."""
ROUNDING = 1e-9  # allowed beyond a range: a cosine may be 1 + 2e-16


Fault = tuple[str, pd.Series, str]


def validate(frame: pd.DataFrame, *, source: str = "frame", undefined: bool = True) -> pd.DataFrame:
    """The frame in canonical order and types, or a ValueError that names source, line and expectation.
    `undefined=False` also refuses NaN means. `draws` may be a column more: means on resampled images."""
    if sorted({*frame.columns} - {"draws"}) != sorted(COLUMNS):
        missing, extra = sorted(set(COLUMNS) - set(frame)), sorted(set(frame) - set(COLUMNS))
        raise ValueError(f"{source}: missing columns {missing}, unknown columns {extra}; expected {COLUMNS}")
    frame = frame[[*COLUMNS, *frame.columns.intersection(["draws"])]].reset_index(drop=True)
    refuse(source, frame, _faults(frame, undefined))
    types = {**dict.fromkeys(TEXT_COLUMNS, "str"), "shots": "int64", "mean": "float64", "std": "float64"}
    return frame.assign(shots=pd.to_numeric(frame["shots"])).astype(types)


def refuse(source: str, frame: pd.DataFrame, faults: Iterable[Fault]) -> None:
    """ValueError for the first fault: (column, which rows are wrong, what is expected)."""
    for column, bad, expected in faults:
        if bad.any():
            at = int(bad.to_numpy().argmax())
            row = frame.iloc[[at]].astype("object").to_dict("records")[0]
            wrong = f"{source}, line {at + 2}: {column} is {row[column]!r}"
            raise ValueError(f"{wrong}; expected {expected}: {row}")


def _faults(frame: pd.DataFrame, undefined: bool) -> Iterator[Fault]:
    """Each check may rely on those before it."""
    for column in TEXT_COLUMNS:
        is_text = frame[column].map(lambda value: isinstance(value, str)).astype(bool)
        yield column, ~is_text, "text, empty for none"
    for column in ("paper", "artifact", "category", "metric"):
        yield column, frame[column] == "", "a name"
    yield "task", ~frame["task"].isin(TASKS), f"one of {TASKS}"
    yield "metric", ~frame["metric"].isin(METRICS.index), f"one of {sorted(METRICS.index)}"
    numbers = frame[["shots", "mean", "std"]].apply(pd.to_numeric, errors="coerce")
    shots, mean, std = (numbers[column] for column in numbers)
    yield "shots", ~((shots >= FULL_SHOT) & (shots % 1 == 0)), "a whole number from 0 on, or FULL_SHOT"
    for column in ("mean", "std"):
        yield column, numbers[column].isna() & frame[column].notna(), "a number or NaN"
    if not undefined:
        yield "mean", mean.isna(), "a number"
    low, high = (frame["metric"].map(METRICS[end]).astype(float) for end in ("low", "high"))  # of no rows too
    outside = (mean < low - ROUNDING) | (mean > high + ROUNDING)
    yield "mean", outside, "a value in the metric's range, see METRICS"
    yield "std", (std < 0) | (std == math.inf), "a standard deviation from 0 on, or NaN"
    repeated = frame.assign(shots=shots).duplicated(KEYS)
    yield "metric", repeated, "each combination of keys once, but this row repeats an earlier one"


def load_published(paper: str, file: str = "published.csv") -> pd.DataFrame:
    """The published numbers of a paper, checked. Not every table has numbers: figures are plots only."""
    source = f"{paper}/{file}"
    frame = validate(_read(Path(str(files("zsad_papers") / source))), source=source, undefined=False)
    name = file.removesuffix(".csv").replace("published", paper)
    refuse(source, frame, [("paper", frame["paper"] != name, repr(name))])
    return frame


def read_results(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """The rows of one or more result files with their draws, checked. A key in two files is an error."""
    paths = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not paths:
        raise ValueError("no result files given; expected at least one path")
    frames = {str(path): validate(_read(path), source=str(path)) for path in paths}
    together = pd.concat(frames)
    repeated = together[together.duplicated(KEYS, keep=False)]
    if len(repeated):
        key, twice = next(iter(repeated.groupby(KEYS, sort=False)))
        raise ValueError(
            f"{twice.index.get_level_values(0).tolist()} hold the same row {dict(zip(KEYS, key))}; "
            "expected each number in one file"
        )
    return together.reset_index(drop=True)


def write_results(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a checked frame as CSV: sorted by keys, ten significant digits, the same bytes every time. Its
    draws lie beside it in a `.npz`: of the rows `at` (k,) the `draws` (k, n)."""
    frame = validate(frame).sort_values(KEYS, kind="stable", ignore_index=True)
    draws, arrays = frame.get("draws", pd.Series()).dropna(), Path(path).with_suffix(".npz")
    frame["shots"] = frame["shots"].map(lambda shots: "full" if shots == FULL_SHOT else str(shots))

    def write(temporary: Path) -> None:
        frame[COLUMNS].to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")  # in UTF-8

    arrays.unlink(missing_ok=True)  # those of earlier rows
    write_atomically(path, write)
    if len(draws):
        values = {"at": draws.index, "draws": np.stack(draws).astype(np.float32)}
        write_atomically(arrays, lambda temporary: np.savez_compressed(temporary, **values))


def _read(path: Path) -> pd.DataFrame:
    """Raw rows and their draws; shots 'full' and '' become FULL_SHOT and 0."""
    beside, draws = path.with_suffix(".npz"), {}
    if not path.is_file():
        raise FileNotFoundError(f"no result file {path}: run its notebook, or check results_dir")
    if not path.read_bytes().endswith(b"\n"):
        raise ValueError(f"{path}: empty, or cut off in its last line; delete it and run its notebook again")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        if beside.is_file():
            with np.load(beside) as arrays:
                draws = {"draws": pd.Series([*arrays["draws"]], frame.index[arrays["at"]], dtype="object")}
    except (ValueError, LookupError, EOFError, BadZipFile, zlib.error) as error:
        wrong = f"{path}: not a results CSV, or {beside.name} is damaged or of other rows ({error})"
        raise ValueError(f"{wrong}; delete it and run its notebook again") from error
    empty = {"shots": {"full": str(FULL_SHOT), "": "0"}, "mean": {"": None}, "std": {"": None}}
    return frame.replace({column: texts for column, texts in empty.items() if column in frame}).assign(**draws)


def rows(
    values: pd.DataFrame,
    *,
    paper: str,
    artifact: str | Mapping[str, str],
    dataset: str,
    method: str,
    shots: int = 0,
    variant: str = "",
    task: str = "image",
    keep: Literal["both", "mean", "categories"] = "both",
    spread: Literal["of_mean", "of_classes"] = "of_mean",
) -> pd.DataFrame:
    """Tidy rows from measurements of each category and seed: mean and standard deviation over seeds (ddof 1).

    The `mean` row takes the mean over categories *within each seed first*; its std is by `spread` one of
    `SPREADS`. An undefined (NaN) category makes it NaN, with a warning. With one seed std is NaN.

    values : one row for each category and seed (none: no rows), with a column for each metric, in fractions
        if it is a percentage; and columns `category` (without it: one number for the whole dataset) and
        `seed` (without it: a single run), `draws` (see `experiment.image_metrics`).
    artifact : the table, or a table for each metric: `{"auroc": "A5", "aupr": "A6", "f1max": "A7"}`.
    """
    if values.empty:
        return joined([])
    usual = {"category": "mean", "seed": 0, "draws": None}
    values = values.assign(**{name: values.get(name, other) for name, other in usual.items()})
    metrics = [column for column in values if column not in usual]
    drawn = [(place, own()) for place, own in zip(values["category"], values["draws"]) if callable(own)]
    unknown = [metric for metric in metrics if metric not in METRICS.index]
    if unknown or not metrics:
        known = sorted(METRICS.index)
        raise ValueError(f"metric columns {metrics}: unknown {unknown}; expected some of {known}")
    seeds, categories = values["seed"].nunique(), values["category"].nunique()
    if len(values) != seeds * categories or values.duplicated(["category", "seed"]).any():
        found = f"{len(values)} rows of {categories} categories and {seeds} seeds"
        raise ValueError(f"{found}; expected each pair once")
    names = {"paper": paper, "dataset": dataset, "task": task, "shots": shots, "method": method}
    names, records = names | {"variant": variant}, []
    for metric in metrics:
        names |= {"metric": metric, "artifact": artifact if isinstance(artifact, str) else artifact[metric]}
        cells = values.pivot(index="seed", columns="category", values=metric)  # (seeds, categories)
        cells = (100.0 if metric in PERCENT else 1.0) * cells
        undefined = cells.columns[cells.isna().any()].tolist()
        if undefined:
            warnings.warn(f"{metric} of {dataset} is undefined for {undefined}; so is its mean", stacklevel=2)
        shown = cells.assign(mean=cells.mean(axis=1, skipna=False))
        for category in {"both": [*shown], "mean": ["mean"], "categories": [*cells]}[keep]:
            mean, std = shown[category].mean(skipna=False), shown[category].std(skipna=False)
            if category == "mean" and spread == "of_classes":
                std = cells.std(skipna=False).mean(skipna=False)
            of = [draws for place, draws in drawn if metric in draws and category in ("mean", place)]
            records.append({**names, "category": category, "mean": mean, "std": std})
            records[-1] |= {"draws": np.mean([100.0 * draws[metric] for draws in of], axis=0)} if of else {}
    return validate(pd.DataFrame(records), source="measured rows (rows() takes fractions)")


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several frames; without frames (no dataset is prepared) a frame without rows."""
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else validate(pd.DataFrame(columns=COLUMNS))


def as_published(frame: pd.DataFrame, stand_ins: Mapping[str, str | None]) -> pd.DataFrame:
    """The frame with measured dataset names replaced by the published names that they stand in for, one or
    several; another dataset keeps its name. stand_ins: `{"mvtec": "mini_mvtec"}`, or to None."""
    stand_ins = {name: other for name, other in stand_ins.items() if other}
    shadowed = sorted({name for name, own in stand_ins.items() if name != own} & set(frame["dataset"]))
    if shadowed:
        raise ValueError(
            f"rows of {shadowed} beside their stand-ins ({dict(stand_ins)}): one name would mean two "
            "datasets; leave one of them out"
        )
    staying = frame[~frame["dataset"].isin(list(stand_ins.values()))]
    named = [frame[frame["dataset"] == other].assign(dataset=name) for name, other in stand_ins.items()]
    return pd.concat([staying, *named], ignore_index=True)


def compare(
    published: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    stand_ins: Mapping[str, str | None] | None = None,
    keep: Literal["published", "both"] = "published",
) -> pd.DataFrame:
    """Published beside measured, matched on `KEYS`, in the order of the published rows.

    Further columns: published, published_std, measured, measured_std; difference (measured minus published,
    NaN where one is missing); measured_on (the measured dataset's own name); status: 'measured', 'not yet
    run', 'dataset missing' (none stands in for it), 'undefined' or 'no published number'.

    stand_ins : as in `as_published`, without missing datasets; None if that is not known.
    keep : "both" adds the measured rows without a published number (other categories, say).
    """
    there = {name: other for name, other in (stand_ins or {}).items() if other}
    measured = as_published(measured, there)
    measured = measured.assign(measured_on=measured["dataset"].map(lambda name: there.get(name, name)))
    sides = []
    for side, frame in (("published", published), ("measured", measured)):
        if frame.duplicated(KEYS).any():
            example = frame.loc[frame.duplicated(KEYS), KEYS].iloc[0].to_dict()
            raise ValueError(f"{side} rows are not distinct in {KEYS}: {example}; select rows")
        sides.append(frame.rename(columns={"mean": side, "std": f"{side}_std"}))
    table = sides[0].merge(sides[1], on=KEYS, how="left")
    if keep == "both":
        alone = sides[1].merge(sides[0], on=KEYS, how="left", indicator=True)
        alone = alone[alone.pop("_merge") == "left_only"]
        table = pd.concat([table, alone[table.columns]], ignore_index=True)  # published rows keep their order
    table["measured_on"] = table["measured_on"].fillna("").astype("str")
    table.insert(len(table.columns) - 1, "difference", table["measured"] - table["published"])
    missing = table["measured"].isna()
    no_dataset = ~table["dataset"].isin(["", *there]) & (stand_ins is not None)
    states = {
        "undefined": missing & (table["measured_on"] != ""),
        "dataset missing": missing & no_dataset,
        "not yet run": missing,
        "no published number": table["published"].isna(),
    }
    return table.assign(status=np.select(list(states.values()), list(states), "measured"))


def tidy(
    records: pd.DataFrame,
    dataset: str,
    artifact: str | Mapping[str, str],
    *,
    paper: str,
    keep: str = "mean",
    spread: str = "of_mean",
    metrics: Sequence[str] = ("auroc", "aupr", "f1max", "pro", "pro200"),
    **where: object,
) -> pd.DataFrame:
    """Rows of one artifact from the records that `where` selects (a value or a list for a column); keep and
    spread as in `rows`. Metrics that no record has are left out."""
    for column, wanted in where.items():
        records = records[records[column].isin([wanted] if isinstance(wanted, (str, int)) else list(wanted))]
    frames, common = [], {"paper": paper, "artifact": artifact, "dataset": dataset}
    common |= {"keep": keep, "spread": spread}
    by = ["method", "variant", "shots", "task"]
    for names, group in records.groupby(by, sort=False):
        present = [m for m in metrics if m in group and group[m].notna().any()]
        shown = group[["category", "seed", *present, *group.columns.intersection(["draws"])]]
        frames.append(rows(shown, **common, **dict(zip(by, names))))
    return joined(frames)
