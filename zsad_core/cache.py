"""Files that survive kills, full disks and two writers at once, and arrays cached under keys made of content.
A key is a hash of everything that a result depends on, so no entry ever goes out of date."""

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary_path)`, then rename the file to `path` in one step; missing folders are made.
    On any error, Ctrl-C included, the temporary file is removed and `path` stays as it was. It lies in the
    same folder, because only then is a rename atomic, and keeps the suffix, a choice of format."""
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
    """First 32 hexadecimal digits of the SHA-256 of the parts, written as canonical JSON. Raises TypeError
    for what JSON does not have, ValueError for NaN and infinity."""
    return hashlib.sha256(_canonical_json(parts).encode()).hexdigest()[:32]


def cache_file(folder: str | Path, name: str, parts: dict[str, Any]) -> Path:
    """Where `cached_arrays` keeps its arrays."""
    return Path(folder) / f"{name}-{content_key(**parts)}.safetensors"


def cached_arrays(
    folder: str | Path, name: str, parts: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of `compute()`, read from `cache_file(folder, name, parts)` if they are there.

    `parts` must name everything that the arrays depend on; they are also in the file's metadata. A file that
    is cut off, damaged or made from other parts is computed again, with a RuntimeWarning. Arrays are numeric
    or boolean, sorted by name and memory-mapped: changes stay in memory.
    """
    path, written_parts = cache_file(folder, name, parts), _canonical_json(parts)
    if path.exists():
        try:
            return _read(path, written_parts)
        except (SafetensorError, ValueError, OSError) as error:
            warnings.warn(f"cache file {path} cannot be used ({error}); computing it anew", RuntimeWarning, 2)
    arrays = {key: np.asarray(value, order="C") for key, value in compute().items()}
    # save_file would report a full disk as an error of the format, and hide the file from other users
    content = save(arrays, metadata={"parts": written_parts})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return _read(path, written_parts)


def _read(path: Path, written_parts: str) -> dict[str, np.ndarray]:
    with safe_open(path, framework="pt") as file:  # its tensors lie on the map, those for numpy are copies
        if (file.metadata() or {}).get("parts") != written_parts:
            raise ValueError("it was made from other parts")
        return {key: file.get_tensor(key).numpy() for key in sorted(file.keys())}


def _canonical_json(parts: dict[str, Any]) -> str:
    return json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
