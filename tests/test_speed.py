"""What the page 'Speed' shows: operations that are really done, and records of benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_papers.common.costs import VisionTower, multiply_accumulates, tower_of
from zsad_papers.common.plots import bars


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return load_encoder("zsad-mini", "random", device="cpu")


@pytest.fixture
def papers_tower(monkeypatch: pytest.MonkeyPatch) -> VisionTower:
    """ViT-B/16+ at 240 pixels, without its weights."""
    monkeypatch.setattr(speed, "tower_of", lambda encoder: VisionTower())
    return VisionTower()


def test_operations_of_the_papers_model(papers_tower: VisionTower) -> None:
    table = speed.operation_table(None, (2, 3)).set_index("what")
    assert table["tokens"].tolist() == [226, 980, 1690, 2896, 2896]
    names = [
        "the whole image",
        "196 windows of 2 x 2, each by itself",
        "169 windows of 3 x 3, each by itself",
    ]
    names += ["together, each by itself", "together, in one pass"]
    assert table.index.tolist() == names
    whole, small, middle, apart, shared = table["multiply-accumulates"]
    assert whole == pytest.approx(27.380584448) and whole + small + middle == pytest.approx(apart)
    np.testing.assert_allclose(table["share"], table["multiply-accumulates"] / apart)
    assert 0.9 < shared / apart < 1 and table["share"].iloc[3] == 1


def test_operations_add_up_with_one_scale(encoder: ClipEncoder) -> None:
    table = speed.operation_table(encoder, (2,))
    assert table["tokens"].tolist() == [65, 49 * 5, 65 + 49 * 5, 65 + 49 * 5]
    values = table["multiply-accumulates"]
    assert values[0] + values[1] == pytest.approx(values[2]) and values[3] < values[2]
    assert values[0] == pytest.approx(multiply_accumulates(tower_of(encoder)) / 1e9)


@pytest.mark.parametrize("sizes", [(2, 3), (1,), (2, 4, 8)])
def test_one_pass_is_what_the_encoder_runs(encoder: ClipEncoder, sizes: tuple[int, ...]) -> None:
    """Patch tokens of the last block are returned, so nothing of the whole image is left out."""
    pixels = torch.randn(1, 3, *encoder.image_size)
    with FlopCounterMode(display=False) as counter:
        encoder.embed_scales(pixels, sizes, layers=(tower_of(encoder).layers,))
    found = speed.operation_table(encoder, sizes)["multiply-accumulates"].iloc[-1]
    assert 2e9 * found == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_the_record_in_the_repository(papers_tower: VisionTower) -> None:
    record, machine = speed.read_benchmark("windows")
    table = speed.benchmark_table(record)
    assert set(table["implementation"]) == {"anomalib", "this book"} and len(table) == len(record)
    first = table.iloc[0]
    assert first["time, anomalib in fp32 = 1"] == 1 and first["largest difference"] == "0.0e+00"
    assert table.select_dtypes("number").notna().all(axis=None)
    assert list(table) == [
        "precision",
        "images at once",
        "implementation",
        "seconds for an image",
        "time, anomalib in fp32 = 1",
        "share of the machine's peak",
        "largest difference",
    ]
    caption = speed.benchmark_caption(machine)
    for part in (machine["model"], machine["cpu"], machine["date"], "GFLOP/s in fp32", "AMX", "torch "):
        assert part in caption
    counts = speed.operation_table(None, (2, 3))["multiply-accumulates"]
    operations = machine["operations_per_image"]
    assert 2e9 * counts[3] == pytest.approx(operations["anomalib"])
    # the benchmark returns no patch tokens, so the whole image's last block is shortened too
    tower = papers_tower
    last = tower.patches * (
        2 * tower.width**2 + 2 * tower.width * tower.mlp_width + 2 * tower.tokens * tower.width
    )
    assert 2e9 * counts[4] - 2 * last == pytest.approx(operations["zsad_core"])


def test_bars_of_the_benchmark() -> None:
    record, _ = speed.read_benchmark("windows")
    frame = speed.benchmark_bars(record)
    assert frame["ratio"].tolist() == record["ratio_to_anomalib"].tolist()
    assert frame["label"].iloc[0] == "fp32, batch 1" and set(frame["implementation"]) == {
        "anomalib",
        "this book",
    }
    figure = bars(frame, label="label", value="ratio", group="implementation", xlabel="ratio")
    assert len(figure.axes[0].containers) == 2


def test_a_caption_says_what_the_machine_cannot_do() -> None:
    machine = {"model": "m", "threads": 1, "cpu": "c", "amx": False, "date": "d", "commit": "abc"}
    machine |= {"versions": {"torch": "2"}, "peak_operations_per_second": {"fp32": 1.5e12}}
    caption = speed.benchmark_caption(machine)
    assert caption.startswith("m, random weights, 1 threads of c (without AMX), d, commit abc; torch 2.")
    assert "1,500 GFLOP/s in fp32." in caption


def test_memory_of_the_record() -> None:
    record, _ = speed.read_benchmark("winclip_memory")
    table = speed.memory_table(record)
    assert len(table) == len(record) and {kind.kind for kind in table.dtypes} == {"i"}
    assert table["images"].tolist() == record["images"].tolist()
    held, peak = table["all maps at once"], table["peak, features computed"]
    assert held.is_monotonic_increasing and peak.max() - peak.min() < 0.1 * (held.max() - held.min())


def test_a_benchmark_that_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_record_of_training_for_readers() -> None:
    """Ratios stand where there is something to compare with, and memory where it was measured."""
    what = list(speed.TRAINING)
    record = pd.DataFrame(
        {"what": what, "seconds": [1.0, 1.2, 60.0, 0.5], "ratio": [1.0, 1.2, 1.0, 0.01], "peak_MiB": None}
    )
    record.loc[2:, "peak_MiB"] = [1500.0, 90.0]
    table = speed.training_table(record)
    assert table["what"].tolist() == list(speed.TRAINING.values())
    assert table["time, line above = 1"].tolist() == ["-", "1.200", "-", "0.010"]
    assert table.iloc[:, -1].tolist() == ["-", "-", "1,500", "90"]
