from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts.prepare import prepared_folder
from zsad_core.datasets import load_dataset


def write(out: Path, values: tuple[int, ...]) -> None:
    with prepared_folder(out) as folder:
        for value in values:
            image = Image.new("RGB", (4, 3), (value, 0, 0))
            defect, mask = ("dent", np.eye(3, 4)) if value > 1 else ("good", None)
            folder.add(image, category="c", split="test", defect=defect, name=f"{value}.png", mask=mask)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_bytes_whatever_the_order(tmp_path):
    write(tmp_path / "a", (0, 1, 2))
    write(tmp_path / "b", (2, 0, 1))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
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
    assert sorted(tree(tmp_path / "d")) == ["c/test/good/1.png", "meta.csv"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="no prepared folder, it holds thesis.txt"):
        write(tmp_path / "mine", (1,))
    assert tree(tmp_path / "mine") == {"thesis.txt": b"x"}


def test_killed_between_the_two_renames(tmp_path):
    """The older folder has given up its name and the new one has none yet: nothing may be lost."""
    write(tmp_path / "d", (0, 1))
    (tmp_path / "d").rename(tmp_path / "d.old")
    with pytest.raises(ValueError, match="no image was added"), prepared_folder(tmp_path / "d"):
        assert len(load_dataset(tmp_path / "d")) == 2
    assert len(load_dataset(tmp_path / "d")) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def files(folder: Path, n: int = 2) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(n)]
    for path in paths:
        Image.new("RGB", (4, 3)).save(path)
    return paths


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOSPC])
def test_copies_where_links_are_refused(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, "no link")

    monkeypatch.setattr(os, "link", refuse)
    path = files(tmp_path / "raw", 1)[0]
    refused = pytest.raises(OSError, match="no link") if code == errno.ENOSPC else nullcontext()
    with refused, prepared_folder(tmp_path / "d", link=True) as folder:
        folder.add(path, category="c", split="test", defect="good", name="0.png")
    assert (tmp_path / "d").exists() == (code != errno.ENOSPC)


def test_bad_images_are_refused(tmp_path):
    image = Image.new("RGB", (4, 3))
    broken = files(tmp_path / "raw", 1)[0]
    broken.write_bytes(broken.read_bytes()[:45])
    good = {"category": "c", "split": "test", "defect": "good", "name": "0.png"}
    for added, change, message in (
        (image, {"name": "a/b.png"}, "'a/b.png' cannot be part"),
        (image, {"category": ".."}, "'..' cannot be part"),
        (image, {"split": "val"}, "split='val'"),
        (image, {"mask": np.zeros((4, 3))}, r"shape \(4, 3\): expected \(3, 4\)"),
        (broken, {}, f"{broken} cannot be read"),
    ):
        with pytest.raises(ValueError, match=message), prepared_folder(tmp_path / "d") as folder:
            folder.add(added, **{**good, **change})
    with pytest.raises(ValueError, match="given twice"), prepared_folder(tmp_path / "d") as folder:
        folder.add(image, **good)
        folder.add(image, **good)
    with pytest.raises(ValueError, match="no image was added"), prepared_folder(tmp_path / "d"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]
    with prepared_folder(tmp_path / "d", check=False) as folder:
        folder.add(broken, **good)
