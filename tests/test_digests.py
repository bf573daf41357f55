"""Files are read once for their digests, unless they have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from zsad_core import datasets
from zsad_core.datasets import Digests


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "electrical commutators").mkdir(parents=True)
    for name in ("a", "b", "electrical commutators/c d"):
        (folder / name).write_text(name)
        os.utime(folder / name, ns=(0, 10**9))  # long ago
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    real = datasets.sha256_of
    monkeypatch.setattr(datasets, "sha256_of", lambda path: names.append(Path(path).name) or real(path))
    return names


def of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_each_file_is_read_once_by_any_object(root: Path, tmp_path: Path, reads: list[str]) -> None:
    one, other = (Digests(root, tmp_path / "kept") for _ in range(2))
    assert one.of(["b"]) == [of("b")]
    assert other.of(["electrical commutators/c d"]) == [of("electrical commutators/c d")]  # another worker
    third = Digests(root, tmp_path / "kept")
    names = ["electrical commutators/c d", "a", "b"]
    assert third.of(names) == [of(name) for name in names] == third.of(names)
    assert reads == ["b", "c d", "a"]
    assert Digests(root).of(["a"]) == [of("a")] and reads[3:] == ["a"]  # kept nowhere: read again


def test_a_changed_file_is_read_again(root: Path, tmp_path: Path, reads: list[str]) -> None:
    Digests(root, tmp_path / "kept").of(["a", "b"])
    (root / "a").write_text("A")
    os.utime(root / "a", ns=(0, 10**9 + 1))
    assert Digests(root, tmp_path / "kept").of(["a", "b"]) == [of("A"), of("b")]
    assert reads == ["a", "b", "a"]


def test_a_file_that_changed_just_now_is_not_trusted(root: Path, tmp_path: Path) -> None:
    """It could change once more within one tick of the clock, with the same size."""
    (root / "a").write_text("x")
    same = (root / "a").stat().st_mtime_ns
    found = Digests(root, tmp_path / "kept")
    assert found.of(["a"]) == [of("x")]
    (root / "a").write_text("y")
    os.utime(root / "a", ns=(same, same))
    assert found.of(["a"]) == Digests(root, tmp_path / "kept").of(["a"]) == [of("y")]


def test_a_dataset_elsewhere_has_digests_of_its_own(root: Path, tmp_path: Path, reads: list[str]) -> None:
    Digests(root, tmp_path / "kept").of(["a"])
    moved = root.rename(tmp_path / "other" if (tmp_path / "other").mkdir() else tmp_path / "other" / "data")
    assert Digests(moved, tmp_path / "kept").of(["a"]) == [of("a")]
    assert reads == ["a", "a"]
