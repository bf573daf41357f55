"""Do two runs agree? The first line says it, the rest says where they do not.

    zsad verify results/mini reference/mini

A and B are results folders, or one result file (CSV) each. The tolerances are those between processors, which
add in another order: the book's page "How to use this book" gives the reasons. Of the JSON beside each file,
what defines the experiment must be the same: model, weights with SHA-256, fingerprints of the datasets,
parameters, precision, seed. Another commit, version or device is shown and is no fault. The folder `times` is
left out.

Exit code 0: they agree. 1: they differ. 2: nothing could be compared.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from zsad_papers.common.results import KEYS, PERCENT, read_results

POINTS = 0.05  # by which percentages may differ
RELATIVE = 0.01  # all other numbers may differ by this share of the larger one
ONE_RANK = {"auroc": 0.15, "ap": 0.5, "aupr": 0.5, "f1max": 2.0}  # if two of thirty images change places
SPREAD = dict.fromkeys(("rwda", "clip_rwda", "winclip_plus_rwda", "linear"), 0.5)
SPREAD |= dict.fromkeys(("anomalyclip", "coop", "vand", "rd4ad"), 2.5)
"""Methods that learn, and the share of the standard deviation over seeds by which they may differ. Networks
on sentences hardly notice the last digit. Prompts end elsewhere, as from another seed: means of three then
differ by less than 3 * sqrt(2/3) deviations."""
SINGLE, UNSEEDED = 4.2, 1.5
"""That share for a single training, 3 * sqrt(2); the deviation, in points, where no similar row has seeds."""
OUTLIERS = 0.05  # part of what was learned that may be farther apart: some trainings fail on one processor

SAME = ("model", "weights", "weights_sha256", "datasets", "parameters", "precision", "seed")
SHOWN = 5  # rows of a file that are listed


def compare_rows(a: pd.DataFrame, b: pd.DataFrame, exact: bool = False) -> pd.DataFrame:
    """Rows of two result frames side by side, matched and sorted by `results.KEYS`; with `allowed`, how far
    means and standard deviations may be apart, and `problem`, "" where the two agree."""
    table = a.merge(b, on=KEYS, how="outer", suffixes=("_a", "_b"), indicator="side")
    table = table.sort_values(KEYS, ignore_index=True)
    left, right = (table[[f"mean_{side}", f"std_{side}"]].to_numpy() for side in "ab")  # (rows, 2)
    # a spread of almost nothing may double: it is compared with the size of its mean
    size = np.fmax.reduce(np.abs(np.hstack([left, right])), axis=1)
    allowed = np.where(table["metric"].isin(PERCENT), POINTS, RELATIVE * size)
    by_rank = table["metric"].map(ONE_RANK).where(table["task"] == "image")
    table["allowed"] = 0.0 if exact else np.fmax(allowed, np.fmax(by_rank, _by_seeds(table)))
    near = np.isclose(left, right, rtol=0, atol=table[["allowed"]] + 1e-6 * (not exact), equal_nan=True)
    problems = {
        "only in A": table["side"] == "left_only",
        "only in B": table["side"] == "right_only",
        "undefined in one": (np.isnan(left) != np.isnan(right)).any(axis=1),
        "differs": ~near.all(axis=1),
    }
    return table.drop(columns="side").assign(problem=np.select(list(problems.values()), list(problems), ""))


def _by_seeds(table: pd.DataFrame) -> pd.Series:
    """How far another order of adding may move what was trained, NaN for other methods: at least the median
    of similar rows (of category, else dataset, else metric), since a few seeds may agree by chance."""
    share = table["method"].map(SPREAD)
    own = np.fmax(table["std_a"], table["std_b"])
    similar = pd.Series(np.nan, table.index)
    for keys in (["dataset", "category"], ["dataset"], []):
        by = [table[key] for key in ("paper", "task", "metric", *keys)]
        similar = similar.fillna(own.where(share.notna()).groupby(by).transform("median"))
    similar = similar.fillna(table["metric"].isin(PERCENT).map({True: UNSEEDED, False: np.nan}))
    return np.fmax(own, similar) * share.where(own.notna() | share.isna(), SINGLE)


def compare_facts(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[str]]:
    """{a sentence for a fact in which two runs differ: the files where it does}. a, b: by file, then by fact.
    The device and the profile's name may always differ."""
    found: dict[str, list[str]] = {}
    for name in sorted(a.keys() & b.keys()):
        for key in sorted({**a[name], **b[name]}.keys() - {"parameters: device", "parameters: profile"}):
            ours, theirs = a[name].get(key), b[name].get(key)
            if ours != theirs:
                found.setdefault(f"{key} is {ours!r} in A and {theirs!r} in B", []).append(name)
    return found


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The rows of a results folder or file, with a column `file`, and for each file {fact: value}."""
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    if not files:
        raise FileNotFoundError(
            f"{path} {'holds no result file (*.csv)' if path.is_dir() else 'does not exist'}: expected a "
            "results folder, as results/mini, or one of its CSV files"
        )
    read_results(files)  # each row once
    rows = pd.concat([read_results(file).assign(file=file.name) for file in files], ignore_index=True)
    return rows, {file.name: _read_facts(file.with_suffix(".json")) for file in files}


def _read_facts(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: a result file without its provenance cannot be compared")
    try:
        return pd.json_normalize(json.loads(file.read_text(encoding="utf-8")), sep=": ").iloc[0].to_dict()
    except (ValueError, IndexError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"{file} is cut off or damaged ({error}): run its notebook again") from error


def print_rows(table: pd.DataFrame) -> None:
    """For each file how many numbers do not agree, and the first of them."""
    for name, own in table[table["problem"] != ""].groupby("file"):
        print(f"{name}: {len(own)} of {(table['file'] == name).sum()} do not agree")
        for row in own.head(SHOWN).to_dict("records"):
            key = " ".join(str(row[key]) for key in KEYS if row[key] not in ("", 0))
            sides = (f"{side.upper()} {row[f'mean_{side}']:.6g} ± {row[f'std_{side}']:.3g}" for side in "ab")
            print(f"  {key}: {row['problem']} ({', '.join(sides)}; allowed {row['allowed']:.2g})")


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--exact", is_flag=True, help="No tolerance: each number as it is in the file.")
def main(a: Path, b: Path, exact: bool) -> None:
    try:
        (rows_a, facts_a), (rows_b, facts_b) = _read(a), _read(b)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if a.is_file() and b.is_file():  # they may be called differently
        rows_b, facts_b = rows_b.assign(file=a.name), {a.name: facts_b[b.name]}
    table = compare_rows(rows_a, rows_b, exact)
    table["file"] = table["file_a"].fillna(table["file_b"])
    facts = compare_facts(facts_a, facts_b)
    faults = [fact for fact in facts if fact.startswith(SAME)]
    wrong, learned = table["problem"] != "", table["method"].isin(SPREAD)
    far = learned & (table["problem"] == "differs")
    few = not exact and far.sum() <= OUTLIERS * learned.sum()
    agree = not (wrong & ~far if few else wrong).any() and not faults
    how = "exactly" if exact else "within tolerances"
    print(f"{'AGREE' if agree else 'DIFFER'}: {(~wrong).sum():,} of {len(table):,} numbers agree {how}, "
          f"{len(faults)} settings differ")  # fmt: skip
    print_rows(table)
    for fact, files in facts.items():
        label = "not the same experiment" if fact in faults else "differs without fault"
        print(f"{label}: {fact} ({files[0]}{f' and {len(files) - 1} more' if files[1:] else ''})")
    sys.exit(0 if agree else 1)
