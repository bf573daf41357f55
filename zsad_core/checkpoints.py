"""Weights of a CLIP: found, checked and read without executing any of the code that a pickle can carry."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained, download_pretrained_from_url
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zsad_core.cache import sha256_of

SHIPPED = Path(__file__).parent / "weights"  # config, weights and checksum of zsad-mini
CLIP_CACHE = Path("~/.cache/clip").expanduser()  # where open_clip keeps what it downloads
_RELEASE = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/"
_OPENAI = "https://openaipublic.azureedge.net/clip/models/"

# (architecture, tag) -> file at a fixed address, and what its SHA-256 begins with. The addresses are those of
# the original releases: open_clip's hub entry of ViT-B-16-plus-240's laion400m_e32 points at epoch 31, so a
# tag proves nothing.
_L_336, _L, _B = (
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
)
PINNED: dict[tuple[str, str], tuple[str, str]] = {
    ("ViT-B-16-plus-240", "laion400m_e31"): (
        _RELEASE + "vit_b_16_plus_240-laion400m_e31-8fb26589.pt",
        "8fb26589",
    ),
    ("ViT-B-16-plus-240", "laion400m_e32"): (
        _RELEASE + "vit_b_16_plus_240-laion400m_e32-699c4b84.pt",
        "699c4b84",
    ),
    ("ViT-L-14-336-quickgelu", "openai"): (f"{_OPENAI}{_L_336}/ViT-L-14-336px.pt", _L_336),
    ("ViT-L-14-quickgelu", "openai"): (f"{_OPENAI}{_L}/ViT-L-14.pt", _L),
    ("ViT-B-16-quickgelu", "openai"): (f"{_OPENAI}{_B}/ViT-B-16.pt", _B),
    ("ViT-B-16", "laion400m_e32"): (_RELEASE + "vit_b_16-laion400m_e32-55e67d44.pt", "55e67d44"),
    ("ViT-L-14", "laion400m_e32"): (_RELEASE + "vit_l_14-laion400m_e32-3d133497.pt", "3d133497"),
    **{
        (f"{name}-quickgelu", "openai"): (f"{_OPENAI}{digest}/{name}.pt", digest)
        for name, digest in {
            "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
            "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
            "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
            "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
        }.items()
    },
}


# The same of a timm network by its full name. timm's file on the hub has no published checksum.
PINNED_BACKBONES: dict[str, tuple[str, str]] = {
    "wide_resnet50_2.tv_in1k": (
        "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth",
        "95faca4d",
    ),
}


@dataclass(frozen=True)
class WeightsSource:
    """The weights file and its SHA-256 (both None: random), what it is called, and the image normalisation of
    its tag."""

    path: Path | None
    name: str
    sha256: str | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)

    @property
    def weights_id(self) -> str:
        """A name made of content."""
        return self.name if self.sha256 is None else f"{self.name}@{self.sha256[:12]}"


def locate_weights(model: str, weights: str | Path | None, quick_gelu: bool, seed: int) -> WeightsSource:
    """The file that `weights` means for an architecture, checked. `encoders.load_encoder` lists its values.

    quick_gelu: whether the architecture has QuickGELU. Weights known to need the other activation are
        refused, because they would load without a word and give other embeddings.
    """
    if weights == "random":
        return WeightsSource(None, f"random-seed{seed}")
    if weights is None:
        return _shipped_weights(model)
    path = Path(weights).expanduser()
    if path.is_file():
        if is_torchscript(path) and not quick_gelu:
            raise ValueError(
                f"{path} is a TorchScript archive, the form of OpenAI's weights, which were trained with "
                f"QuickGELU, but {model} has plain GELU; use its QuickGELU variant, {model}-quickgelu"
            )
        return WeightsSource(path, "file", sha256_of(path))

    tag_config = _config_of_tag(model, str(weights), quick_gelu)
    return _tag_weights(model, str(weights), tag_config)


@dataclass(frozen=True)
class Download:
    """Where a file of weights comes from, where it is kept (None: the hub decides), and what its SHA-256
    begins with (empty: unknown)."""

    url: str
    path: Path | None
    sha256: str


def download_of(model: str, tag: str, quick_gelu: bool) -> Download:
    """The file that loading a tag of open_clip reads, or fetches when it is not there. Nothing is fetched.

    Raises ValueError as `locate_weights` does, for an unknown tag or one of the other activation.
    """
    config = _config_of_tag(model, tag, quick_gelu)
    url, expected = PINNED.get((model, tag), (config.get("url", ""), ""))
    if config.get("hf_hub") and not expected:
        repository, name = os.path.split(config["hf_hub"])
        name = name or "open_clip_pytorch_model.bin"
        candidates = ("open_clip_model.safetensors", name)  # the order in which open_clip looks
        cached = [try_to_load_from_cache(repository, candidate) for candidate in candidates]
        there = [Path(path) for path in cached if isinstance(path, str)]
        url = f"https://huggingface.co/{repository}/resolve/main/{name}"
        return Download(url, there[0] if there else None, "")
    return Download(url, CLIP_CACHE / url.rsplit("/", 1)[-1], expected)


def _config_of_tag(model: str, weights: str, quick_gelu: bool) -> dict[str, Any]:
    """open_clip's entry of a pretrained tag, if it is one of this model and of its activation."""
    path, tags = Path(weights), open_clip.list_pretrained_tags_by_model(model)
    if weights not in tags:
        if path.suffix in (".pt", ".pth", ".bin", ".safetensors") or len(path.parts) > 1:
            raise FileNotFoundError(f"weights file {path} does not exist")
        raise ValueError(
            f"weights={weights!r} is neither an existing file nor a pretrained tag of {model}; "
            f"its tags: {', '.join(tags) or 'none'}. 'random' gives seeded random weights"
        )
    tag_config = open_clip.get_pretrained_cfg(model, weights)
    if tag_config.get("quick_gelu", False) != quick_gelu:
        trained, other = ("plain GELU", "QuickGELU") if quick_gelu else ("QuickGELU", "plain GELU")
        variant = model.removesuffix("-quickgelu") if quick_gelu else f"{model}-quickgelu"
        raise ValueError(
            f"weights {weights!r} were trained with {trained}, but {model} has {other}: it would load "
            f"them without a word and give other embeddings; use model={variant!r}"
        )
    return tag_config


def _shipped_weights(model: str) -> WeightsSource:
    if model != "zsad-mini":
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none known"
        raise ValueError(
            "weights=None means the weights that ship with the project, which exist for zsad-mini only; "
            f"for {model} give an open_clip tag ({tags}), the path of a checkpoint, or 'random'"
        )
    path, checksum_file = SHIPPED / "zsad-mini.safetensors", SHIPPED / "zsad-mini.sha256"
    for file in (path, checksum_file):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; reinstall the package, or train with data_scripts/train_mini_clip.py"
            )
    expected, actual = checksum_file.read_text().split()[0], sha256_of(path)
    if actual != expected:
        raise ValueError(
            f"{path} is damaged or was replaced: its SHA-256 is {actual}, {checksum_file.name} says "
            f"{expected}; restore both files from the repository"
        )
    return WeightsSource(path, "zsad-mini", actual)


def _tag_weights(model: str, tag: str, tag_config: dict[str, Any]) -> WeightsSource:
    url, expected = PINNED.get((model, tag), ("", ""))
    address = url or tag_config.get("url") or f"https://huggingface.co/{tag_config['hf_hub']}"
    download = (
        partial(download_pretrained_from_url, url) if expected else partial(download_pretrained, tag_config)
    )
    path, actual = fetch(f"weights {tag!r} of {model}", address, expected, download)
    if not expected:
        warnings.warn(
            f"no checksum is pinned for weights {tag!r} of {model}; loaded {path} with SHA-256 {actual}. "
            "To have the same file next time, pass its path as weights",
            stacklevel=4,
        )
    return WeightsSource(path, tag, actual, tag_config)


def fetch_pinned_backbone(full_name: str) -> Path:
    """The file of a timm network in `PINNED_BACKBONES`, checked; errors as of `fetch`."""
    url, expected = PINNED_BACKBONES[full_name]
    return fetch(f"weights of {full_name}", url, expected, partial(download_pretrained_from_url, url))[0]


def fetch(what: str, address: str, expected: str, download: Callable[[], str]) -> tuple[Path, str]:
    """The path that `download` gives, and its SHA-256, which begins with `expected`.

    Raises OSError without a network, with what to do; ValueError for another file.
    """
    try:
        path = Path(download())
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{what} could not be fetched ({error}). Without a network, fetch {address} on another machine "
            "and pass the file's path as weights; 'random' needs none"
        ) from error
    actual = sha256_of(path)
    if not actual.startswith(expected):
        raise ValueError(
            f"{path} has SHA-256 {actual}, expected {expected}...; delete it and load the tag again"
        )
    return path, actual


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, a torch file (weights_only: no code is run) or OpenAI's
    TorchScript.
    """
    state = read_content(path)
    if isinstance(state, dict) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict; expected tensors by name, or these under 'state_dict'")
    if all(key.startswith("module.") for key in state):  # saved from a model on several GPUs
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return dict(state)


def read_content(path: Path) -> Any:
    """What a safetensors file, a torch file or a TorchScript archive holds, usually a dict of tensors.

    Raises ValueError for a file that is cut off, or that holds code, which is not run.
    """
    with path.open("rb") as file:
        start = file.read(9)
    try:
        if start[8:] == b"{":  # safetensors: eight bytes of length, then a JSON header
            return load_file(path)
        if is_torchscript(path):
            return read_torchscript(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, or is no weights file; it was not read, because loading it "
            f"could run code. Convert it to safetensors where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        size = path.stat().st_size
        raise ValueError(f"weights file {path} ({size:,} bytes) is cut off or damaged: {error}") from error


def load_weights(model: nn.Module, path: Path, model_id: str) -> None:
    """Copies the weights in `path` into an open_clip model; raises ValueError unless names and shapes fit
    exactly.
    """
    state = read_state_dict(path)
    for key in (
        "input_resolution",
        "context_length",
        "vocab_size",
    ):  # OpenAI keeps these three numbers beside its weights
        state.pop(key, None)
    if hasattr(model, "text"):
        state = convert_to_custom_text_state_dict(state)
    expected = model.state_dict()
    for key in state.keys() & {"logit_scale", "logit_bias"} & expected.keys():
        if state[key].numel() == 1:
            state[key] = state[key].reshape(expected[key].shape)  # a number, or a vector of one
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in state and state[key].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
            for kind, keys in problems.items()
            if keys
        )
        raise ValueError(
            f"{path} does not fit {model_id} ({listed}); choose the architecture it was made for"
        )
    model.load_state_dict(state)


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
