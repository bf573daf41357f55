import numpy as np
import pytest
import torch
from helpers import refused, written
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from zsad_papers.common.costs import paper_tower, window_sequences
from zsad_papers.common.results import load_published
from zsad_papers.rwda.costs import complexity_table


def test_operations_of_the_papers_model(monkeypatch):
    monkeypatch.setattr(speed, "tower_of", lambda encoder: paper_tower())
    table = speed.operation_table(None, (2, 3)).set_index("what")
    assert table["tokens"].tolist() == [226, 980, 1690, 2896, 2896]
    whole, small, middle, apart, shared = table["multiply-accumulates"]
    block = 12 * 896**2 + 2 * 226 * 896  # for a token: queries to MLP, and two products of attention
    by_hand = 12 * 226 * block + 225 * 768 * 896 + 896 * 640
    assert whole == pytest.approx(by_hand / 1e9) and whole + small + middle == pytest.approx(apart)
    np.testing.assert_allclose(table["share"], table["multiply-accumulates"] / apart)
    assert 0.9 < shared / apart < 1 and table["share"].iloc[3] == 1
    refused("window sizes .16,. on a grid of .15, 15.", window_sequences, paper_tower(), (16,))


@pytest.mark.parametrize("sizes", [(2, 3), (1,)])
def test_one_pass_is_what_the_encoder_runs(encoder, sizes):
    """Patch tokens of the last block are returned, so nothing of the whole image is left out."""
    pixels = torch.randn(1, 3, *encoder.image_size)
    with FlopCounterMode(display=False) as counter:
        encoder.embed_scales(pixels, sizes, layers=(encoder.depth,))
    found = speed.operation_table(encoder, sizes)["multiply-accumulates"].iloc[-1]
    assert 2e9 * found == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_a_benchmark_that_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "repository_root", lambda: tmp_path)
    written(tmp_path / "benchmarks" / "results" / "windows.csv", "precision\nfp32\n")
    # the facts about the machine are missing
    for name in ("windows", "nothing"):
        message = rf"benchmark {name}: run `python -m benchmarks\.{name}`"
        refused(message, speed.read_benchmark, name, error=FileNotFoundError)


def test_table_3_is_reproduced_by_the_profilers_way_of_counting():
    printed = load_published("rwda").query("artifact == 'T3'").set_index(["method", "metric"])["mean"]
    counted = complexity_table().set_index(["method", "metric"])
    assert len(counted) == 8
    clip, rwda = (counted.loc[(method, "macs_G"), "all"] for method in ("clip", "rwda"))
    assert rwda - clip == pytest.approx(6 * (640 * 256 + 2 * 256**2 + 256) / 1e9)  # biases are no products
    for key, row in counted.iterrows():
        digits = 2 if key[1] == "params_M" else 1
        assert round(row["profiler"], digits) == printed[key], key
        assert row["all"] > 1.4 * printed[key], key
