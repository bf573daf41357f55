"""Files that survive kills, full disks and two writers at once, and arrays cached under keys made of content.

A key is a hash of everything that a result depends on (weights, dataset, views, precision ...), so nothing
ever has to be declared out of date: other inputs, other file name.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

_DTYPES = {
    "BOOL": np.bool_,
    **{f"{k.upper()}{8 * n}": np.dtype(f"{k}{n}") for k in "fiu" for n in (1, 2, 4, 8) if (k, n) != ("f", 1)},
}
"""Safetensors' names of the types that can be cached."""


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write(temporary_path)` make a file, then give it its name in one step.

    Readers see the old file or the whole new one, never a part. On any error, a full disk or Ctrl-C included,
    the temporary file is removed and an existing `path` stays as it was. Missing parent folders are made. The
    temporary name lies in the same folder (a rename is only atomic within a file system) and ends like
    `path`, because some writers choose the format by the suffix.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_atomically(path, lambda temporary: temporary.write_text("whole"))
    >>> path.read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp.{path.name}")
    try:
        write(temporary)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # the data must be on the disk before the name is
        temporary.replace(path)
    except BaseException:  # Ctrl-C is no Exception
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits; the file may be larger than the memory."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(**parts: Any) -> str:
    """First 32 hexadecimal digits of the SHA-256 of the parts, written as canonical JSON.

    Parts are strings, numbers, booleans, None, and lists and dicts of these; the order of names does not
    matter. Raises TypeError for anything else, ValueError for NaN and infinity: both have no canonical JSON.

    >>> content_key(a=1, b=[True, None]) == content_key(b=[True, None], a=1)
    True
    >>> content_key(a=1) == content_key(a=1.0)
    False
    """
    return hashlib.sha256(_canonical_json(parts).encode()).hexdigest()[:32]


def cached_arrays(
    folder: str | Path,
    name: str,
    parts: dict[str, Any],
    compute: Callable[[], dict[str, np.ndarray]],
    *,
    mapped: bool = False,
) -> dict[str, np.ndarray]:
    """The arrays of `compute()`, read from `<folder>/<name>-<content_key(**parts)>.safetensors` if they are
    there.

    `parts` must name everything that the arrays depend on; they are stored in the file's metadata for people
    to read. A file that is cut off, damaged or made from other parts is computed anew with a RuntimeWarning.
    mapped: give read-only arrays that stay on the disk and are read where they are looked at.
    Arrays are numeric or boolean, and come back sorted by name, the same whether computed or read. Two
    processes that compute the same key at once both succeed, the last one's file stays.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> cached_arrays(folder, "squares", {"n": 3}, lambda: {"x": np.arange(3) ** 2})["x"]
    array([0, 1, 4])
    >>> cached_arrays(folder, "squares", {"n": 3}, lambda: {"x": np.array([])})["x"]  # read, not computed
    array([0, 1, 4])
    """
    path, written_parts = _path(folder, name, parts), _canonical_json(parts)
    if path.exists():
        try:
            return _read(path, written_parts, mapped)
        except (SafetensorError, ValueError, OSError) as error:
            warnings.warn(f"cache file {path} cannot be used ({error}); computing it anew", RuntimeWarning, 2)
    return _write(path, written_parts, compute(), mapped)


def cached_parts(
    folder: str | Path,
    parts: Sequence[tuple[str, dict[str, Any]]],
    compute: Callable[[list[int]], Generator[dict[str, np.ndarray], None, None]],
    *,
    mapped: bool = False,
) -> Generator[dict[str, np.ndarray], None, None]:
    """`cached_arrays` for several (name, parts) in turn, where those that are not there are computed in one
    go.

    compute: a generator function. Called with the places of these, it gives their arrays one after the other,
    each of which is written before the next is asked for; so what a killed run has finished is there for the
    next one. Nothing runs before the first is asked for.

    >>> import tempfile
    >>> folder, both = tempfile.mkdtemp(), [("squares", {"n": 2}), ("squares", {"n": 3})]
    >>> squares = lambda places: ({"x": np.arange(both[i][1]["n"]) ** 2} for i in places)
    >>> [part["x"].tolist() for part in cached_parts(folder, both, squares)]
    [[0, 1], [0, 1, 4]]
    """
    absent = [i for i, (name, own) in enumerate(parts) if not _path(folder, name, own).exists()]
    waiting = set(absent)
    with closing(compute(absent)) as computed:
        for i, (name, own) in enumerate(parts):
            if i in waiting:  # computed even if another process has written it by now: the others follow
                yield _write(_path(folder, name, own), _canonical_json(own), next(computed), mapped)
            else:
                yield cached_arrays(folder, name, own, lambda i=i: next(compute([i])), mapped=mapped)


def _path(folder: str | Path, name: str, parts: dict[str, Any]) -> Path:
    return Path(folder) / f"{name}-{content_key(**parts)}.safetensors"


def _write(
    path: Path, written_parts: str, computed: dict[str, np.ndarray], mapped: bool
) -> dict[str, np.ndarray]:
    arrays = {key: np.asarray(value, order="C") for key, value in sorted(computed.items())}
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            name = path.name.rpartition("-")[0]
            raise TypeError(
                f"array {key!r} for cache {name!r} is {array.dtype}; only numbers and booleans can be cached"
            )
    # save, not save_file: that one reports a full disk as an error of the format and hides the file from
    # other users
    content = save(arrays, metadata={"parts": written_parts})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return _mapped(path) if mapped else arrays


def _read(path: Path, written_parts: str, mapped: bool) -> dict[str, np.ndarray]:
    with safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}).get("parts") != written_parts:
            raise ValueError("it was made from other parts")
        return _mapped(path) if mapped else {key: file.get_tensor(key) for key in sorted(file.keys())}


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: 8 bytes of length, a JSON header with offsets, then the numbers."""
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start))
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in sorted(header.items()):
        dtype, shape, (first, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        # nothing can be mapped where there is nothing
        arrays[name] = (
            np.memmap(path, dtype, "r", 8 + start + first, shape) if end > first else np.empty(shape, dtype)
        )
    return arrays


def _canonical_json(parts: dict[str, Any]) -> str:
    try:
        return json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise TypeError(
            f"parts of a key must be plain strings, numbers, booleans, lists or dicts: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"parts of a key must be finite numbers, without cycles: {error}") from error
