"""Checks of published numbers: two sides that should agree, and whether they do.

Printed numbers are rounded. Two of them contradict each other only if no unrounded values give both. With one
decimal, a mean of printed values is uncertain by 0.05 and a printed mean by 0.05, together by 0.1."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from zsad_papers.common.claims import Numbers, above, at_least, cells_of, pairs, place
from zsad_papers.common.results import load_published, read_table

KINDS = read_table("common", "check_kinds.csv").set_index("kind")  # what is printed and computed
COLUMNS = ["paper", "where", "printed", "computed", "difference", "kind", "explanation", "agrees"]
SETTING = ["dataset", "task", "shots", "method", "variant", "metric"]
HALF_UNIT = 0.05  # every table of percentages prints one decimal
Check = dict[str, str | float | bool]


def equal_numbers(
    where: str, printed: float, computed: float, tolerance: float, kind: str, digits: int = 1
) -> Check:
    """Two numbers that should be equal up to a tolerance; the first is printed with so many digits."""
    return {
        "where": where,
        "printed": f"{printed:.{digits}f}",
        "computed": f"{computed:.{digits + 2}f}",
        "difference": round(computed - printed, 6),
        "kind": kind,
        "agrees": at_least(tolerance, abs(computed - printed)),
    }


def larger(where: str, lower: float, higher: float, explanation: str) -> Check:
    """A statement that the second number is larger."""
    sides = {"printed": f"more than {lower:.1f}", "computed": f"{higher:.1f}", "agrees": above(higher, lower)}
    return equal_numbers(where, lower, higher, 0, "text") | sides | {"explanation": explanation}


def same_words(where: str, printed: str, computed: str, kind: str = "text", explanation: str = "") -> Check:
    """Two sides in words."""
    sides = {"printed": printed, "computed": computed, "agrees": printed == computed}
    return {"where": where, "kind": kind, "explanation": explanation} | sides


def setting_name(setting: tuple) -> str:
    """A setting in words: 'visa, 1-shot clip_rwda, auroc'."""
    dataset, task, shots, method, variant, metric = setting
    pixel = "pixel " if task == "pixel" else ""
    return ", ".join(filter(None, [dataset, f"{shots}-shot {method}", variant, pixel + metric]))


def as_checks(frame: pd.DataFrame, checks: list[Check]) -> pd.DataFrame:
    """The checks as a table with `COLUMNS`; the paper's key is taken from the frame."""
    defaults = {"paper": frame["paper"].iloc[0], "difference": math.nan, "explanation": "", "agrees": False}
    table = pd.DataFrame([defaults | check for check in checks], columns=COLUMNS)
    return table.astype({"difference": "float64", "agrees": "bool"})


def numbers_of(frame: pd.DataFrame, artifact: str) -> Numbers:
    """The numbers of one table."""
    rows = frame[frame["artifact"] == artifact]
    return Numbers(rows, cells_of(rows))


def statements(frame: pd.DataFrame) -> list[Check]:
    """Sentences of the text against tables: rows of `statements.csv`, settings as in `claim_tests.csv`. Their
    difference must be what is `said`, with so many `digits`; where nothing is said, the first is larger."""
    checks = []
    for row in read_table(frame["paper"].iloc[0], "statements.csv").itertuples(index=False):
        numbers = numbers_of(frame, row.artifact)
        at_all = product(row.datasets.split(" | "), row.measures.split(" | "), pairs(row, {}))
        for *at, (first, second) in at_all:
            what = ", ".join(filter(None, [row.what, place(*at, "", first if row.said else "")]))
            where = f"{row.section} against {row.artifact}: {what}"
            high, low = (numbers.value(side, *at) for side in (first, second))
            if row.said:
                check = equal_numbers(where, float(row.said), high - low, 0, "text", int(row.digits))
            else:
                check = larger(where, low, high, f"{second}, {first}" if second else "")
            checks.append(check)
        if numbers.problems:
            raise ValueError(f"statements.csv, {row.section}: {'; '.join(numbers.problems)}")
    return checks


def stated_twice(paper: str) -> list[Check]:
    """Settings and references that the text states in two places: rows of a paper's `stated_twice.csv`."""
    return [
        same_words(f"{row.again} against {row.first}: {row.what}", row.restated, row.stated, "stated twice")
        for row in read_table(paper, "stated_twice.csv").itertuples(index=False)
    ]


def same_models(frame: pd.DataFrame) -> list[Check]:
    """Tables that describe one model, of `same_models.csv`, against the first of them: the same numbers."""
    means = frame[(frame["category"] == "mean") & frame["task"].isin(["image", "pixel"])]
    tables, checks = dict(list(means.groupby(["artifact", "variant"]))), []
    models = read_table(frame["paper"].iloc[0], "same_models.csv").groupby("model", sort=False)
    for what, own in models:
        first, *others = (tables[key] for key in zip(own["artifact"], own["variant"]))
        for other in others:
            checks += compared(what, first, other, MODEL)
    return checks


MODEL = ["dataset", "task", "metric", "shots", "method"]


def compared(what: str, one: pd.DataFrame, other: pd.DataFrame, on: Sequence[str]) -> list[Check]:
    """The numbers that two tables print of one model."""
    checks = []
    for row in one.merge(other, on=on, suffixes=("", "_other")).to_dict("records"):
        shots = f"{row['shots']}-shot" if row["shots"] else ""
        rows = filter(None, [shots, row.get("method", row.get("method_other")), row["variant_other"]])
        name = f"{row['dataset']} {row['task']} {row['metric']}, {' '.join(rows)}"
        where = f"{row['artifact_other']} against {row['artifact']}, {what}: {name}"
        checks.append(equal_numbers(where, row["mean_other"], row["mean"], 0, "same model"))
    return checks


def class_means(frame: pd.DataFrame, quotes: Sequence[str] = ()) -> pd.DataFrame:
    """Means and deviations over class-wise rows against the printed ones, for every artifact with rows for
    all classes; for a class that a setting lacks, the value that the printed mean leaves. quotes: methods
    whose values the paper takes from the WinCLIP paper."""
    classes = frame[frame["category"] != "mean"]
    all_classes = classes.groupby("dataset")["category"].agg(set)
    means, deviations = (_printed(frame, column) for column in ("mean", "std"))
    checks, differences = [], defaultdict(list)
    for (artifact, dataset), table in classes.groupby(["artifact", "dataset"], sort=False):
        if set(table["category"]) != all_classes[dataset]:
            continue
        for setting, rows in table.groupby(SETTING, sort=False):
            missing = sorted(all_classes[dataset] - set(rows["category"]))
            explanation = "rounding explains a difference of at most 0.1"
            if setting[SETTING.index("method")] in quotes:
                explanation += "; class values and mean are both quoted from the WinCLIP paper"
            for mean, artifacts in means.get(setting, {}).items():
                where = f"{artifact} against {artifacts}: {setting_name(setting)}"
                if missing:
                    checks.append(_missing(where, missing, mean, rows["mean"]))
                    continue
                check = equal_numbers(where, mean, rows["mean"].mean(), 2 * HALF_UNIT, "class mean")
                checks.append(check | {"explanation": explanation})
                differences[setting[1], setting[-1]].append(check["difference"])
            for std, artifacts in deviations.get(setting, {}).items():
                if std > 0 and not missing:
                    where = f"{artifact} against {artifacts}: {setting_name(setting)}, ±"
                    checks.append(_deviation(where, std, rows["std"].to_numpy()))
    checks += [_one_way(" ".join(measure), np.array(of)) for measure, of in differences.items()]
    return as_checks(frame, checks)


def _printed(frame: pd.DataFrame, column: str) -> dict[tuple, pd.Series]:
    """By setting, the artifacts that print a mean row, by what they print."""
    means = frame[(frame["category"] == "mean") & frame[column].notna()]
    found = means.groupby([*SETTING, column], sort=False)["artifact"].agg(", ".join)
    return {setting: own.droplevel(SETTING) for setting, own in found.groupby(level=SETTING)}


def _deviation(where: str, printed: float, deviations: np.ndarray) -> Check:
    """Whether a mean's ± is the mean of its classes' deviations; that of the mean itself would be smaller."""
    of_mean = math.sqrt(sum(deviations**2)) / len(deviations)
    check = equal_numbers(where, printed, deviations.mean(), 2 * HALF_UNIT, "deviation")
    return check | {"explanation": f"the ± of the mean itself is {of_mean:.1f}, if classes are independent"}


def _one_way(measure: str, differences: np.ndarray) -> Check:
    """Rounding moves class means up as often as down."""
    from scipy.stats import binomtest  # here: it takes as long as pandas

    below, above_it = int((differences < 0).sum()), int((differences > 0).sum())
    by_chance = binomtest(below, below + above_it).pvalue if below + above_it else 1.0
    found = f"{below} below, {above_it} above, {differences.mean():+.2f} on average"
    explanation = f"as uneven by chance in one of {1 / by_chance:,.0f} cases"
    check = same_words(f"class means of {measure}", "as many below as above", found, "one way", explanation)
    return check | {"agrees": by_chance >= 0.001}


def repeated_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """For each class-wise table, the columns with the values and deviations of an earlier one."""
    classes = frame[frame["category"] != "mean"].sort_values("category", kind="stable")
    checks = []
    for artifact, table in classes.groupby("artifact", sort=False):
        first, repeated = {}, []
        for setting, rows in table.groupby(SETTING, sort=False):
            numbers = rows[["category", "mean", "std"]].to_csv(index=False)
            if (name := first.setdefault(numbers, setting_name(setting))) != setting_name(setting):
                repeated.append(f"{setting_name(setting)} as {name}")
        checks.append(same_words(artifact, "none", "; ".join(repeated) or "none", "repeated column"))
    return as_checks(frame, checks)


def _missing(where: str, missing: list[str], mean: float, values: pd.Series) -> Check:
    """The values that a printed mean implies for classes without a row, within rounding."""
    n = len(values) + len(missing)
    left = (n * mean - values.sum()) / len(missing)
    margin = (n + len(values)) * HALF_UNIT / len(missing)
    computed = f"{max(left - margin, 0):.1f} to {min(left + margin, 100):.1f}"
    what = f"no value for {', '.join(missing)} in the text at hand"
    explanation = f"{what}; the printed mean, {mean}, leaves this"
    return same_words(where, "no row", computed, "missing rows", explanation)


def quoted(frame: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Rows that a paper quotes from the WinCLIP paper against that paper's own, where it has them."""
    keys = [*SETTING, "category"]
    rows = frame[frame["method"].isin(methods)]
    few_shot = (rows["method"] == "winclip") & (rows["shots"] > 0)
    renamed = rows.assign(
        method=rows["method"].mask(few_shot, "winclip_plus"),
        variant=rows["variant"].replace({"object_known": "", "object_known;multi_crop=0": "prompt_ens"}),
        metric=rows["metric"].replace({"ap": "aupr", "pro200": "pro"}),
    )
    own = load_published("winclip").drop_duplicates(keys)  # numbers in several tables are equal
    checks = []
    for row in renamed.merge(own, on=keys, suffixes=("", "_own")).to_dict("records"):
        name = f"{row['category']}, {setting_name(tuple(row[key] for key in SETTING))}"
        where = f"{row['artifact']} against WinCLIP's {row['artifact_own']}: {name}"
        checks.append(equal_numbers(where, row["mean"], row["mean_own"], 0, "quoted"))
    return as_checks(frame, checks)
