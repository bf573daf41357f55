import json

import numpy as np
import pandas as pd
import pytest

from zsad_papers.common import verify
from zsad_papers.common.results import rows, write_results

FACTS = {"model": "zsad-mini", "weights_sha256": "ab" * 32, "datasets": {"toys": "cd"}, "precision": "fp32"}
FACTS |= {"parameters": {"seeds": 2, "device": "auto", "profile": "mini"}, "seed": 0, "commit": "0123"}
FACTS |= {"versions": {"torch": "2.14.1"}, "device": "cpu"}


def call(*arguments):
    """The command's exit code; what it prints is seen as of any program."""
    with pytest.raises(SystemExit) as exit:
        verify.main([str(argument) for argument in arguments], prog_name="zsad verify")
    return exit.value.code


def some_rows(aurocs=(0.9, 0.8), spearman=0.5):
    names = {"paper": "rwda", "artifact": "T1", "dataset": "toys", "method": "rwda"}
    tables = pd.DataFrame({"category": ["a", "b"], "auroc": aurocs}), pd.DataFrame([{"spearman": spearman}])
    return pd.concat([rows(table, **names) for table in tables], ignore_index=True)


@pytest.fixture
def run(tmp_path):
    """run(name, frame, **facts): a results folder with one result file."""

    def make(name, frame, file="one", **facts):
        folder = tmp_path / name
        write_results(frame, folder / f"{file}.csv")
        (folder / f"{file}.json").write_text(json.dumps(FACTS | facts))
        return folder

    return make


def test_the_same_run_agrees_exactly(run, capsys):
    a, b = run("a", some_rows()), run("b", some_rows())
    assert call(a, b, "--exact") == 0
    assert capsys.readouterr().out == "AGREE: 4 of 4 numbers agree exactly, 0 settings differ\n"
    other = run("other", some_rows((0.9, 0.8 + 1e-9)))
    assert call(a, other) == 0 and call(a, other, "--exact") == 1


@pytest.mark.parametrize(
    ("method", "first", "spearman", "std", "code"),
    [
        ("winclip", 0.9004, 0.504, None, 0),  # 0.05 points, 1 % of other numbers
        ("winclip", 0.9006, 0.5, None, 1),
        ("winclip", 0.9, 0.506, None, 1),
        ("winclip_plus", 0.9006, 0.5, 2, 1),  # seeds that only draw references
        ("rwda", 0.909, 0.5, 2, 0),  # half a standard deviation over seeds that learn
        ("rwda", 0.911, 0.5, 2, 1),
        ("coop", 0.949, 0.5, 2, 0),
        ("coop", 0.951, 0.5, 2, 1),
        ("coop", 0.962, 0.5, None, 0),  # a single training
        ("coop", 0.964, 0.5, None, 1),
    ],
)
def test_how_far_numbers_may_be_apart(run, capsys, method, first, spearman, std, code):
    frames = some_rows(), some_rows((first, 0.8), spearman)
    frames = (frame.assign(method=method, task="pixel", std=std) for frame in frames)
    assert call(*map(run, "ab", frames)) == code
    assert capsys.readouterr().out.startswith("DIFFER" if code else "AGREE")


@pytest.mark.parametrize(("task", "problems"), [("image", ["differs", "", ""]), ("pixel", ["differs"] * 3)])
def test_two_images_may_change_places(task, problems):
    a = some_rows().query("metric == 'auroc'").assign(method="clip", task=task)
    table = verify.compare_rows(a, a.assign(mean=a["mean"] + [0.16, 0.14, 0.14]))
    assert table["problem"].tolist() == problems


def test_a_single_training_may_differ_as_similar_ones_with_seeds_do():
    a = some_rows().query("metric == 'auroc'").assign(method="coop", variant="seeds", std=[0.1, 3.0, 0.2])
    single = a.assign(variant="single", std=np.nan)
    other = single.assign(mean=single["mean"] + 1)
    table = verify.compare_rows(pd.concat([a, single]), pd.concat([a, other]))
    allowed = table.set_index(["category", "variant"])["allowed"]
    assert allowed["a", "single"] == pytest.approx(0.42) and allowed["b", "single"] == pytest.approx(12.6)
    assert table["problem"].tolist().count("differs") == 2


@pytest.mark.parametrize(("method", "far", "code"), [("coop", 1, 0), ("coop", 3, 1), ("clip", 1, 1)])
def test_one_training_in_twenty_may_fail_on_one_machine(run, capsys, method, far, code):
    categories = [f"c{i}" for i in range(30)]
    pair = []
    for lost in (0, far):
        values = [0.5 if i < lost else 0.9 for i in range(30)]
        table = pd.DataFrame({"category": categories, "auroc": values})
        frame = rows(table, paper="rwda", artifact="T1", dataset="toys", method=method)
        pair.append(run(f"{method}{lost}", frame[frame["category"] != "mean"]))
    assert call(*pair) == code and call(*pair, "--exact") == 1
    assert f"{30 - far} of 30" in capsys.readouterr().out


def test_missing_rows_and_undefined_numbers_are_named(run, capsys):
    whole = some_rows()  # categories a and b, their mean, and another metric
    undefined = whole.assign(mean=whole["mean"].where(whole["category"] != "b"))
    parts = whole.iloc[:-1], undefined.iloc[1:]  # without the last one, without category a
    found = verify.compare_rows(*parts).set_index(["metric", "category"])["problem"].to_dict()
    expected = {("auroc", "a"): "only in A", ("auroc", "b"): "undefined in one", ("auroc", "mean"): ""}
    assert found == expected | {("spearman", "mean"): "only in B"}
    assert call(*(run(name, part) for name, part in zip("ab", parts))) == 1
    assert "auroc: undefined in one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"weights_sha256": "ef" * 32}, 1),
        ({"datasets": {"toys": "ce"}}, 1),
        ({"parameters": {"seeds": 3}}, 1),
        ({"precision": "bf16"}, 1),
        ({"versions": {"torch": "2.9.1"}}, 0),
        ({"parameters": {"seeds": 2, "device": "cuda", "profile": "mine"}}, 0),
    ],
)
def test_another_experiment_is_no_agreement_and_another_machine_no_fault(run, capsys, other, code):
    assert call(run("a", some_rows()), run("b", some_rows(), **other)) == code
    fact, said = next(iter(other)), capsys.readouterr().out
    assert said.startswith("DIFFER: 4 of 4" if code else "AGREE: 4 of 4")
    line = f"{'not the same experiment' if code else 'differs without fault'}: {fact}"
    assert line in said or (fact, code) == ("parameters", 0)


def test_what_cannot_be_compared_has_its_own_exit_code(run, tmp_path, capsys):
    a = run("a", some_rows())
    bad, lacking = (run(name, some_rows()) for name in ("bad", "lacking"))
    (bad / "one.json").write_text("{")
    (lacking / "one.json").unlink()
    says = {"nowhere": "does not exist", "bad": "cut off or damaged", "lacking": "without its provenance"}
    for name, message in says.items():
        assert call(a, tmp_path / name) == 2, name
        said = capsys.readouterr()
        assert message in said.err and not said.out
