"""Prepared folders, and the readers of downloads that several datasets share."""

import errno
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from helpers import contents, refused, saved, written
from PIL import Image

from data_scripts.folders import find_root, folders_in, images_in
from data_scripts.layouts import add_mvtec_layout, by_stem
from data_scripts.prepare import prepared_folder
from zsad_core.datasets import load_dataset


def write(out, values):
    with prepared_folder(out) as folder:
        for value in values:
            image = Image.new("RGB", (4, 3), (value, 0, 0))
            defect, mask = ("dent", np.eye(3, 4)) if value > 1 else ("good", None)
            folder.add(image, category="c", split="test", defect=defect, name=f"{value}.png", mask=mask)


PICTURE, MASKS = Image.new("L", (2, 2), 1), "ground_truth/bad"


def test_same_bytes_whatever_the_order(tmp_path):
    write(tmp_path / "a", (0, 1, 2))
    write(tmp_path / "b", (2, 0, 1))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a/meta.csv").read_bytes() == (
        b"category,split,label,defect,image,mask\n"
        b"c,test,0,good,c/test/good/0.png,\n"
        b"c,test,0,good,c/test/good/1.png,\n"
        b"c,test,1,dent,c/test/dent/2.png,c/ground_truth/dent/2_mask.png\n"
    )
    with Image.open(tmp_path / "a/c/ground_truth/dent/2_mask.png") as mask:
        assert np.array_equal(mask, np.eye(3, 4) * 255)


def test_replaces_a_prepared_folder_without_table_but_nothing_else(tmp_path):
    write(tmp_path / "d", (0, 2))
    (tmp_path / "d/meta.csv").unlink()  # Snakemake deletes an output before it makes it again
    write(tmp_path / "d", (1,))
    assert sorted(contents(tmp_path / "d")) == ["c/test/good/1.png", "meta.csv"]
    written(tmp_path / "mine/thesis.txt")
    refused("no prepared folder, it holds thesis.txt", write, tmp_path / "mine", (1,), error=FileExistsError)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"x"}


def test_killed_between_the_two_renames(tmp_path):
    """The older folder has given up its name and the new one has none yet: nothing may be lost."""
    write(tmp_path / "d", (0, 1))
    (tmp_path / "d").rename(tmp_path / "d.old")
    with pytest.raises(ValueError, match="no image was added"), prepared_folder(tmp_path / "d"):
        assert len(load_dataset(tmp_path / "d")) == 2
    assert len(load_dataset(tmp_path / "d")) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSPC])
def test_copies_where_links_are_refused(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "no link")

    monkeypatch.setattr(os, "link", refuse)
    path = saved(tmp_path / "raw/0.png", PICTURE)
    full = pytest.raises(OSError, match="no link") if code == errno.ENOSPC else nullcontext()
    with full, prepared_folder(tmp_path / "d", link=True) as folder:
        folder.add(path, category="c", split="test", defect="good", name="0.png")
    assert (tmp_path / "d").exists() == (code != errno.ENOSPC)


def test_bad_images_are_refused(tmp_path):
    image, good = Image.new("RGB", (4, 3)), {"category": "c", "split": "test", "defect": "good"}
    for names, change, message in (
        (["a/b.png"], {}, "'a/b.png' cannot be part"),
        (["0.png"], {"category": ".."}, "'..' cannot be part"),
        (["0.png"], {"split": "val"}, "split='val'"),
        (["0.png"], {"mask": np.zeros((4, 3))}, r"shape \(4, 3\): expected \(3, 4\)"),
        (["0.png", "0.png"], {}, "given twice"),
    ):
        with pytest.raises(ValueError, match=message), prepared_folder(tmp_path / "d") as folder:
            for name in names:
                folder.add(image, name=name, **good | change)
    assert not list(tmp_path.iterdir())


def test_files_are_paired_by_stem():
    paths = [Path("a/0020.bmp"), Path("a/Kos_Label.BMP")]
    assert by_stem(paths, "_label") == {"0020": paths[0], "kos": paths[1]}
    assert by_stem([Path("1_mask.png"), Path("2.png")], ("_mask", "")).keys() == {"1", "2"}
    assert by_stem([Path("Cafe\u0301.png")]).keys() == by_stem([Path("caf\u00e9.jpg")]).keys()
    refused("a/0.bmp and 0.BMP differ only in case and ends", by_stem, [Path("a/0.BMP"), Path("a/0.bmp")])


def test_mvtec_layout_of_one_category_without_masks(tmp_path):
    for name in ("Train/ok/1.png", "Test/OK/1.png", "Test/Bad/1.png"):
        saved(tmp_path / "raw" / name, PICTURE)
    with prepared_folder(tmp_path / "out") as out:
        add_mvtec_layout(tmp_path / "raw", out, category="nut")
    dataset = load_dataset(tmp_path / "out")
    names = ["nut/test/good/1.png", "nut/test/Bad/1.png", "nut/train/good/1.png"]
    assert dataset.meta["image"].tolist() == names
    assert dataset.labels.tolist() == [0, 1, 0] and not dataset.has_masks


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("test/bad/1", f"{MASKS}/1_mask", f"{MASKS}/7_mask"), "1 without image in .*: 7_mask"),
        (("test/bad/1", "ground_truth/worse/1_mask"), "ground_truth/bad does not exist, but .*test/bad does"),
        (("test/good/1", "ground_truth/bad/1_mask"), "test/bad does not exist, but .*ground_truth/bad does"),
        (("test/good/1", "test/bad/1", "test/Bad/1"), "differ only in case"),
        (("test/bad/1", "Test/good/1"), "differ only in case"),
    ],
)
def test_nothing_is_left_out_silently(tmp_path, names, message):
    for name in ("train/good/1", *names):
        saved(tmp_path / f"raw/c/{name}.png", PICTURE)
    with pytest.raises(ValueError, match=message), prepared_folder(tmp_path / "out") as out:
        add_mvtec_layout(tmp_path / "raw", out)


def test_lists(tmp_path):
    for name in ("10.png", "2.JPG", "1.Tiff", "No3.jpeg", "no2.bmp", "Thumbs.db", ".5.png", "x.txt"):
        (tmp_path / name).touch()
    for name in ("Class10", "Class9", ".git", "__MACOSX", "7.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "Class1").symlink_to(tmp_path)
    assert [path.name for path in images_in(tmp_path)] == ["1.Tiff", "2.JPG", "10.png", "no2.bmp", "No3.jpeg"]
    assert [path.name for path in folders_in(tmp_path)] == ["7.png", "Class9", "Class10"]


def test_find_root(tmp_path):
    saved(tmp_path / "b/c/Split/1.PNG", PICTURE)
    saved(tmp_path / "a/__MACOSX/split/1.png", PICTURE)
    assert find_root(tmp_path, "split/1.png") == tmp_path / "b/c"
    assert find_root(tmp_path, lambda folder: folder.name == "c") == tmp_path / "b/c"
    shutil.copytree(tmp_path / "b/c", tmp_path / "z")
    assert find_root(tmp_path, "split/*.png") == tmp_path / "z", "the highest first"
    (tmp_path / "a/loop").symlink_to(tmp_path)
    message = "nothing like `loop/a`.*which holds a, b, z"
    refused(message, find_root, tmp_path, "loop/a", error=FileNotFoundError)
