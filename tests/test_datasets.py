from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_scripts.prepare import prepared_folder
from zsad_core.datasets import COLUMNS, AnomalyDataset, fingerprints, load_dataset

SIZE = (9, 7)  # (W, H)


def picture(value: int, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, SIZE, value if mode == "L" else (value, 0, 0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two categories; "01" must not become a number, and "nan" must not become a gap."""
    mask = np.zeros(SIZE[::-1], bool)
    mask[2:4, 5] = True
    with prepared_folder(tmp_path / "parts") as folder:
        for category in ("metal_nut1", "01"):
            for i in range(3):
                folder.add(picture(i), category=category, split="train", defect="good", name=f"{i}.png")
            for i in range(4):
                folder.add(picture(10 + i), category=category, split="test", defect="good", name=f"{i}.png")
                folder.add(
                    picture(20 + i), category=category, split="test", defect="nan", name=f"{i}.png", mask=mask
                )
    return tmp_path / "parts"


def rewrite(root: Path, **cells: object) -> None:
    """Put values into the last row of meta.csv."""
    meta = pd.read_csv(root / "meta.csv", dtype=str, keep_default_na=False)
    for column, value in cells.items():
        meta.loc[len(meta) - 1, column] = value
    meta.to_csv(root / "meta.csv", index=False)


def test_reads_what_was_written(root: Path) -> None:
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


def test_limit_keeps_training_images_and_spreads(root: Path) -> None:
    limited = load_dataset(root).limit(2)
    assert len(limited.select(split="train")) == 6
    part = limited.select("01", "test")
    assert part.meta["image"].map(lambda path: Path(path).stem).tolist() == ["0", "3", "0", "3"]
    assert part.labels.tolist() == [0, 0, 1, 1]
    assert len(load_dataset(root).limit(100)) == 22


def test_fingerprint_follows_content_only(root: Path, tmp_path: Path) -> None:
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
        ({"image": "01\\train\\0.png"}, "a path that is not relative"),
        ({"image": "C:/0.png"}, "a path that is not relative"),
    ],
)
def test_wrong_rows_are_named(root: Path, cells: dict[str, str], message: str) -> None:
    rewrite(root, **cells)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_dataset(root)


def test_missing_files_are_listed(root: Path) -> None:
    for path in [*(root / "01/test/nan").iterdir(), *(root / "01/test/good").iterdir()]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"names 8 file\(s\).*01/test/good/0.png.*; …") as error:
        load_dataset(root)
    assert str(error.value).count(".png") == 5


def test_missing_folder_or_table_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="zsad prepare textile --help"):
        load_dataset(tmp_path / "textile")
    (tmp_path / "mini_visa").mkdir()
    with pytest.raises(FileNotFoundError, match="meta.csv does not exist.*zsad prepare mini_"):
        load_dataset(tmp_path / "mini_visa")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("category,split,label\na,test,0\n", "no CSV file with the columns category, .*'mask'"),
        (",".join(COLUMNS) + "\n", "lists no images"),
        ("", "is no CSV file with the columns category, "),
    ],
)
def test_wrong_table(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "meta.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path)


def first_image(dataset: AnomalyDataset) -> Path:
    return dataset.root / dataset.meta["image"].iloc[0]


def test_a_damaged_or_missing_image_is_named(root: Path) -> None:
    dataset = load_dataset(root)
    path = first_image(dataset)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"image {path} cannot be read: .*cut off or damaged"):
        dataset.image(0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="prepare the dataset again"):
        dataset.image(0)


def test_mask_of_another_size(root: Path) -> None:
    dataset = load_dataset(root).select("01", "test")
    Image.new("L", (7, 9)).save(root / dataset.meta["mask"].iloc[-1])
    with pytest.raises(ValueError, match=r"3_mask.png cannot be read: it is 7 x 9 \(W x H\).* 9 x 7"):
        dataset.mask(len(dataset) - 1)


def test_unknown_category_and_split(root: Path) -> None:
    dataset = load_dataset(root)
    with pytest.raises(ValueError, match="category='bolt' and split=None: expected one of 01, metal_nut1"):
        dataset.select("bolt")
    with pytest.raises(ValueError, match="split='val'"):
        dataset.select(split="val")
    with pytest.raises(ValueError, match="no images with"):
        dataset.select(split="train").select(split="test")


def test_digests_of_all_parts_are_kept_in_one_go(root: Path, tmp_path: Path) -> None:
    for path in root.rglob("*.png"):
        os.utime(path, ns=(0, 10**9))
    dataset = load_dataset(root, tmp_path / "digests")
    found = fingerprints(dataset.cut(1))
    assert found == [part.fingerprint for part in load_dataset(root).cut(1)] and len(found) == len(dataset)
    assert len(list((tmp_path / "digests").iterdir())) == 1


def test_a_stretched_mask_keeps_what_is_more_than_half():
    from zsad_core.datasets import stretched_mask

    pixels = np.array([[0, 0, 1, 0, 1]], bool)  # 42 % of the pixel that is left, by a triangle
    assert not stretched_mask(pixels, (1, 1)).any()
    assert stretched_mask(~pixels, (1, 1)).all()
