from __future__ import annotations

import pytest

from data_scripts.folders import find_root, folders_in, images_in


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
