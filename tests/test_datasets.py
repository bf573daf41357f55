import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import refused, written
from PIL import Image

from data_scripts.prepare import prepared_folder
from zsad_core import datasets
from zsad_core.datasets import COLUMNS, Digests, load_dataset, stretched_mask

SIZE = (9, 7)  # (W, H)


def picture(value):
    return Image.new("RGB", SIZE, (value, 0, 0))


@pytest.fixture
def root(tmp_path):
    """Two categories; "01" must not become a number, and "nan" must not become a gap."""
    mask = np.zeros(SIZE[::-1], bool)
    mask[2:4, 5] = True
    with prepared_folder(tmp_path / "parts") as folder:
        for category in ("metal_nut1", "01"):
            for i in range(3):
                folder.add(picture(i), category=category, split="train", defect="good", name=f"{i}.png")
            for i in range(4):
                folder.add(picture(10 + i), category=category, split="test", defect="good", name=f"{i}.png")
                own = {"split": "test", "name": f"{i}.png", "mask": mask}
                folder.add(picture(20 + i), category=category, defect="nan", **own)
    return tmp_path / "parts"


def rewrite(root, **cells):
    meta = pd.read_csv(root / "meta.csv", dtype=str, keep_default_na=False)
    for column, value in cells.items():
        meta.loc[len(meta) - 1, column] = value
    meta.to_csv(root / "meta.csv", index=False)


def test_reads_what_was_written(root):
    dataset = load_dataset(root)
    assert (len(dataset), dataset.name, dataset.categories) == (22, "parts", ["01", "metal_nut1"])
    assert tuple(dataset.meta.columns) == COLUMNS
    test = dataset.select(category="metal_nut1", split="test")
    assert test.labels.tolist() == [0] * 4 + [1] * 4
    assert set(test.meta["defect"]) == {"good", "nan"}
    assert [test.image(i).getpixel((0, 0))[0] for i in range(8)] == [10, 11, 12, 13, 20, 21, 22, 23]
    assert test.mask(0).shape == (7, 9) and not test.mask(0).any()
    assert np.argwhere(test.mask(5)).tolist() == [[2, 5], [3, 5]]
    assert dataset.has_masks and not dataset.select(split="train").has_masks


def test_limit_keeps_training_images_and_spreads(root):
    limited = load_dataset(root).limit(2)
    assert len(limited.select(split="train")) == 6
    part = limited.select("01", "test")
    assert part.meta["image"].map(lambda path: Path(path).stem).tolist() == ["0", "3", "0", "3"]
    assert part.labels.tolist() == [0, 0, 1, 1]
    assert len(load_dataset(root).limit(100)) == 22


def test_fingerprint_follows_content_only(root, tmp_path):
    first = load_dataset(root).fingerprint
    moved = root.rename(tmp_path / "elsewhere")
    dataset = load_dataset(moved)
    assert dataset.fingerprint == first
    assert dataset.select("01").fingerprint != dataset.select("metal_nut1").fingerprint
    untouched = dataset.select("metal_nut1").fingerprint
    picture(99).save(moved / dataset.select("01").meta["image"].iloc[0])
    assert load_dataset(moved).fingerprint != first
    assert load_dataset(moved).select("metal_nut1").fingerprint == untouched
    rewrite(moved, split="test")
    assert load_dataset(moved).select("metal_nut1").fingerprint != untouched


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"split": "val"}, "1 row(s) with a split other than train and test: line 23:"),
        ({"label": "2"}, "a label other than 0 and 1"),
        ({"label": "1"}, "contradicts its defect"),
        ({"category": ""}, "an empty category, defect or image"),
        ({"image": "01/train/good/0.png"}, "an image that is listed before"),
        ({"image": "../0.png"}, "a path that is not relative"),
        ({"mask": "/elsewhere/mask.png"}, "a path that is not relative"),
        ({"image": "01\\0.png"}, "a path that is not relative"),
        ({"image": "C:/0.png"}, "a path that is not relative"),
    ],
)
def test_wrong_rows_are_named(root, cells, message):
    rewrite(root, **cells)
    refused(re.escape(message), load_dataset, root)


def test_wrong_tables(tmp_path):
    for name, advice in (("textile", "zsad prepare textile --help"), ("mini_visa", "zsad prepare mini_")):
        refused(advice, load_dataset, tmp_path / name, error=FileNotFoundError)
    columns, meta = "no CSV file with the columns category, .*'mask'", tmp_path / "meta.csv"
    refused(columns, load_dataset, written(meta, "category,split,label\na,test,0\n").parent)
    refused("lists no images", load_dataset, written(meta, ",".join(COLUMNS) + "\n").parent)
    refused("no CSV file", load_dataset, written(meta, "").parent)


def test_what_cannot_be_read_or_chosen(root):
    dataset = load_dataset(root)
    path = root / dataset.meta["image"].iloc[0]
    path.write_bytes(path.read_bytes()[:-40])
    test = dataset.select("01", "test")
    Image.new("L", (7, 9)).save(root / test.meta["mask"].iloc[-1])
    refused(f"image {path} cannot be read: .*cut off or damaged", dataset.image, 0)
    refused(r"3_mask.png cannot be read: it is 7 x 9 \(W x H\).* 9 x 7", test.mask, len(test) - 1)
    refused("category='bolt' .*01, metal_nut1", dataset.select, "bolt")
    refused("split='val'", dataset.select, split="val")
    refused("no images with", dataset.select(split="train").select, split="test")
    for gone in [*(root / "01/test/nan").iterdir(), *(root / "01/test/good").iterdir()]:
        gone.unlink()
    refused("prepare the dataset again", test.image, 0, error=FileNotFoundError)
    error = refused(r"names 8 file\(s\).*; …", load_dataset, root, error=FileNotFoundError)
    assert str(error).count(".png") == 5


def test_a_stretched_mask_keeps_what_is_more_than_half():
    pixels = np.array([[0, 0, 1, 0, 1]], bool)  # 42 % of the pixel that is left, by a triangle
    assert not stretched_mask(pixels, (1, 1)).any()
    assert stretched_mask(~pixels, (1, 1)).all()


def test_files_are_read_once_for_their_digests_unless_they_changed(root, tmp_path, monkeypatch):
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    for path in paths:
        os.utime(root / path, ns=(0, 10**9))  # long ago
    dataset = load_dataset(root, tmp_path / "kept")
    dataset.digests.of(dataset.files)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    reads, real = [], datasets.sha256_of
    monkeypatch.setattr(datasets, "sha256_of", lambda path: reads.append(path) or real(path))
    whole = Digests(root, tmp_path / "kept").of(paths)
    assert whole == [real(root / path) for path in paths] and not reads
    picture(77).save(root / paths[3])
    os.utime(root / paths[3], ns=(0, 10**9 + 1))
    changed = Digests(root, tmp_path / "kept").of(paths)
    assert reads == [root / paths[3]] and [a != b for a, b in zip(whole, changed)].index(True) == 3
    Digests(root).of(paths[:1])  # kept nowhere
    moved = root.rename(tmp_path / "elsewhere")
    Digests(moved, tmp_path / "kept").of(paths[:1])  # another dataset, whatever it holds
    assert len(reads) == 3


def test_a_file_that_changed_just_now_is_not_trusted(tmp_path):
    """It could change once more within one tick of the clock, with the same size."""
    found, path, moment = [], tmp_path / "a", 0
    for content in "xy":
        path.write_text(content)
        moment = moment or path.stat().st_mtime_ns
        os.utime(path, ns=(moment, moment))
        found.append(Digests(tmp_path, tmp_path / "kept").of(["a"]))
    assert found[0] != found[1]
