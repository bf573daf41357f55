"""Two runs are compared number by number, and only where they are the same experiment."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from zsad_papers.common import verify
from zsad_papers.common.results import COLUMNS, rows, write_results

FACTS = {
    "model": "zsad-mini",
    "weights_sha256": "ab" * 32,
    "datasets": {"toys": "cd"},
    "parameters": {"seeds": 2, "device": "auto", "profile": "mini"},
    "precision": "fp32",
    "seed": 0,
    "commit": "0123",
    "versions": {"torch": "2.14.1"},
    "device": "cpu",
}


def call(*arguments) -> int:
    """The command's exit code; what it prints is seen as of any program."""
    with pytest.raises(SystemExit) as exit:
        verify.main([str(argument) for argument in arguments], prog_name="zsad verify")
    return exit.value.code


def some_rows(aurocs=(0.9, 0.8), spearman=0.5) -> pd.DataFrame:
    names = {"paper": "rwda", "artifact": "T1", "dataset": "toys", "method": "rwda"}
    table = pd.DataFrame({"category": ["a", "b"], "auroc": aurocs})
    rank = rows(pd.DataFrame([{"spearman": spearman}]), **names)
    return pd.concat([rows(table, **names), rank], ignore_index=True)


@pytest.fixture
def run(tmp_path):
    """run(name, frame, **facts): a results folder with one result file."""

    def make(name: str, frame: pd.DataFrame, file: str = "one", **facts):
        folder = tmp_path / name
        write_results(frame, folder / f"{file}.csv")
        (folder / f"{file}.json").write_text(json.dumps(FACTS | facts))
        return folder

    return make


@pytest.mark.parametrize(
    ("first", "spearman", "std", "options", "code"),
    [  # 0.1 points, 1 % of other numbers, or half of the standard deviation
        (0.9, 0.5, None, ["--exact"], 0),
        (0.90001, 0.5, None, ["--exact"], 1),
        (0.9009, 0.504, None, [], 0),
        (0.9011, 0.5, None, [], 1),
        (0.9, 0.506, None, [], 1),
        (0.909, 0.5, 2, [], 0),
        (0.911, 0.5, 2, [], 1),
        (0.9005, 0.5, None, ["--points", "0.04"], 1),
        (0.9, 0.505, None, ["--relative", "0.009"], 1),
        (0.909, 0.5, 2, ["--spread", "0.4"], 1),
    ],
)
def test_tolerances(run, first, spearman, std, options, code):
    pair = (frame.assign(std=std) for frame in (some_rows(), some_rows((first, 0.8), spearman)))
    assert call(*map(run, "ab", pair), *options) == code


def test_a_tiny_spread_may_double_and_only_what_spreads_may_move():
    pair = [some_rows().query("metric == 'spearman'").assign(std=std)[COLUMNS] for std in (1e-6, 2e-6)]
    assert verify.compare_rows(*pair, 0.1, 0.01, 0.5)["problem"].tolist() == [""]
    pair = [some_rows((first, 0.8)).assign(std=[4.0, 0, 0, 0])[COLUMNS] for first in (0.9, 0.91)]
    table = verify.compare_rows(*pair, 0.1, 0.01, 0.5).set_index(["metric", "category"])
    assert table["problem"]["auroc", "a"] == "" and table["by_spread"]["auroc", "a"]
    assert table["problem"]["auroc", "mean"] == "differs"  # it moves by half a point and has no spread
    np.testing.assert_allclose(table["difference"]["auroc", "a"], 1, atol=1e-9)


def test_missing_rows_and_undefined_numbers_are_named(run, capsys):
    whole = some_rows()  # categories a and b, their mean, and another metric
    undefined = whole.assign(mean=whole["mean"].where(whole["category"] != "b"))
    parts = whole.iloc[:-1], undefined.iloc[1:]  # without the last one, without category a
    found = verify.compare_rows(*parts, 0.1, 0.01, 0.5).set_index(["metric", "category"])["problem"].to_dict()
    assert found == {
        ("auroc", "a"): "only in A",
        ("auroc", "b"): "undefined in one",
        ("auroc", "mean"): "",
        ("spearman", "mean"): "only in B",
    }
    assert call(*(run(name, part) for name, part in zip("ab", parts))) == 1
    assert "auroc: undefined in one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"weights_sha256": "ef" * 32}, 1),
        ({"datasets": {"toys": "ce"}}, 1),
        ({"parameters": {"seeds": 3}}, 1),
        ({"precision": "bf16"}, 1),
        ({"seed": 1}, 1),
        ({"commit": "4567"}, 0),
        ({"versions": {"torch": "2.9.1"}}, 0),
        ({"device": "cuda:0"}, 0),
        ({"parameters": {"seeds": 2, "device": "cuda", "profile": "mine"}}, 0),
    ],
)
def test_another_experiment_is_no_agreement_and_another_machine_no_fault(run, capsys, other, code):
    assert call(run("a", some_rows()), run("b", some_rows(), **other)) == code
    fact = next(iter(other))
    said = capsys.readouterr().out
    assert f"one.csv: {fact}" in said if code else fact == "parameters" or f"fault: {fact}" in said


def test_what_cannot_be_compared_has_its_own_exit_code(run, tmp_path, capsys):
    a = run("a", some_rows())
    bad, lacking, cut = (run(name, some_rows()) for name in ("bad", "lacking", "cut"))
    (tmp_path / "empty").mkdir()
    (bad / "one.json").write_text("{")
    (lacking / "one.json").unlink()
    (cut / "one.csv").write_text("paper,arti")
    for name, message in (
        ("nowhere", "does not exist"),
        ("empty", "holds no result file"),
        ("bad", "cut off or damaged"),
        ("lacking", "without its provenance"),
        ("cut", "cut off in its last line"),
    ):
        assert call(a, tmp_path / name) == 2, name
        said = capsys.readouterr()
        assert message in said.err and not said.out
