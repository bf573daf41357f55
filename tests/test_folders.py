from __future__ import annotations

from pathlib import Path

import pytest

from data_scripts.folders import child, find_root, folders_in, images_in, read_table


def test_lists(tmp_path: Path) -> None:
    for name in ("10.png", "2.JPG", "1.Tiff", "No3.jpeg", "no2.bmp", "Thumbs.db", ".5.png", "x.txt"):
        (tmp_path / name).touch()
    for name in ("Class10", "Class9", ".git", "__MACOSX", "7.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "Class1").symlink_to(tmp_path)
    assert [path.name for path in images_in(tmp_path)] == ["1.Tiff", "2.JPG", "10.png", "no2.bmp", "No3.jpeg"]
    assert [path.name for path in folders_in(tmp_path)] == ["7.png", "Class9", "Class10"]


def test_find_root(tmp_path: Path) -> None:
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


def test_child(tmp_path: Path) -> None:
    for name in ("COVID", "Normal", "masks", "Other", "other"):
        (tmp_path / name).mkdir()
    assert child(tmp_path, "covid-19", "covid") == tmp_path / "COVID"
    assert child(tmp_path, "images") is None
    with pytest.raises(ValueError, match="ther differ only in case"):
        child(tmp_path, "other")


def test_tables(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b'\xef\xbb\xbfid, label\r\n0,"a, b"\r\n')
    with read_table(table) as rows:
        assert list(rows) == [{"id": "0", "label": "a, b"}]
    for content in (b"\xff\xfeid", b"id\n" + b"9" * 200_000):
        table.write_bytes(content)
        with pytest.raises(ValueError, match=r"t.csv is no table \("), read_table(table) as rows:
            list(rows)
