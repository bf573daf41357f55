"""Who re-ran the papers: public numbers of others, as data. `CONTRIBUTING.md` explains the two tables."""

from collections.abc import Iterator
from functools import cache

import pandas as pd

from zsad_papers import all_papers
from zsad_papers.common.results import COLUMNS, KEYS, Fault, load_published, read_table, refuse, validate

NUMBERS = ["run", *(column for column in COLUMNS if column != "artifact"), "printed"]
RUNS = ["run", "by", "kind", "code", "weights", "settings", "source", "date", "seen"]
RERUNS = ("re-run", "re-run in a paper")
KINDS = (*RERUNS, "author log", "quotation")
SEEN = ("source", "second-hand", "derived")
OTHER_DATASETS = ("ksdd2",)  # no paper of the book has numbers for it
CELL = [column for column in KEYS if column not in ("paper", "artifact")]
ROUNDED = 0.1  # a mean and its classes, each with one decimal


@cache
def reexecutions() -> pd.DataFrame:
    """All numbers beside their runs, checked; `artifact` is the run, `printed` what the paper has."""
    return checked(*(read_table("common", f"{name}.csv") for name in ("reexecutions", "reexecution_runs")))


def checked(numbers: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The two tables, read as text, in one frame. Raises ValueError with file, line and expectation."""
    file, file_of_runs = "reexecutions.csv", "reexecution_runs.csv"
    for name, table, columns in ((file, numbers, NUMBERS), (file_of_runs, runs, RUNS)):
        if list(table) != columns:
            raise ValueError(f"{name} has the columns {list(table)}; expected {columns}")
    refuse(file_of_runs, runs, _faults_of_runs(runs, numbers["run"]))
    refuse(file, numbers, [("run", ~numbers["run"].isin(runs["run"]), f"a run of {file_of_runs}")])
    frame = numbers.assign(artifact=numbers["run"], std=numbers["std"].replace("", None))
    frame = validate(frame[COLUMNS], source=file, undefined=False)
    frame = frame.assign(run=numbers["run"], printed=pd.to_numeric(numbers["printed"], errors="coerce"))
    refuse(file, frame, _faults(frame))
    return frame.merge(runs, on="run", how="left")


def _faults_of_runs(runs: pd.DataFrame, used: pd.Series) -> Iterator[Fault]:
    yield "run", runs["run"].duplicated() | ~runs["run"].isin(used), "each run once, and with numbers"
    yield "kind", ~runs["kind"].isin(KINDS), f"one of {KINDS}"
    yield "seen", ~runs["seen"].isin(SEEN), f"one of {SEEN}"
    for column in ("by", "code", "weights", "settings", "source"):
        yield column, runs[column] == "", "words, 'not stated' where the source does not say"


def _faults(frame: pd.DataFrame) -> Iterator[Fault]:
    published = pd.concat([load_published(paper) for paper in all_papers()])
    for column, more in (("paper", ()), ("dataset", OTHER_DATASETS), ("method", ())):
        known = sorted({*published[column], *more} - {""})
        yield column, ~frame[column].isin(known), f"one of {known}"
    classes = published.query("category != 'mean'").groupby("dataset")["category"].agg(set)
    known = [{"mean"} | classes.get(name, set()) for name in frame["dataset"]]
    strange = [category not in names for category, names in zip(frame["category"], known)]
    yield "category", pd.Series(strange), "'mean', or a category that a paper has numbers for"
    prints, keys = published.groupby(["paper", *CELL])["mean"].first().rename("own"), ["paper", *CELL]
    own = frame.join(prints, on=keys)["own"].fillna(frame.assign(variant="").join(prints, on=keys)["own"])
    yield "printed", own.fillna(-1) != frame["printed"].fillna(-1), "what the paper prints, empty if nothing"
    by = ["run", *(key for key in CELL if key != "category")]
    means = frame.query("category != 'mean'").groupby(by)["mean"].agg(["mean", "size"])
    whole = means["size"] == [len(classes[key[by.index("dataset")]]) for key in means.index]
    of_classes = frame.join(means.loc[whole, "mean"].rename("of_classes"), on=by)["of_classes"]
    off = (of_classes - frame["mean"]).abs() > ROUNDED
    yield "mean", off & (frame["category"] == "mean"), "the mean of the run's classes, up to rounding"
