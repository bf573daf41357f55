import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from zsad_core.cache import cached_arrays, content_key, sha256_of, write_atomically

PARTS = {"weights": "zsad-mini@0123", "views": {"zoom": 1.5, "multi_crop": True}, "files": ["a", "b"]}
KINDS = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
ARRAYS = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in KINDS}
ARRAYS |= {"none": np.empty((0, 3), np.float32), "one": np.array(7.0), "turned": ARRAYS["f4"].T}


def test_arrays_are_computed_once_for_each_content_and_anew_after_a_kill(tmp_path):
    calls, folder = [], tmp_path / "new" / "folder"

    def found(**changes):
        arrays = cached_arrays(folder, "images", PARTS | changes, lambda: calls.append(1) or ARRAYS)
        assert list(arrays) == sorted(ARRAYS)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, ARRAYS[name])
            assert array.dtype == ARRAYS[name].dtype
        return arrays

    found()
    found()["f4"][0, 0] = 9  # in memory alone
    found()
    assert len(calls) == 1
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for keep in (0, 5, 60, -1):
        file.write_bytes(whole[:keep])
        with pytest.warns(RuntimeWarning, match="computing it anew"):
            found()
        assert file.read_bytes() == whole
    found(files=["b", "a"])
    assert len(calls) == 6
    (other,) = {*folder.iterdir()} - {file}
    other.rename(folder / f"images-{content_key(**PARTS)}.safetensors")
    with pytest.warns(RuntimeWarning, match="other parts"):
        found()
    names, folder = {"names": np.array(["a"])}, tmp_path / "none"
    refused("Unknown dtype", cached_arrays, folder, "images", {}, lambda: names, error=SafetensorError)
    assert not [*folder.glob("*")]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "results.csv"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the n")
        raise error

    refused(None, write_atomically, path, write, error=type(error))
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_two_writers_leave_one_whole_file(tmp_path):
    path, together = tmp_path / "result.txt", threading.Barrier(2)

    def write_all(letter):
        def write(temporary):
            with temporary.open("w") as file:
                file.write(letter * 1000)
                together.wait(timeout=10)  # both are in the middle of writing
                file.write(letter * 1000)

        write_atomically(path, write)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_all, "ab"))
    assert path.read_text() in ("a" * 2000, "b" * 2000) and [*tmp_path.iterdir()] == [path]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=4), st.text(min_size=1), json_values)
def test_keys_see_content_and_not_order(parts, name, value):
    key = content_key(**parts)
    assert len(key) == 32 and key == content_key(**dict(reversed(parts.items())))
    if name not in parts:
        assert content_key(**parts, **{name: value}) != key


def test_keys_refuse_what_has_no_canonical_form(tmp_path):
    refused("ndarray", content_key, array=np.ones(2), error=TypeError)
    refused("JSON compliant", content_key, score=float("nan"))
    (tmp_path / "abc").write_bytes(b"abc")  # the first example of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected
