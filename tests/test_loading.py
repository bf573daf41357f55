"""Images come in order, the same in any process, and errors name the file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from zsad_core import image_features
from zsad_core.datasets import AnomalyDataset
from zsad_core.image_features import FEW, load_batch, made_ahead, worker_count
from zsad_core.views import inference_views


def noise(n: int, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for _ in range(n)]


def loaded(dataset: AnomalyDataset, options: dict, workers: int) -> Iterator[tuple]:
    """Batches of eight images."""
    paths = [dataset.root / path for path in dataset.meta["image"]]
    batches = [paths[start : start + 8] for start in range(0, len(paths), 8)]
    return made_ahead(batches, partial(load_batch, **options), workers=workers)


@pytest.fixture
def options(tiny_clip) -> dict:
    return {"image_size": tiny_clip.image_size, "transform": tiny_clip.transform}


def test_workers_give_what_no_workers_give_in_order(dataset_with, options) -> None:
    dataset = dataset_with([*noise(10), Image.new("L", (9, 50), 77)])
    state = torch.random.get_rng_state()
    here, there = (list(loaded(dataset, options, k)) for k in (0, 2))
    assert torch.equal(torch.random.get_rng_state(), state)  # results must not depend on what was cached
    assert [len(pixels) for pixels, _ in there] == [48, 18]
    assert [size for _, sizes in there for size in sizes] == [*[(30, 40)] * 10, (9, 50)]
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    third = inference_views(dataset.image(2), **options)
    torch.testing.assert_close(there[0][0][12:18], third, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_and_those_before_it_come(dataset_with, options, workers) -> None:
    dataset = dataset_with(noise(12))
    cut = dataset.root / dataset.meta["image"].iloc[9]
    cut.write_bytes(cut.read_bytes()[:500])
    others = set(multiprocessing.active_children())  # joblib keeps those of earlier tests
    found = loaded(dataset, options, workers)
    assert len(next(found)[0]) == 48
    with pytest.raises(ValueError, match=r"09\.png cannot be read.*copy or fetch it again") as caught:
        next(found)
    assert "worker process" not in str(caught.value)
    assert set(multiprocessing.active_children()) <= others


def test_an_error_that_names_no_file_is_noted_with_it(dataset_with, tiny_clip) -> None:
    dataset = dataset_with(noise(2))
    options = {"image_size": (24, 32), "transform": tiny_clip.transform}
    with pytest.raises(ValueError, match="expected a square") as caught:
        next(loaded(dataset, options, 1))
    assert caught.value.__notes__ == [f"with the image {dataset.root / dataset.meta['image'].iloc[0]}"]


def test_workers_end_with_the_iterator(dataset_with, options) -> None:
    others = set(multiprocessing.active_children())
    found = loaded(dataset_with(noise(40, (10, 10))), options, 1)
    next(found)
    assert len(set(multiprocessing.active_children()) - others) == 1
    found.close()
    assert set(multiprocessing.active_children()) <= others


def test_ctrl_c_ends_the_workers(dataset_with, tmp_path) -> None:
    """In a process of its own, which is sent the signal together with its children, as a terminal does."""
    dataset = dataset_with(noise(40, (10, 10)))
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import signal, time
        from contextlib import closing
        from multiprocessing import active_children
        from zsad_core.datasets import load_dataset
        from tests.test_loading import loaded, slow

        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            dataset = load_dataset({str(dataset.root)!r})
            try:
                with closing(loaded(dataset, {{'image_size': (4, 4), 'transform': slow}}, 2)) as found:
                    for _ in found:
                        print(*(child.pid for child in active_children()), flush=True)
            except KeyboardInterrupt:
                print("interrupted", len(active_children()), flush=True)
        """)
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert len(pids) == 2 and output.endswith("interrupted 0\n"), output
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def slow(image: Image.Image) -> torch.Tensor:
    time.sleep(0.01)
    return torch.zeros(3, 4, 4)


def test_number_of_workers(monkeypatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert worker_count(FEW - 1) == 0  # they would start longer than it takes
    assert worker_count(FEW) == 4
    monkeypatch.setattr(joblib, "cpu_count", lambda: 256)
    assert worker_count(10**6) == 16
    monkeypatch.setattr(image_features.shutil, "disk_usage", lambda _: type("", (), {"free": 2**26}))
    assert worker_count(10**6) == 0 or not Path("/dev/shm").is_dir()  # a container's 64 MB are too few
