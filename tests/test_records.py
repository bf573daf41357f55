"""Result files and their provenance."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from zsad_core.encoders import load_encoder
from zsad_core.fnn import FNN
from zsad_core.image_features import TileFeatures
from zsad_papers.common import costs
from zsad_papers.common.costs import latencies, multiply_accumulates, parameters, tower_of
from zsad_papers.common.provenance import read_records, write_record, write_times
from zsad_papers.common.results import rows
from zsad_papers.common.settings import read_settings
from zsad_papers.rwda.costs import cost_rows


@pytest.fixture
def settings(tmp_path):
    return read_settings({"results_dir": str(tmp_path / "results"), "seeds": 2})


def some_rows(value=0.9, artifact="T1"):
    return rows(
        pd.DataFrame({"category": ["a"], "auroc": [value]}),
        paper="rwda",
        artifact=artifact,
        dataset="toys",
        method="rwda",
    )


def test_record_is_written_twice_with_the_same_bytes(settings, tmp_path):
    part = TileFeatures(pd.DataFrame(), *np.empty((3, 0), int), {}, "toys", "abc")
    folder, seen = tmp_path / "results", []
    for _ in range(2):
        write_record("one", some_rows(), settings, None, [part])
        seen.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert seen[0] == seen[1] and sorted(seen[0]) == ["one.csv", "one.json"]
    facts = json.loads(seen[0]["one.json"])
    assert facts["datasets"] == {"toys": "abc"} and facts["parameters"]["seeds"] == 2
    assert set(json.loads((folder / "times" / "one.json").read_text())) == {"started", "seconds", "machine"}


def test_records_are_read_together(settings):
    assert read_records(settings) is None
    write_record("one", some_rows(), settings)
    write_times("two", some_rows(artifact="T3"), settings)
    assert set(read_records(settings)["artifact"]) == {"T1", "T3"}


def test_costs_count_the_real_tower():
    encoder = load_encoder("zsad-mini", "random")
    assert parameters(tower_of(encoder)) == sum(p.numel() for p in encoder.model.visual.parameters())
    table = cost_rows(encoder, FNN(encoder.dim), repeats=1).pivot(
        index="method", columns="metric", values="mean"
    )
    added = table.loc["rwda", "params_M"] - table.loc["clip", "params_M"]
    assert added == pytest.approx(sum(p.numel() for p in FNN(encoder.dim).parameters()) / 1e6)
    macs = {"clip": multiply_accumulates(tower_of(encoder)), "rwda": encoder.dim * 256 + 2 * 256**2 + 256}
    views = 6e-9  # six of an image, in billions
    assert table.loc["clip", "macs_G"] == pytest.approx(views * macs["clip"])
    assert table.loc["clip_rwda", "macs_G"] == pytest.approx(views * sum(macs.values()), rel=1e-9)
    assert (table["latency_ms"] > 0).all()


def test_latencies_are_taken_in_turn():
    order = []
    measured = latencies({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert "".join(order) == "ab" * 4 and set(measured) == {"a", "b"}


def test_a_latency_is_the_median_without_the_first(monkeypatch):
    clock = iter([0, 10, 11, 20, 22, 30, 36])  # the first run has no end
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert latencies({"a": lambda: None}, repeats=3) == {"a": 2000.0}  # of 1, 2 and 6 seconds
