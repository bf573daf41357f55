"""Auxiliary images as training material: features, masks and labels stay together, on the disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsad_core import auxiliary, image_features
from zsad_core.auxiliary import auxiliary_of, image_hashes
from zsad_core.cache import sha256_of
from zsad_core.datasets import AnomalyDataset, load_dataset, stretched_mask
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Extractor, glocal_extractor

LAYERS = (2, 4)


@pytest.fixture(scope="module")
def encoder(small_clip: Callable[..., ClipEncoder]) -> ClipEncoder:
    return small_clip()


@pytest.fixture
def extractor(encoder: ClipEncoder) -> Extractor:
    return glocal_extractor(encoder, LAYERS, "vv", 2)


def pixels_of(encoder: ClipEncoder, dataset: AnomalyDataset) -> torch.Tensor:
    images = [
        dataset.image(i).resize(encoder.image_size, Image.Resampling.BICUBIC) for i in range(len(dataset))
    ]
    return torch.stack([encoder.preprocess(image) for image in images])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_batches_hold_what_belongs_together(
    encoder: ClipEncoder,
    extractor: Extractor,
    toy_set: Callable[..., AnomalyDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(image_features, "PART", 3)  # 5 images of a category, so parts of 3 and 2
    dataset = toy_set(normal=2, anomalous=3)
    material = auxiliary_of(dataset, replace(extractor, dtype=dtype), tmp_path / "cache")
    assert len(material) == 10 and [len(part) for part in material.masks] == [3, 2, 3, 2]
    assert material.names == ["metal nut", "wood"] and material.has_masks

    chosen = dataset.select(split="test")
    rows = np.array([9, 0, 3, 2, 4])
    batch = material.batch(rows, LAYERS)
    heads, patches = encoder.embed_glocal(pixels_of(encoder, chosen), LAYERS, "vv", 2)
    close = {"rtol": 1e-3, "atol": 3e-4} if dtype == torch.float16 else {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(batch.heads, heads[rows], **close)
    torch.testing.assert_close(batch.patches, {k: v[rows] for k, v in patches.items()}, **close)
    assert batch.labels.tolist() == chosen.labels[rows].tolist() and batch.names.tolist() == [1, 0, 0, 0, 0]
    for mask, row in zip(batch.masks, rows, strict=True):
        assert mask.numpy().tolist() == stretched_mask(chosen.mask(row), (24, 24)).tolist()
    assert batch.masks.dtype == torch.bool and batch.masks[0].any() and not batch.masks[1].any()
    assert material.batch(rows[:1], ()).patches == {} and material.batch(rows[:1], ()).masks.shape == (
        1,
        24,
        24,
    )


def test_features_are_computed_once_and_train_images_on_demand(
    extractor: Extractor, toy_set: Callable[..., AnomalyDataset], tmp_path: Path
) -> None:
    calls, dataset = [], toy_set()
    counting = replace(extractor, features=lambda x: [calls.append(len(x)), extractor.features(x)][1])
    first = auxiliary_of(dataset, counting, tmp_path)
    again = auxiliary_of(load_dataset(dataset.root), counting, tmp_path)
    assert calls == [4, 4] and len(first) == 8
    for one, other in zip(first.parts + first.masks, again.parts + again.masks, strict=True):
        np.testing.assert_equal(one, other)
    assert len(auxiliary_of(dataset, counting, tmp_path, split=None)) == 10 and calls == [4, 4, 5, 5]
    auxiliary_of(dataset, replace(counting, dtype=torch.float32), tmp_path)
    assert calls == [4, 4, 5, 5, 4, 4]  # kept in another type: other files


@pytest.mark.parametrize("size", [(24, 24), (37, 50), (7, 9)])
def test_masks_of_any_size_become_bits_and_back(
    extractor: Extractor, toy_set: Callable[..., AnomalyDataset], tmp_path: Path, size: tuple[int, int]
) -> None:
    part = image_features.feature_parts(extractor, toy_set().select("wood", "test"), tmp_path)[0]
    bits = auxiliary._masks(part, size, tmp_path / "masks")
    height, width = size
    assert bits.shape == (4, -(-height * width // 8))  # the last byte may not be full
    found = np.unpackbits(bits, axis=1, count=height * width).reshape(4, height, width).astype(bool)
    for i in range(4):
        grey = Image.fromarray(np.uint8(255) * part.dataset.mask(i)).resize((width, height), Image.BILINEAR)
        np.testing.assert_array_equal(found[i], np.asarray(grey) / 255 > 0.5)
    assert found[2:].any((1, 2)).all() and not found[:2].any()


def test_small_defects_can_vanish_and_are_told(
    extractor: Extractor, toy_set: Callable[..., AnomalyDataset], tmp_path: Path
) -> None:
    mask = np.zeros((100, 100), bool)
    mask[50, 50] = True
    assert not stretched_mask(mask, (10, 10)).any() and stretched_mask(mask, (100, 100)).sum() == 1
    mask[40:60, 40:60] = True
    assert stretched_mask(mask, (10, 10)).sum() == 4
    part = image_features.feature_parts(extractor, toy_set().select("wood", "test"), tmp_path)[0]
    with pytest.warns(
        UserWarning, match="toys: 2 masks are empty at 1 x 1 pixels; their pixels count as normal"
    ):
        auxiliary._masks(part, (1, 1), tmp_path)


def test_sets_that_are_refused_or_have_no_masks(
    extractor: Extractor, toy_set: Callable[..., AnomalyDataset], tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"2 of 4 anomalous images have no mask, the first is metal_nut/test/hole"
    ):
        auxiliary_of(toy_set(masks=1), extractor, tmp_path / "cache")
    bare = auxiliary_of(toy_set(masks=0), extractor, tmp_path / "cache")
    assert not bare.has_masks and not bare.batch(np.arange(8), LAYERS).masks.any()
    nothing = toy_set().where(np.zeros(10, bool))
    with pytest.raises(ValueError, match="no images"):
        auxiliary_of(nothing, extractor, tmp_path, split=None)
    with pytest.raises(ValueError, match="no images with .*split='train'"):
        auxiliary_of(toy_set().select(split="test"), extractor, tmp_path, split="train")


def test_hashes_of_images_are_those_of_their_files(toy_set: Callable[..., AnomalyDataset]) -> None:
    dataset, other = toy_set(), toy_set(seed=1, name="others")
    hashes = image_hashes(dataset)
    assert hashes.dtype == np.int64 and len(set(hashes.tolist())) == 10
    for found, image in zip(hashes, dataset.meta["image"], strict=True):
        assert found.tobytes()[::-1].hex() == sha256_of(dataset.root / image)[:16]
    assert not np.isin(image_hashes(other), hashes).any()
    np.testing.assert_array_equal(image_hashes(dataset.select("wood")), hashes[5:])
