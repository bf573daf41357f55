import json
import subprocess
from types import SimpleNamespace

import pandas as pd
import pytest

from profiles.record import commit
from zsad_core.encoders import load_encoder
from zsad_core.fnn import FNN
from zsad_papers import all_papers
from zsad_papers.common import costs, provenance
from zsad_papers.common.costs import latencies, multiply_accumulates, parameters, tower_of
from zsad_papers.common.provenance import read_records, write_record
from zsad_papers.common.results import rows, write_results
from zsad_papers.common.settings import read_settings
from zsad_papers.rwda.costs import cost_rows


def encoder_called(model_id, weights_id="x"):
    own = {"weights_sha256": "0123" * 16, "device": "cpu", "precision": "fp32"}
    facts = {"model_id": model_id, "weights_id": weights_id, **own}
    return SimpleNamespace(facts=facts, **facts)


ENCODER = encoder_called("zsad-mini", "shipped@0123")
NO_REPRODUCTION = "no number measured here reproduces a published one"


def test_run_line_names_everything_and_the_difference():
    settings, rwda = read_settings({"seeds": 2, "seed": 5}), all_papers()["rwda"]
    line = provenance.run_line(settings, ENCODER, ["mini_mvtec"], rwda)
    for part in ("seed = 5, seeds = 2", "weights shipped@0123", "mini_mvtec (stand-in for mvtec)"):
        assert part in line
    assert "seeds 5 to 6" in line and NO_REPRODUCTION in line and "textile" not in line
    paper = read_settings({"profile": "paper"})
    line = provenance.run_line(paper, encoder_called("ViT-B-16-plus-240"), paper=rwda)
    assert NO_REPRODUCTION not in line and "those that the paper names" in line
    other = read_settings({"profile": "paper", "datasets": {"mvtec": "mini_mvtec"}, "limit_images": 3})
    line = provenance.run_line(other, ENCODER)
    assert NO_REPRODUCTION in line and "at most 3 a category" in line


def test_commit_tells_of_changes(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert commit(tmp_path) == "unknown"
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    clean = commit(tmp_path)
    (tmp_path / "a").write_text("2")
    git("add", "a")
    assert len(clean) == 12 and commit(tmp_path) == clean + "+changes"
    (tmp_path / "inner").mkdir()
    assert commit(tmp_path / "inner") == "unknown"  # another project's repository around this copy


def some_rows(artifact="T1"):
    frame = pd.DataFrame({"category": ["a"], "auroc": [0.9]})
    return rows(frame, paper="rwda", artifact=artifact, dataset="toys", method="rwda")


def test_records_are_written_with_the_same_bytes_and_read_together(tmp_path):
    folder, seen = tmp_path / "results", []
    settings = read_settings({"results_dir": str(folder), "seeds": 2})
    assert read_records(settings) is None
    part = SimpleNamespace(name="toys", fingerprint="abc")
    for _ in range(2):
        write_record("one", some_rows(), settings, None, [part])
        seen.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert seen[0] == seen[1] and sorted(seen[0]) == ["one.csv", "one.json"]
    facts = json.loads(seen[0]["one.json"])
    assert facts["datasets"] == {"toys": "abc"} and facts["parameters"]["seeds"] == 2
    assert set(json.loads((folder / "times" / "one.json").read_text())) == {"started", "seconds", "machine"}
    write_results(some_rows("T3"), folder / "times" / "two.csv")
    assert set(read_records(settings)["artifact"]) == {"T1", "T3"}


def test_costs_count_the_real_tower():
    encoder = load_encoder("zsad-mini", "random")
    assert parameters(tower_of(encoder)) == sum(p.numel() for p in encoder.model.visual.parameters())
    found = cost_rows(encoder, FNN(encoder.dim), repeats=1)
    table = found[found["variant"] != ""].pivot(index="method", columns="metric", values="mean")
    added = table.loc["rwda", "params_M"] - table.loc["clip", "params_M"]
    assert added == pytest.approx(sum(p.numel() for p in FNN(encoder.dim).parameters()) / 1e6)
    macs = {"clip": multiply_accumulates(tower_of(encoder)), "rwda": encoder.dim * 256 + 2 * 256**2 + 256}
    views = 6e-9  # six of an image, in billions
    assert table.loc["clip", "macs_G"] == pytest.approx(views * macs["clip"])
    assert table.loc["clip_rwda", "macs_G"] == pytest.approx(views * sum(macs.values()), rel=1e-9)
    assert (found.query("metric == 'latency_ms'")["mean"] > 0).all()


def test_latencies_are_taken_in_turn_and_are_the_median_without_the_first(monkeypatch):
    order = []
    measured = latencies({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert "".join(order) == "ab" * 4 and set(measured) == {"a", "b"}
    clock = iter([0, 10, 11, 20, 22, 30, 36])  # the first run has no end
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert latencies({"a": lambda: None}, repeats=3) == {"a": 2000.0}  # of 1, 2 and 6 seconds
