"""What the page 'Speed' shows: operations that are really done, and records of benchmarks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_papers.common.costs import VisionTower, tower_of


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return load_encoder("zsad-mini", "random", device="cpu")


@pytest.fixture
def papers_tower(monkeypatch) -> VisionTower:
    """ViT-B/16+ at 240 pixels, without its weights."""
    monkeypatch.setattr(speed, "tower_of", lambda encoder: VisionTower())
    return VisionTower()


def test_operations_of_the_papers_model(papers_tower):
    table = speed.operation_table(None, (2, 3)).set_index("what")
    assert table["tokens"].tolist() == [226, 980, 1690, 2896, 2896]
    whole, small, middle, apart, shared = table["multiply-accumulates"]
    assert whole == pytest.approx(27.380584448) and whole + small + middle == pytest.approx(apart)
    np.testing.assert_allclose(table["share"], table["multiply-accumulates"] / apart)
    assert 0.9 < shared / apart < 1 and table["share"].iloc[3] == 1


@pytest.mark.parametrize("sizes", [(2, 3), (1,)])
def test_one_pass_is_what_the_encoder_runs(encoder, sizes):
    """Patch tokens of the last block are returned, so nothing of the whole image is left out."""
    pixels = torch.randn(1, 3, *encoder.image_size)
    with FlopCounterMode(display=False) as counter:
        encoder.embed_scales(pixels, sizes, layers=(tower_of(encoder).layers,))
    found = speed.operation_table(encoder, sizes)["multiply-accumulates"].iloc[-1]
    assert 2e9 * found == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_a_benchmark_that_was_not_run(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"benchmark nothing: run `python -m benchmarks\.nothing`"):
        speed.read_benchmark("nothing")
    monkeypatch.setattr(speed, "repository_root", lambda: tmp_path)
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "windows.csv").write_text("precision\nfp32\n")
    with pytest.raises(FileNotFoundError, match=r"python -m benchmarks\.windows"):
        speed.read_benchmark("windows")  # the facts about the machine are missing
    (folder / "windows.json").write_text(json.dumps({"cpu": "c"}))
    record, machine = speed.read_benchmark("windows")
    pd.testing.assert_frame_equal(record, pd.DataFrame({"precision": ["fp32"]}))
    assert machine == {"cpu": "c"}
