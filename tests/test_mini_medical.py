"""The medical-looking mini datasets: labels and masks as promised, and lesions where the masks are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_scripts.mini import LOOKS, N_TRAIN, write_dataset
from data_scripts.mini_medical import VIEWS, render_view
from data_scripts.render import TRAIN_CATEGORIES, VALIDATION_CATEGORIES
from zsad_core.datasets import load_dataset

EVERY_VIEW = [view for views in VIEWS.values() for view in views]


def test_categories_are_new_to_the_mini_model_and_to_the_other_sets():
    names = {view.name for view in EVERY_VIEW}
    assert len(names) == len(EVERY_VIEW)
    assert not names & {*TRAIN_CATEGORIES, *VALIDATION_CATEGORIES}
    assert not names & {look.name for looks in LOOKS.values() for look in looks}


@pytest.mark.parametrize("view", EVERY_VIEW, ids=lambda view: view.name)
@pytest.mark.parametrize("seed", [10_000, 10_001])
def test_lesion_can_be_seen_and_is_where_the_mask_says(view, seed):
    pair = render_view(view, seed)
    change = np.abs(pair.anomalous.astype(int) - pair.normal)
    light = pair.normal
    if pair.normal.ndim == 3:
        change, light = change.max(2), light.max(2)
    assert pair.normal.dtype == np.uint8 and pair.mask.shape == view.size == light.shape
    assert 0.005 < pair.mask.mean() < 0.3
    assert change[pair.mask].mean() > 10
    assert change[pair.mask].sum() > 0.55 * change.sum()  # the rest: swelling around it, its shadow
    assert change[~pair.mask].mean() < 5
    assert (light[pair.mask] > 12).all()  # in the body, not in the air around it or the endoscope's corners
    if view.name == "head_scan":
        assert light[pair.mask].max() < 200 < light.max()  # in the brain, not in the skull


def test_image_set_has_labels_alone_and_grey_files(tmp_path):
    write_dataset("mini_medical_image", tmp_path / "first", n_train=2, n_normal=2, n_anomalous=3)
    dataset = load_dataset(tmp_path / "first")
    assert dataset.categories == ["chest_scan", "head_scan"]
    counts = dataset.meta.groupby(["category", "split", "label"]).size().groupby("category").apply(list)
    assert counts.to_dict() == dict.fromkeys(dataset.categories, [2, 3, 2])  # test normal, anomalous; train
    assert (dataset.meta["mask"] == "").all() and not dataset.has_masks
    assert not list((tmp_path / "first").rglob("*_mask.png"))
    for relative in dataset.meta["image"]:
        with Image.open(dataset.root / relative) as image:
            assert (image.mode, image.size) == ("L", (144, 144))


def test_pixel_set_has_masks_and_no_normal_test_image(tmp_path):
    write_dataset("mini_medical_pixel", tmp_path / "set", n_train=1, n_normal=2, n_anomalous=1)
    dataset = load_dataset(tmp_path / "set")
    test, training = dataset.select(split="test"), dataset.select(split="train")
    assert (test.labels == 1).all() and len(test) == 4
    assert dataset.has_masks and all(test.mask(i).any() for i in range(len(test)))
    sizes = {category: dataset.select(category=category).size(0) for category in dataset.categories}
    assert sizes == dict.fromkeys(["colon", "polyp", "skin"], (144, 144)) | {"thyroid": (176, 128)}
    assert training.meta["category"].value_counts().to_dict() == dict.fromkeys(sizes, 1)
    usual = {view.name: view.n_train for view in VIEWS["mini_medical_pixel"]}
    assert usual == dict.fromkeys(sizes, N_TRAIN) | {"colon": 40}  # as many normal as anomalous ones
