import json
import multiprocessing
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import contents, noise, ramp, refused
from PIL import Image, ImageOps

from zsad_core import datasets, image_features
from zsad_core.datasets import load_dataset
from zsad_core.image_features import FEW, clip_extractor, compute_features, join_parts, worker_count
from zsad_core.images import inference_views
from zsad_papers.baselines.backbones import Backbone, backbone_extractor

SIDE = 8  # of what the stub of an encoder sees


class Counting:
    """An extractor whose features are a tile's pixels and their mean; it counts the tiles."""

    image_size, device = (SIDE, SIDE), torch.device("cpu")

    def __init__(self, **key):
        self.calls = []
        self.extractor = image_features.Extractor({"model": "stub", **key}, self, self.features)

    def transform(self, image):
        image = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BOX)  # cuts the ends off as CLIP does
        return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)

    def features(self, pixels):
        self.calls.append(len(pixels))
        return {"image": pixels.mean((2, 3)), "windows/2": pixels.flatten(2), "layer/1": pixels}


def reds(n):
    return [Image.new("RGB", (12, 12), (i, 0, 0)) for i in range(n)]


def assert_same(one, other):
    pd.testing.assert_frame_equal(one.meta, other.meta)
    np.testing.assert_equal(vars(one) | {"meta": None}, vars(other) | {"meta": None})


def test_parts_are_computed_once_in_order_and_a_killed_run_goes_on(dataset_with, tmp_path, monkeypatch):
    monkeypatch.setattr(image_features, "PART", 3)
    dataset, first, again, fresh = dataset_with(reds(8)), Counting(), Counting(), Counting()

    def killed(pixels):
        if len(first.calls) == 2:
            raise KeyboardInterrupt
        return first.features(pixels)

    with pytest.raises(KeyboardInterrupt):
        compute_features(replace(first.extractor, features=killed), dataset, tmp_path / "cache")
    parts = compute_features(again.extractor, load_dataset(dataset.root), tmp_path / "cache")
    assert [len(part.dataset) for part in parts] == [3, 3, 2]
    assert first.calls == [3, 3] and again.calls == [2]
    unbroken = compute_features(fresh.extractor, dataset, tmp_path / "other")
    for part, other in zip(parts, unbroken, strict=True):
        assert_same(part.load(), other.load())
        assert part.load().owner.tolist() == list(range(len(part.dataset)))
    together = join_parts(parts)
    assert together.arrays["image"][:, 0].tolist() == together.owner.tolist() == list(range(8))
    assert together.meta.equals(dataset.meta) and again.calls == [2]
    assert compute_features(again.extractor, dataset.where(np.zeros(8, bool)), tmp_path) == []


def test_categories_read_their_own_files_whatever_the_order(tiny_clip, toy_set, tmp_path, monkeypatch):
    monkeypatch.setattr(image_features, "PART", 2)
    dataset, extractor = toy_set(), clip_extractor(tiny_clip, (2,), (1,))
    for path in dataset.root.rglob("*.png"):
        os.utime(path, ns=(0, 10**18))  # not just now, or digests would not be kept
    alone = [part.load() for part in compute_features(extractor, dataset, tmp_path / "alone")]
    hashed, real = [], datasets.sha256_of
    monkeypatch.setattr(datasets, "sha256_of", lambda path: hashed.append(path) or real(path))
    monkeypatch.setattr(image_features, "worker_count", lambda *_: 1)
    for category in reversed(dataset.categories):
        part = load_dataset(dataset.root, tmp_path / "digests").select(category)
        compute_features(extractor, part, tmp_path / "cut")
        assert sorted(hashed) == sorted(dataset.root / path for path in part.files)
        hashed.clear()
    monkeypatch.setattr(image_features, "load_batch", lambda *_, **__: pytest.fail("an image was read again"))
    kept = load_dataset(dataset.root, tmp_path / "digests")
    for one, other in zip(alone, compute_features(extractor, kept, tmp_path / "cut"), strict=True):
        assert_same(one, other.load())
    assert not hashed


def test_key_is_made_of_what_features_depend_on(dataset_with, tmp_path):
    oblong = [*reds(2), ramp(20, 12)]
    dataset, stub, other = dataset_with(oblong), Counting(), Counting(weights="others")

    def calls(dataset, stub=stub, **options):
        before = len(stub.calls)
        for part in compute_features(stub.extractor, dataset, tmp_path / "cache", **options):
            part.load()
        return len(stub.calls) - before

    assert calls(dataset) == 1 and calls(dataset) == 0
    assert calls(dataset, whole="tiles") == 0  # the default
    assert calls(dataset, whole="squash") == 1 and calls(dataset, whole="center_crop") == 1
    assert calls(dataset, other) == 1 and calls(dataset, other) == 0
    (tmp_path / "elsewhere").mkdir()
    assert calls(load_dataset(dataset.root.rename(tmp_path / "elsewhere" / dataset.name))) == 0
    assert calls(dataset_with([*reds(2), ramp(20, 13)])) == 1  # another image


def test_keys_of_extractors(tiny_clip):
    options = ((), ((2,),), ((2, 3), (1,)), ((2, 3), (2,)))
    keys = [image_features.view_extractor(tiny_clip).key]
    keys += [clip_extractor(tiny_clip, *own).key for own in options]
    network = Backbone("net", "random-seed0", ("a", "b"), (32, 32), {}, torch.device("cpu"), None)
    changes = ({}, {"layers": ("a",)}, {"weights_id": "w"}, {"image_size": (48, 48)})
    keys += [backbone_extractor(replace(network, **change)).key for change in changes]
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)
    assert {tiny_clip.model_id, tiny_clip.weights_id, tiny_clip.precision} <= set(map(str, keys[0].values()))


def test_tiles_of_images_that_are_not_square(dataset_with, tmp_path):
    pictures = [ramp(20, 20), ramp(48, 20), ramp(20, 30)]
    dataset = dataset_with(pictures)
    (part,) = compute_features(Counting().extractor, dataset, tmp_path)
    found = part.load()
    assert found.sizes.tolist() == [[20, 20], [20, 48], [30, 20]]
    assert found.owner.tolist() == [0, 1, 1, 1, 2, 2]
    starts = [(0, 0), (0, 0), (14, 0), (28, 0), (0, 0), (0, 10)]
    boxes = [(x, y, x + 20, y + 20) for x, y in starts]
    assert found.boxes.tolist() == [list(box) for box in boxes]
    for owner, box, pixels in zip(found.owner, boxes, found.tensor("layer/1"), strict=True):
        tile = pictures[owner].crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        torch.testing.assert_close(pixels, Counting().transform(tile), rtol=1e-3, atol=0)
    np.testing.assert_allclose(found.mean_of_tiles(torch.tensor([1, 2, 3, 7, 4, 5.0])), [1, 4, 4.5])
    for whole, box in (("squash", (0, 0, 48, 20)), ("center_crop", (14, 0, 34, 20))):
        (part,) = compute_features(Counting().extractor, dataset, tmp_path, whole=whole)
        found = part.load()
        assert found.owner.tolist() == [0, 1, 2] and found.boxes[1].tolist() == list(box)
        alone = pictures[1].crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        torch.testing.assert_close(found.tensor("layer/1")[1], Counting().transform(alone), rtol=0.02, atol=2)


def test_what_is_stored_is_half_precision_and_finite(dataset_with, tmp_path, monkeypatch):
    monkeypatch.setattr(image_features, "PART", 2)
    dataset = dataset_with([ramp(20, 20)] * 4)
    cut = dataset.root / dataset.meta["image"].iloc[3]
    tokens = 30 * torch.randn(2, 40, 192, generator=torch.Generator().manual_seed(0))
    extractor = replace(Counting().extractor, features=lambda pixels: {"layer/1": tokens})
    (part, _) = compute_features(extractor, dataset, tmp_path)
    (file, _) = sorted((tmp_path / "features").iterdir())
    whole, size = part.load(), file.stat().st_size
    found = whole.starting("layer")["1"]
    assert found.dtype == torch.float32 and size < 1.1 * 2 * tokens.numel()
    pairs = (torch.nn.functional.normalize(x.flatten(0, 1), dim=-1) for x in (tokens, found))
    exact, found = (x @ x.T for x in pairs)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)
    for kept in (tmp_path / "features").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    with pytest.warns(RuntimeWarning, match="computing it anew"):
        assert_same(part.load(), whole)
    for value in (float("nan"), 1e6):
        wrong = replace(extractor, features=lambda pixels, value=value: {"image": pixels[:, 0, 0] + value})
        message = "image holds NaN or numbers too large for torch.float16"
        refused(message, compute_features, wrong, dataset, tmp_path / "wrong")
    cut.write_bytes(cut.read_bytes()[:80])
    dataset = load_dataset(dataset.root)
    refused(r"03\.png cannot be read", compute_features, Counting().extractor, dataset, tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "features").iterdir())) == 1  # what came before is kept


def test_arrays_by_name_and_by_image():
    arrays = {name: i + np.arange(4.0) for i, name in enumerate(["layer/2", "windows/3", "layer/1"])}
    meta = pd.DataFrame({"image": list("abc"), "category": list("xxy"), "split": ["train", "test", "test"]})
    sizes, owner = np.array([[4, 6], [4, 4], [4, 8]]), np.array([0, 0, 1, 2])
    found = image_features.TileFeatures(meta, sizes, owner, np.arange(16).reshape(4, 4), arrays)
    assert {name: value[0].item() for name, value in found.starting("layer").items()} == {"2": 0, "1": 2}
    assert [*found.windows()] == [3]
    for image, tiles in ((0, [0, 1]), (1, [2])):
        alone = found.only(image)
        assert alone.meta["image"].tolist() == ["abc"[image]] and alone.owner.tolist() == [0] * len(tiles)
        np.testing.assert_array_equal(alone.sizes, sizes[[image]])
        np.testing.assert_array_equal(alone.boxes, found.boxes[tiles])
        np.testing.assert_equal(alone.arrays, {name: values[tiles] for name, values in arrays.items()})
    test = found.select(split="test")
    assert test.owner.tolist() == [0, 1] and test.select("y").meta["image"].tolist() == ["c"]
    assert np.shares_memory(test.select(split="test").arrays["layer/1"], test.arrays["layer/1"])


@pytest.mark.parametrize("whole", ["tiles", "squash"])
def test_views_are_those_of_the_images_and_keep_their_means(tiny_clip, dataset_with, tmp_path, whole):
    """One, two and three tiles in one category, as scans have."""
    dataset = dataset_with([ramp(*size) for size in ((40, 40), (60, 40), (90, 40), (40, 40))])
    found = image_features.image_embeddings(tiny_clip, dataset, tmp_path, whole=whole)
    size, transform = tiny_clip.image_size, tiny_clip.transform
    pictures = [inference_views(dataset.image(i), size, whole=whole) for i in range(4)]
    pixels = [torch.stack([*map(transform, views)]) for views in pictures]
    own = [tiny_clip.embed_images(views, normalize=False) for views in pixels]
    assert found.views.dtype == np.float32 and found.views.shape[:2] == (4, 36 if whole == "tiles" else 6)
    for views, expected in zip(torch.from_numpy(found.views), own, strict=True):
        torch.testing.assert_close(views[: len(expected)], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(views.mean(0), expected.mean(0), rtol=1e-4, atol=1e-4)


def loaded(dataset, options, workers):
    paths = [dataset.root / path for path in dataset.meta["image"]]
    batches = [paths[start : start + 8] for start in range(0, len(paths), 8)]
    return image_features.made_ahead(batches, partial(image_features.load_batch, **options), workers=workers)


@pytest.fixture
def options(tiny_clip):
    return {"image_size": tiny_clip.image_size, "transform": tiny_clip.transform}


def test_workers_give_what_no_workers_give_in_order_and_end_with_the_iterator(dataset_with, options):
    dataset = dataset_with([*map(noise, range(10)), Image.new("L", (9, 50), 77)])
    others = set(multiprocessing.active_children())  # joblib keeps those of earlier tests
    state = torch.random.get_rng_state()
    here, there = (list(loaded(dataset, options, k)) for k in (0, 2))
    assert torch.equal(torch.random.get_rng_state(), state)  # results must not depend on what was cached
    assert [len(pixels) for pixels, _ in there] == [48, 18]
    assert [size for _, sizes in there for size in sizes] == [*[(30, 30)] * 10, (9, 50)]
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    third = map(options["transform"], inference_views(dataset.image(2), options["image_size"]))
    torch.testing.assert_close(there[0][0][12:18], torch.stack([*third]), rtol=0, atol=0)
    found = loaded(dataset, options, 1)
    next(found)
    assert len(set(multiprocessing.active_children()) - others) == 1
    found.close()
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_and_those_before_it_come(dataset_with, options, workers):
    dataset = dataset_with(map(noise, range(12)))
    cut = dataset.root / dataset.meta["image"].iloc[9]
    cut.write_bytes(cut.read_bytes()[:500])
    found = loaded(dataset, options, workers)
    assert len(next(found)[0]) == 48
    error = refused(r"09\.png cannot be read.*copy or fetch it again", next, found)
    assert "worker process" not in str(error)
    error = refused("expected a square", next, loaded(dataset, options | {"image_size": (24, 32)}, workers))
    assert error.__notes__ == [f"with the image {dataset.root / dataset.meta['image'].iloc[0]}"]


def test_number_of_workers(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    gpu = torch.device("cuda")
    assert worker_count(FEW - 1, gpu) == 0  # they would start longer than it takes
    assert worker_count(FEW, gpu) == 4 and worker_count(FEW, torch.device("cpu")) == 0
    monkeypatch.setattr(joblib, "cpu_count", lambda: 256)
    assert worker_count(10**6, gpu) == 16
    monkeypatch.setattr(image_features.shutil, "disk_usage", lambda _: type("", (), {"free": 2**26}))
    assert worker_count(10**6, gpu) == 0 or not Path("/dev/shm").is_dir()  # a container's 64 MB are too few


def test_features_computed_together_are_those_computed_alone(tiny_clip, toy_set, tmp_path):
    designs = [((1, 2), "vv", False), ((2,), "qk", True), ((2,), "qq+kk+vv", False)]
    glocal = image_features.glocal_extractor
    extractors, dataset = [glocal(tiny_clip, *d[:2], 1, final_norm=d[2]) for d in designs], toy_set()
    image_features.compute_together(extractors, dataset, tmp_path / "together")
    files = contents(tmp_path / "together")
    for extractor in extractors:
        places = (tmp_path / "together", tmp_path / "alone")
        both = (compute_features(extractor, dataset, place, whole="squash") for place in places)
        found, alone = (join_parts(parts).arrays for parts in both)
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, atol=1e-3)  # kept as float16
    assert contents(tmp_path / "together") == files  # nothing was computed again
