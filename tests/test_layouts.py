from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from data_scripts.folders import find_root, folders_in, images_in
from data_scripts.layouts import add_mvtec_layout, by_stem
from data_scripts.prepare import prepared_folder
from zsad_core.datasets import load_dataset


def test_by_stem():
    paths = [Path("a/0020.bmp"), Path("a/Kos_Label.BMP")]
    assert by_stem(paths, "_label") == {"0020": paths[0], "kos": paths[1]}
    assert by_stem([Path("1_mask.png"), Path("2.png")], ("_mask", "")).keys() == {"1", "2"}
    assert by_stem([Path("Cafe\u0301.png")]).keys() == by_stem([Path("caf\u00e9.jpg")]).keys()
    for twice in ("a/0.png", "a/0.bmp"):
        with pytest.raises(ValueError, match=f"{twice} and 0.BMP differ only in case and ends"):
            by_stem([Path("a/0.BMP"), Path(twice)])


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), 1).save(path)


def test_mvtec_layout_of_one_category_without_masks(tmp_path):
    for name in ("Train/ok/1.png", "Test/OK/1.png", "Test/Bad/1.png", "Test/readme/x.png"):
        picture(tmp_path / "raw" / name)
    (tmp_path / "raw/licence.txt").touch()
    with prepared_folder(tmp_path / "out") as out:
        add_mvtec_layout(tmp_path / "raw", out, category="electrical commutators")
    dataset = load_dataset(tmp_path / "out")
    assert dataset.meta["image"].tolist() == [
        f"electrical commutators/{name}"
        for name in ("test/good/1.png", "test/Bad/1.png", "test/readme/x.png", "train/good/1.png")
    ]
    assert dataset.labels.tolist() == [0, 1, 1, 0] and not dataset.has_masks


def test_images_and_masks_without_partner(tmp_path):
    for name in ("test/good/1.png", "test/bad/1.png", "test/bad/2.png", "ground_truth/bad/1_mask.png"):
        picture(tmp_path / "c" / name)

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message), prepared_folder(tmp_path / "out") as out:
            add_mvtec_layout(tmp_path, out)

    refused("1 without mask in .*: 2.png")
    for name in ("2", "7", "8"):
        picture(tmp_path / f"c/ground_truth/bad/{name}_mask.png")
    refused(r"2 without image in .*: 7_mask.png, 8_mask.png\. Is the download extracted completely")
    (tmp_path / "c/ground_truth/bad").rename(tmp_path / "c/ground_truth/worse")
    refused("ground_truth/bad does not exist, but .*test/bad does")
    (tmp_path / "c/test/bad").rename(tmp_path / "c/test/worse")
    (tmp_path / "c/ground_truth/bad").mkdir()
    refused("test/bad does not exist, but .*ground_truth/bad does")


def test_folders_that_differ_in_case_only(tmp_path):
    """None is left out silently."""
    for names in (("a/test/bad", "a/test/Bad"), ("b/test/bad", "b/Test/good")):
        for name in ("a/train/good", "a/test/good", *names):
            picture(tmp_path / f"{name}/1.png")
        with pytest.raises(ValueError, match="differ only in case"), prepared_folder(tmp_path / "o") as out:
            add_mvtec_layout(tmp_path, out)
        shutil.rmtree(tmp_path / "a")


def test_lists(tmp_path):
    for name in ("10.png", "2.JPG", "1.Tiff", "No3.jpeg", "no2.bmp", "Thumbs.db", ".5.png", "x.txt"):
        (tmp_path / name).touch()
    for name in ("Class10", "Class9", ".git", "__MACOSX", "7.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "Class1").symlink_to(tmp_path)
    assert [path.name for path in images_in(tmp_path)] == ["1.Tiff", "2.JPG", "10.png", "no2.bmp", "No3.jpeg"]
    assert [path.name for path in folders_in(tmp_path)] == ["7.png", "Class9", "Class10"]


def test_find_root(tmp_path):
    (tmp_path / "b/c/Split_CSV").mkdir(parents=True)
    (tmp_path / "b/c/Split_CSV/1CLS.csv").touch()
    (tmp_path / "a/__MACOSX/split_csv").mkdir(parents=True)
    assert find_root(tmp_path, "split_csv/1cls.csv") == tmp_path / "b/c"
    (tmp_path / "z/split_csv").mkdir(parents=True)
    (tmp_path / "z/split_csv/1cls.csv").touch()
    assert find_root(tmp_path, "split_csv/*.csv") == tmp_path / "z", "the highest first"
    (tmp_path / "a/loop").symlink_to(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing like `loop/a`.*which holds a, b, z"):
        find_root(tmp_path / "a/..", "loop/a")
    assert find_root(tmp_path, lambda folder: folder.name == "c") == tmp_path / "b/c"
