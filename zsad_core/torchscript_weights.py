"""Reads the tensors of a TorchScript archive, the form of OpenAI's CLIP weights, without running the program
in it.

Such an archive is a zip file with a pickle of the module tree (`data.pkl`), raw storages (`data/<n>`) and
TorchScript code, which stays unread. `torch.jit.load` would compile that code. Here a restricted unpickler
knows a few harmless names and turns every module into a plain dict of its attributes; any other name in the
pickle is an error.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class _Module:
    """Any module of the archive; its pickled state becomes its attributes."""


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


class _ModuleTree(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: PurePosixPath) -> None:
        super().__init__(io.BytesIO(archive.read(str(root / "data.pkl"))))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):  # a type of the archive's own program
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return list
        raise pickle.UnpicklingError(f"the archive names {module}.{name}, which no CLIP needs")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, storage_type, key, _, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"the archive refers to a {kind!r}, expected a storage")
        data = bytearray(self._archive.read(str(self._root / "data" / str(key))))
        dtype = _DTYPES[storage_type]
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with constants beside the data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The weights of the archive's module, by the names that its state_dict() would give them.

    Raises pickle.UnpicklingError when the pickle names anything but modules, tensors and lists.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(
            PurePosixPath(n).parent for n in archive.namelist() if PurePosixPath(n).name == "data.pkl"
        )
        tree = _ModuleTree(archive, root).load()
    state: dict[str, Tensor] = {}

    def collect(value: Any, prefix: str) -> None:
        for name, child in vars(value).items():
            if isinstance(child, Tensor) and name != "attn_mask":  # the causal mask is no weight
                state[prefix + name] = child
            elif isinstance(child, _Module):
                collect(child, f"{prefix}{name}.")

    collect(tree, "")
    return state
