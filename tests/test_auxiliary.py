"""Auxiliary images as training material: features, masks and labels stay together, on the disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsad_core import image_features
from zsad_core.auxiliary import auxiliary_of
from zsad_core.datasets import stretched_mask
from zsad_core.image_features import glocal_extractor

LAYERS = (2, 4)


@pytest.fixture(scope="module")
def encoder(small_clip):
    return small_clip()


@pytest.fixture
def extractor(encoder):
    return glocal_extractor(encoder, LAYERS, "vv", 2)


def pixels_of(encoder, dataset):
    images = [
        dataset.image(i).resize(encoder.image_size, Image.Resampling.BICUBIC) for i in range(len(dataset))
    ]
    return torch.stack([encoder.preprocess(image) for image in images])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_batches_hold_what_belongs_together(encoder, extractor, toy_set, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(image_features, "PART", 3)  # 5 images of a category, so parts of 3 and 2
    dataset = toy_set(normal=2, anomalous=3)
    chosen = dataset.select(split="test")
    material = auxiliary_of(chosen, replace(extractor, dtype=dtype), tmp_path / "cache")
    assert len(material) == 10 and [len(part["masks"]) for part in material.parts] == [3, 2, 3, 2]
    assert material.names == ["metal nut", "wood"] and material.has_masks

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
    alone = material.batch(rows[:1], ())
    assert alone.patches == {} and alone.masks.shape == (1, 24, 24)


def test_sets_that_are_refused_or_have_no_masks(extractor, toy_set, tmp_path):
    message = r"2 of 4 anomalous images have no mask, the first is metal_nut/test/hole"
    with pytest.raises(ValueError, match=message):
        auxiliary_of(toy_set(masks=1), extractor, tmp_path / "cache")
    bare = auxiliary_of(toy_set(masks=0), extractor, tmp_path / "cache")
    assert not bare.has_masks and not bare.batch(np.arange(8), LAYERS).masks.any()
    blind = replace(extractor, image_size=(1, 1), transform=lambda _: torch.zeros(3, 1, 1))
    blind = replace(blind, features=lambda pixels: {"global": pixels.flatten(1)})
    with pytest.warns(UserWarning, match="toys: 2 masks are empty at 1 x 1 pixels"):
        material = auxiliary_of(toy_set().select("wood", "test"), blind, tmp_path)
    assert not material.batch(np.arange(4), ()).masks.any()
    with pytest.raises(ValueError, match="toys has no images"):
        auxiliary_of(toy_set().where(np.zeros(10, bool)), extractor, tmp_path)
