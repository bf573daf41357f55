"""Public re-runs: the tables are checked on load, and claims count on those that may count."""

import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from helpers import refused

from zsad_papers.common import reruns
from zsad_papers.common.reexecutions import checked, reexecutions
from zsad_papers.common.results import read_table

NUMBERS, RUNS = (read_table("common", f"{name}.csv") for name in ("reexecutions", "reexecution_runs"))


WRONG = pd.read_csv(Path(__file__).with_name("reexecutions_wrong.csv"), dtype=str, keep_default_na=False)


@pytest.mark.parametrize(("table", "column", "value", "error"), WRONG.to_numpy())
def test_a_wrong_row_is_refused(table, column, value, error):
    both = {"reexecutions": NUMBERS.copy(), "reexecution_runs": RUNS.copy()}
    both[table].loc[0, column] = value
    refused(error, checked, *both.values())


def test_class_rows_average_to_their_mean_and_no_row_is_there_twice():
    own = NUMBERS.query("run == 'tuk_anomalyclip' and dataset == 'visa' and metric == 'pro200'")  # mean first
    off = NUMBERS.assign(mean=NUMBERS["mean"].mask(NUMBERS.index == own.index[0], "83.0"))
    refused("mean is 83.0; expected the mean of the run's classes", checked, off, RUNS)
    checked(off.drop(own.index[-1]).reset_index(drop=True), RUNS)  # a class is missing: nothing to compare
    twice = pd.concat([NUMBERS, NUMBERS.iloc[:1]], ignore_index=True)
    refused("repeats an earlier one", checked, twice, RUNS)


def test_the_form_in_contributing_is_a_valid_addition():
    blocks = re.findall(r"```csv\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    runs, numbers = ([line.split(",") for line in block.splitlines()] for block in blocks)
    added = [pd.DataFrame(rows, columns=head) for head, *rows in (numbers, runs)]
    both = (pd.concat(pair, ignore_index=True) for pair in zip((NUMBERS, RUNS), added))
    assert checked(*both)["by"].iloc[-1] == "Jane"


def test_claims_count_re_runs_that_were_seen_in_their_source(monkeypatch):
    rows = reexecutions()
    assert reruns.tally("winclip")["winclip-c12"] == "3 of 3 alone"
    assert reruns.tally("winclip")["winclip-c11"] == "0 of 5 beside print"
    tuk = rows["by"] == "TUK"
    high = tuk & (rows["method"] == "winclip") & (rows["task"] == "image")
    for changed, expected in (
        (rows.assign(mean=rows["mean"].mask(high, 99.0)), "2 of 3"),
        (rows.assign(kind=rows["kind"].mask(tuk, "quotation")), "2 of 2"),
        (rows.assign(seen=rows["seen"].mask(tuk, "second-hand")), "2 of 2"),
        (rows[~high], "2 of 2"),
    ):
        monkeypatch.setattr(reruns, "reexecutions", lambda changed=changed: changed)
        assert reruns.tally("winclip")["winclip-c12"] == f"{expected} alone"


def test_a_cause_is_a_difference_of_two_settings():
    names = {"paper": "winclip", "artifact": "open", "method": "winclip", "shots": 0}
    own = NUMBERS.query("run == 'tuk_masks'").assign(**names)
    own = own.assign(variant=["", "whole=squash"], mean=[77.5, 75.0], std=None)
    found = reruns.effects(own).set_index("cause")[["there", "here"]]
    assert found.loc["mask squashed to a square, image cropped"].tolist() == pytest.approx([-6.12, -2.5])
    assert found["here"].notna().sum() == 1
