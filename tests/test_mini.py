"""Rendering: the same bytes every time, masks where the pictures differ, and no test category in training."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from data_scripts.mini import LOOKS, N_NORMAL, N_TRAIN, write_dataset
from data_scripts.render import TRAIN_CATEGORIES, VALIDATION_CATEGORIES, render, render_pair
from data_scripts.render.captions import caption
from data_scripts.textile import package_folder, write_textile
from zsad_core.datasets import load_dataset

EVERY_LOOK = [look for looks in LOOKS.values() for look in looks]


def test_test_categories_never_occur_in_training():
    test = {look.name for look in EVERY_LOOK}
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


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_written_dataset_has_the_same_bytes_every_time(tmp_path):
    for name in ("first", "second"):
        write_dataset("mini_mvtec", tmp_path / name, n_train=2, n_normal=2, n_anomalous=3, categories=2)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
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


def test_the_whole_dataset(tmp_path):
    source = package_folder()
    write_textile(source, tmp_path / "textile")
    dataset = load_dataset(tmp_path / "textile")
    assert dataset.categories == ["textile"]
    assert dataset.meta.groupby(["split", "defect"]).size().to_dict() == {
        ("train", "good"): 16,
        ("test", "good"): 984,
        ("test", "local"): 500,
        ("test", "global"): 500,
    }
    assert not dataset.has_masks
    assert dataset.image(0).size == (250, 250)
    assert (tmp_path / "textile/textile/test/global/textile_0007.jpg").read_bytes() == (
        source / "global/textile_0007.jpg"
    ).read_bytes()


def test_seed_chooses_the_references(tmp_path):
    def references(seed: int) -> list[str]:
        write_textile(package_folder(), tmp_path / "t", n_train=3, seed=seed)
        return load_dataset(tmp_path / "t").select(split="train").meta["image"].tolist()

    assert references(0) != references(1)
    (tmp_path / "nominal").mkdir()
    with pytest.raises(ValueError, match="holds 0 .jpg files: expected 1000"):
        write_textile(tmp_path, tmp_path / "out")
