"""Rendering: the same bytes every time, masks where the pictures differ, and no test category in training."""

import numpy as np
import pytest
from helpers import contents, refused
from PIL import Image

from data_scripts.mini import LOOKS, N_NORMAL, N_TRAIN, write_dataset
from data_scripts.mini_medical import VIEWS, render_view
from data_scripts.render import TRAIN_CATEGORIES, VALIDATION_CATEGORIES, render, render_pair
from data_scripts.render.captions import caption
from data_scripts.textile import package_folder, write_textile
from zsad_core.datasets import load_dataset

EVERY_LOOK = [look for looks in LOOKS.values() for look in looks]
EVERY_VIEW = [view for views in VIEWS.values() for view in views]


def test_test_categories_never_occur_in_training():
    names = [look.name for look in (*EVERY_LOOK, *EVERY_VIEW)]
    test = set(names)
    assert len(test) == len(names)
    drawn = {(look.parts or look.surface).__name__ for look in EVERY_LOOK}
    trained, watched = set(TRAIN_CATEGORIES), set(VALIDATION_CATEGORIES)
    assert not (test | drawn) & (trained | watched)
    assert not trained & watched
    assert N_TRAIN + N_NORMAL <= 10_000  # else an anomalous image had its normal twin in the set


@pytest.mark.parametrize("look", EVERY_LOOK, ids=lambda look: look.name)
def test_every_look_renders_a_visible_defect_where_the_mask_says(look):
    pair = render(look, 3, (72, 96))
    change = np.abs(pair.anomalous.astype(int) - pair.normal).max(2)  # (H, W)
    assert pair.normal.shape == (72, 96, 3) and pair.mask.shape == (72, 96)
    assert (change[pair.mask] > 30).sum() >= 12
    assert change[~pair.mask].mean() < 4  # shadows may move a little beyond the mask


def test_a_flipped_nut_lies_as_the_normal_one_whole_and_marked_whole(tmp_path):
    (look,) = [look for look in EVERY_LOOK if look.underside]
    plain, flipped = render(look, 10_003), render(look, 10_003, kind="flip")
    change = np.abs(flipped.anomalous.astype(int) - flipped.normal).max(2)
    assert (plain.normal == flipped.normal).all() and not flipped.mask[48, 48]  # the hole is none of it
    assert 0.2 < flipped.mask.mean() < 0.6 and change[flipped.mask].mean() > 4 * change[~flipped.mask].mean()
    write_dataset("mini_mvtec", tmp_path / "set", n_train=1, n_normal=1, n_anomalous=8, categories=3)
    kinds = load_dataset(tmp_path / "set").meta.query("defect == 'flip'")["category"]
    assert kinds.tolist() == [look.name] * 2


def test_written_dataset_has_the_same_bytes_every_time(tmp_path):
    for name in ("first", "second"):
        write_dataset("mini_mvtec", tmp_path / name, n_train=2, n_normal=2, n_anomalous=3, categories=2)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    dataset = load_dataset(tmp_path / "first")
    assert dataset.categories == sorted(look.name for look in LOOKS["mini_mvtec"][:2])
    sizes = dataset.meta.groupby(["split", "label"]).size().to_dict()
    assert sizes == {("train", 0): 4, ("test", 0): 4, ("test", 1): 6}
    anomalous = np.flatnonzero(dataset.labels == 1)
    assert dataset.has_masks and all(dataset.mask(i).any() for i in anomalous)


def test_captions_say_what_is_true():
    rng = np.random.default_rng(0)
    facts = render_pair("coin", 0).facts
    calm = facts | {"blurred": False, "jpeg": False, "light": "", "close": False, "worn": True}
    normal = [caption(calm, False, rng) for _ in range(400)]
    damaged = [caption(calm | {"kind": "stain"}, True, rng) for _ in range(400)]
    assert not any("flawless" in text or "blurry" in text for text in normal)  # worn parts are not flawless
    told = [sum(" damaged " in text for text in texts) for texts in (normal, damaged)]
    assert told[0] < 10 < 100 < told[1]
    assert not any("broken" in text for text in damaged)  # a stain breaks nothing


def test_the_whole_textile_set(tmp_path):
    source = package_folder()
    write_textile(source, tmp_path / "textile")
    dataset = load_dataset(tmp_path / "textile")
    assert dataset.categories == ["textile"]
    sizes = dataset.meta.groupby(["split", "defect"]).size()
    assert sizes["train"].to_dict() == {"good": 16}
    assert sizes["test"].to_dict() == {"good": 984, "local": 500, "global": 500}
    assert not dataset.has_masks
    assert dataset.image(0).size == (250, 250)
    copied = tmp_path / "textile/textile/test/global/textile_0007.jpg"
    assert copied.read_bytes() == (source / "global/textile_0007.jpg").read_bytes()
    write_textile(source, tmp_path / "other", seed=1)
    first, second = (load_dataset(tmp_path / name).select(split="train") for name in ("textile", "other"))
    assert set(first.meta["image"]) != set(second.meta["image"])
    (tmp_path / "nominal").mkdir()
    refused("holds 0 .jpg files: expected 1000", write_textile, tmp_path, tmp_path / "out")


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
