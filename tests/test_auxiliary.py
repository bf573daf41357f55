"""Auxiliary images as training material: features, masks and labels stay together, on the disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from zsad_core.auxiliary import auxiliary_of
from zsad_core.image_features import glocal_extractor

LAYERS = (2, 4)


@pytest.fixture(scope="module")
def encoder(small_clip):
    return small_clip()


@pytest.fixture
def extractor(encoder):
    return glocal_extractor(encoder, LAYERS, "vv", 2)


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
