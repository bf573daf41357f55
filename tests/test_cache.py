from __future__ import annotations

import errno
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from zsad_core.cache import cached_arrays, content_key, sha256_of, write_atomically

PARTS = {"weights": "zsad-mini@0123", "views": {"zoom": 1.5, "multi_crop": True}, "files": ["a", "b"]}


class Computation:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"vectors": np.arange(6, dtype=np.float32).reshape(3, 2).T, "labels": np.array([True, False])}


def cache_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_arrays_are_computed_once_for_each_content(tmp_path: Path) -> None:
    compute = Computation()
    for _ in range(3):
        arrays = cached_arrays(tmp_path / "new" / "folder", "images", PARTS, compute)
        assert list(arrays) == ["labels", "vectors"]
        np.testing.assert_array_equal(arrays["vectors"], [[0, 2, 4], [1, 3, 5]])
        assert arrays["vectors"].dtype == np.float32 and arrays["labels"].dtype == bool
    assert compute.calls == 1
    cached_arrays(tmp_path / "new" / "folder", "images", {**PARTS, "files": ["b", "a"]}, compute)
    assert compute.calls == 2


@pytest.mark.parametrize(
    "keep", [0, 5, 60, -1], ids=["empty", "no header", "half a header", "one byte short"]
)
def test_a_file_cut_off_by_a_kill_is_computed_anew(tmp_path: Path, keep: int) -> None:
    compute = Computation()
    cached_arrays(tmp_path, "images", PARTS, compute)
    (file,) = cache_files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    with pytest.warns(RuntimeWarning, match="computing it anew"):
        arrays = cached_arrays(tmp_path, "images", PARTS, compute)
    np.testing.assert_array_equal(arrays["vectors"], [[0, 2, 4], [1, 3, 5]])
    assert compute.calls == 2 and file.read_bytes() == whole


def test_mapped_arrays_are_those_that_were_computed(tmp_path: Path) -> None:
    kinds = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
    expected = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    expected |= {"none": np.empty((0, 3), np.float32), "one": np.array(7.0)}
    for _ in range(2):  # computed, then read
        arrays = cached_arrays(tmp_path, "kinds", PARTS, lambda: expected)
        assert list(arrays) == sorted(expected)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype
    (file,) = cache_files(tmp_path)
    arrays["f4"][0, 0] = 9  # in memory alone
    assert cached_arrays(tmp_path, "kinds", PARTS, lambda: expected)["f4"][0, 0] == 0
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="computing it anew"):
        arrays = cached_arrays(tmp_path, "kinds", PARTS, lambda: expected)
    np.testing.assert_array_equal(arrays["u8"], expected["u8"])


def test_a_file_made_from_other_parts_is_not_trusted(tmp_path: Path) -> None:
    compute = Computation()
    cached_arrays(tmp_path, "images", {**PARTS, "weights": "other"}, compute)
    (other,) = cache_files(tmp_path)
    other.rename(tmp_path / f"images-{content_key(**PARTS)}.safetensors")
    with pytest.warns(RuntimeWarning, match="other parts"):
        cached_arrays(tmp_path, "images", PARTS, compute)
    assert compute.calls == 2


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="Unknown dtype"):
        cached_arrays(tmp_path, "images", {}, lambda: {"names": np.array(["a"])})
    assert cache_files(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "results.csv"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old" and cache_files(tmp_path) == [path]


def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    together = threading.Barrier(2)

    def write_all(letter: str) -> None:
        def write(temporary: Path) -> None:
            with temporary.open("w") as file:
                file.write(letter * 1000)
                together.wait(timeout=10)  # both are in the middle of writing
                file.write(letter * 1000)

        write_atomically(path, write)

    writers = [threading.Thread(target=write_all, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in ("a" * 2000, "b" * 2000) and cache_files(tmp_path) == [path]


def test_a_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.npz", lambda temporary: np.savez(temporary, x=np.ones(2)))
    assert cache_files(tmp_path) == [tmp_path / "x.npz"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), json_values, max_size=4), st.text(min_size=1), json_values)
def test_keys_see_content_and_not_order(parts: dict, name: str, value: object) -> None:
    key = content_key(**parts)
    assert len(key) == 32 and key == content_key(**dict(reversed(parts.items())))
    if name not in parts:
        assert content_key(**parts, **{name: value}) != key


def test_keys_refuse_what_has_no_canonical_form() -> None:
    with pytest.raises(TypeError, match="ndarray"):
        content_key(array=np.ones(2))
    with pytest.raises(ValueError, match="JSON compliant"):
        content_key(score=float("nan"))


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the first example of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected
