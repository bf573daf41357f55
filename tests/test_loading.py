"""Images come in order, the same in any process, and errors name the file."""

from __future__ import annotations

import multiprocessing
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


def test_workers_give_what_no_workers_give_in_order_and_end_with_the_iterator(dataset_with, options):
    dataset = dataset_with([*noise(10), Image.new("L", (9, 50), 77)])
    others = set(multiprocessing.active_children())  # joblib keeps those of earlier tests
    state = torch.random.get_rng_state()
    here, there = (list(loaded(dataset, options, k)) for k in (0, 2))
    assert torch.equal(torch.random.get_rng_state(), state)  # results must not depend on what was cached
    assert [len(pixels) for pixels, _ in there] == [48, 18]
    assert [size for _, sizes in there for size in sizes] == [*[(30, 40)] * 10, (9, 50)]
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    third = inference_views(dataset.image(2), **options)
    torch.testing.assert_close(there[0][0][12:18], third, rtol=0, atol=0)
    found = loaded(dataset, options, 1)
    next(found)
    assert len(set(multiprocessing.active_children()) - others) == 1
    found.close()
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_and_those_before_it_come(dataset_with, options, workers):
    dataset = dataset_with(noise(12))
    cut = dataset.root / dataset.meta["image"].iloc[9]
    cut.write_bytes(cut.read_bytes()[:500])
    found = loaded(dataset, options, workers)
    assert len(next(found)[0]) == 48
    with pytest.raises(ValueError, match=r"09\.png cannot be read.*copy or fetch it again") as caught:
        next(found)
    assert "worker process" not in str(caught.value)
    with pytest.raises(ValueError, match="expected a square") as caught:
        next(loaded(dataset, options | {"image_size": (24, 32)}, workers))
    assert caught.value.__notes__ == [f"with the image {dataset.root / dataset.meta['image'].iloc[0]}"]


def test_number_of_workers(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert worker_count(FEW - 1) == 0  # they would start longer than it takes
    assert worker_count(FEW) == 4
    monkeypatch.setattr(joblib, "cpu_count", lambda: 256)
    assert worker_count(10**6) == 16
    monkeypatch.setattr(image_features.shutil, "disk_usage", lambda _: type("", (), {"free": 2**26}))
    assert worker_count(10**6) == 0 or not Path("/dev/shm").is_dir()  # a container's 64 MB are too few
