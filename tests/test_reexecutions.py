"""Public re-runs: the tables are checked on load, and claims count on those that may count."""

import re

import pandas as pd
import pytest
from conftest import ROOT

from zsad_papers.common import reruns
from zsad_papers.common.claims import load_claims
from zsad_papers.common.reexecutions import RERUNS, checked, reexecutions

NAMES = ("reexecutions", "reexecution_runs")


def tables():
    return [load_claims("common", f"{name}.csv") for name in NAMES]


def test_quotations_logs_and_second_hand_numbers_are_marked():
    found = reexecutions()
    copied = found[~found["kind"].isin(RERUNS)].groupby("run")["kind"].agg(["first", "size"])
    assert copied.loc["anomalyclip_log"].tolist() == ["author log", 89]
    assert copied.query("first == 'quotation'")["size"].to_dict() == {"musc": 32, "visualad_quoted": 6}
    far = {"anople", "faprompt", "fastref", "tuk_normalisation", "vlm_bench_classes"}
    assert far <= set(found["run"][found["seen"] != "source"])


@pytest.mark.parametrize(
    ("table", "column", "at", "value", "error"),
    [
        (0, "mean", 0, "193.6", "line 2: mean is '193.6'; expected a value in the metric's range"),
        (0, "printed", 0, "95.3", "line 2: printed is 95.3; expected what the paper prints"),
        (0, "printed", 0, "", "line 2: printed is nan; expected what the paper prints"),
        (0, "dataset", 0, "mvtek", "dataset is 'mvtek'; expected one of"),
        (0, "category", 0, "screws", "category is 'screws'; expected 'mean', or"),
        (0, "method", 0, "winclp", "method is 'winclp'; expected one of"),
        (0, "run", 0, "nobody", "run is 'nobody'; expected a run of reexecution_runs.csv"),
        (1, "kind", 2, "rerun", r"reexecution_runs.csv, line 4: kind is 'rerun'; expected one of"),
        (1, "seen", 2, "", "seen is ''; expected one of"),
        (1, "weights", 2, "", "weights is ''; expected words"),
        (1, "run", 1, "accurate_winclip", "expected each run once, and with numbers"),
    ],
)
def test_a_wrong_row_is_refused(table, column, at, value, error):
    both = tables()
    both[table].loc[at, column] = value
    with pytest.raises(ValueError, match=error):
        checked(*both)


def test_class_rows_average_to_their_mean_and_no_row_is_there_twice():
    numbers, runs = tables()
    cell = numbers.query("run == 'tuk_anomalyclip' and dataset == 'visa' and metric == 'pro'")
    off = numbers.assign(mean=numbers["mean"].mask(numbers.index == cell.index[0], "83.0"))
    with pytest.raises(ValueError, match="mean is 83.0; expected the mean of the run's classes"):
        checked(off, runs)
    checked(off.drop(cell.index[-1]).reset_index(drop=True), runs)  # a class is missing: nothing to compare
    with pytest.raises(ValueError, match="repeats an earlier one"):
        checked(pd.concat([numbers, numbers.iloc[:1]], ignore_index=True), runs)


def test_the_form_in_contributing_is_a_valid_addition():
    blocks = re.findall(r"```csv\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    added = [[line.split(",") for line in block.splitlines()] for block in blocks]
    both = [
        pd.concat([table, pd.DataFrame(rows, columns=head)], ignore_index=True)
        for table, (head, *rows) in zip(tables(), reversed(added), strict=True)
    ]
    assert checked(*both)["by"].iloc[-1] == "Jane"


def test_claims_count_re_runs_seen_in_their_source(monkeypatch):
    rows = reexecutions()
    assert reruns.tally("winclip").loc["winclip-c12"].tolist() == ["3 of 3", "-"]
    assert reruns.tally("winclip").loc["winclip-c11"].tolist() == ["-", "0 of 5"]
    high = (rows["by"] == "TUK") & (rows["method"] == "winclip") & (rows["task"] == "image")
    for changed, expected in (
        (rows.assign(mean=rows["mean"].mask(high, 99.0)), "2 of 3"),
        (rows.assign(kind=rows["kind"].mask(rows["by"] == "TUK", "quotation")), "2 of 2"),
        (rows.assign(seen=rows["seen"].mask(rows["by"] == "TUK", "second-hand")), "2 of 2"),
        (rows[~high], "2 of 2"),
    ):
        monkeypatch.setattr(reruns, "reexecutions", lambda changed=changed: changed)
        assert reruns.tally("winclip").loc["winclip-c12", "alone"] == expected


def test_a_cause_is_a_difference_of_two_settings():
    keys = {
        "artifact": "open",
        "dataset": "visa",
        "category": "mean",
        "task": "pixel",
        "shots": 0,
        "std": None,
    }
    own = [{"variant": "whole=squash", "mean": 75.0}, {"variant": "", "mean": 77.5}]
    frame = pd.DataFrame(
        [keys | row | {"paper": "winclip", "method": "winclip", "metric": "auroc"} for row in own]
    )
    found = reruns.effects(frame).set_index("cause")[["there", "here"]]
    assert found.loc["mask squashed to a square, image cropped"].tolist() == pytest.approx([-6.12, -2.5])
    assert found.loc["weights of epoch 31", "there"] == pytest.approx(-2.6)
    assert found["here"].notna().sum() == 1
