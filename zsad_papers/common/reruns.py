"""What the re-runs of others say about the claims, and the causes that people found."""

import math

import pandas as pd

from zsad_papers.common.claims import UNDECIDED, Cells, Numbers, cells_of, judge, load_tests
from zsad_papers.common.reexecutions import RERUNS, reexecutions
from zsad_papers.common.results import KEYS, load_published, read_table


def verdicts(paper: str) -> pd.DataFrame:
    """The claims of a paper that re-runs can decide, of those seen in their source: id, by, verdict, alone.
    alone: False where printed numbers stand for methods that the re-run lacks."""
    tests, options = load_tests(paper)
    rows, runs, found = load_published(paper), reexecutions(), []
    published = cells_of(rows)
    for by, own in runs[runs["kind"].isin(RERUNS) & (runs["seen"] == "source")].groupby("by"):
        cells = _named_as_in(published, own)
        methods = {key[2].removesuffix("_plus") for key in cells}  # WinCLIP and WinCLIP+ are one
        others = {key: v for key, v in published.items() if key[2].removesuffix("_plus") not in methods}
        absent = {key: {by: (math.nan, math.nan)} for key in cells}
        for claim, test in tests.items():
            sides = (cells, others | cells, others | absent)
            alone, beside, without = (judge(Numbers(rows, side, options), test).verdict for side in sides)
            if beside != UNDECIDED and without == UNDECIDED:
                found.append((claim, by, beside, alone != UNDECIDED))
    return pd.DataFrame(found, columns=["id", "by", "verdict", "alone"]).astype({"alone": bool})


def _named_as_in(published: Cells, rows: pd.DataFrame) -> Cells:
    """The cells of a run under the names that a paper has for them."""
    metrics, cells = {key[0] for key in published}, {}
    same = dict.fromkeys(("ap", "aupr"), "ap" if "ap" in metrics else "aupr")
    same |= dict.fromkeys(("pro", "pro200"), "pro200" if "pro200" in metrics else "pro")
    for (metric, task, method, variant, *rest), values in cells_of(rows).items():
        names = [(method, variant)]
        if method.startswith("winclip") and not variant:  # RWDA's names
            names += [("winclip", ""), ("winclip", "object_known")]
        keys = [(same.get(metric, metric), task, *name, *rest) for name in names]
        cells[next((key for key in keys if key in published), keys[0])] = values
    return cells


def tally(paper: str) -> pd.Series:
    """In how many re-runs each claim holds, by id: '3 of 3 alone', '4 of 5 beside print', '-' for none."""
    table = verdicts(paper)
    how = table["alone"].map({True: " alone", False: " beside print"})
    holds = (table["verdict"] == "holds").groupby([table["id"], how])
    texts = holds.sum().astype(str) + " of " + holds.size().astype(str)
    texts = (texts + texts.index.get_level_values("alone")).groupby("id").agg(", ".join)
    return texts.reindex(read_table(paper, "claims.csv")["id"]).fillna("-").rename("re-runs")


def effects(measured: pd.DataFrame) -> pd.DataFrame:
    """The rows of `reexecution_causes.csv`, with the difference of two settings in a run of others, `there`,
    and one in this book's results (under published dataset names) that shows the same, `here`, or NaN."""
    rows = reexecutions().assign(paper=lambda frame: frame["run"])
    printed = rows.dropna(subset="printed").assign(mean=rows["printed"], variant="printed")
    public = pd.concat([rows, printed]).drop_duplicates(KEYS)
    causes = read_table("common", "reexecution_causes.csv")
    for side, frame, prefix in (("there", public, ""), ("here", measured, "own_")):
        names = [prefix + name for name in ("run", "settings", "dataset", "measure")]
        for at, (own, settings, *cell) in causes[names].iterrows():
            numbers = Numbers(frame, cells_of(frame[frame["paper"] == own]))
            causes.loc[at, side] = numbers.value(settings, *cell) if settings else math.nan
    return causes
