"""CLIP's networks and their weights: found, checked and read, without executing what a pickle can carry."""

from __future__ import annotations

import csv
import difflib
import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained, download_pretrained_from_url
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zsad_core.cache import content_key, sha256_of

SHIPPED = Path(__file__).parent / "weights"  # config, weights and checksum of zsad-mini; pinned.csv


def read_pinned(path: Path = SHIPPED / "pinned.csv") -> dict[tuple[str, str], tuple[str, str]]:
    """(architecture, tag) -> a file at a fixed address, and what its SHA-256 begins with.

    The addresses are those of the original releases: open_clip's hub entry of ViT-B-16-plus-240's
    laion400m_e32 points at epoch 31, so a tag proves nothing. timm's file on the hub has no published
    checksum either.
    """
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {(row["architecture"], row["tag"]): (row["url"], row["sha256"]) for row in rows}


PINNED = read_pinned()

# architectures


def read_config(model: str | Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(model_id, open_clip model config, preprocessing that a config file asks for).

    model: "zsad-mini", an architecture of open_clip, or the path of a config file (.json), either the plain
        model config or one with "model_cfg" and "preprocess_cfg" as on the hub. A file's model_id carries a
        hash of it, and of preprocessing other than open_clip's default.
    Raises FileNotFoundError for a missing file and ValueError for anything but a Vision Transformer or ResNet
    of open_clip.
    """
    if model == "zsad-mini":
        model_id, (config, preprocess) = "zsad-mini", _read_file(SHIPPED / "zsad-mini.json")
    elif Path(model).suffix == ".json":
        config, preprocess = _read_file(Path(model))
        parts = {"config": config}
        if unusual := _unusual(preprocess):  # left out when empty: such names are older than this part
            parts["preprocess"] = unusual
        model_id = f"{Path(model).stem}@{content_key(**parts)[:12]}"
    else:
        model_id, config, preprocess = str(model), open_clip.get_model_config(str(model)), {}
        if config is None:
            close = difflib.get_close_matches(model_id, open_clip.list_models(), n=3, cutoff=0.5)
            raise ValueError(
                f"unknown model {model_id!r}; expected 'zsad-mini', the path of a .json config, or an "
                f"architecture of open_clip{', such as ' + ', '.join(close) if close else ''}"
            )
    if "timm_model_name" in config["vision_cfg"]:
        raise ValueError(
            f"the image tower of {model_id} is not open_clip's Vision Transformer or ResNet; choose an "
            "architecture such as ViT-B-16-plus-240, ViT-L-14-336-quickgelu or RN50-quickgelu"
        )
    return model_id, config, preprocess


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"model config {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content.get("model_cfg", content)
        _ = config["embed_dim"], config["vision_cfg"], config["text_cfg"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no open_clip model config with embed_dim, vision_cfg and text_cfg ({error!r})"
        ) from error
    return config, content.get("preprocess_cfg", {})


def _unusual(preprocess: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing that is not open_clip's default. `size` never counts: the architecture decides it."""
    usual = json.loads(json.dumps(asdict(PreprocessCfg())))  # tuples as lists
    kept = usual.keys() - {"size"}
    return {k: v for k, v in preprocess.items() if k in kept and v is not None and v != usual[k]}


def build(config: dict[str, Any]) -> nn.Module:
    """The network of an open_clip config with fresh weights, drawn from torch's global random state."""
    config = dict(config)
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "multimodal_cfg" in config:
        return open_clip.CoCa(**config)
    return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config)


def resize_grid(model: nn.Module, image_size: int) -> None:
    """Let an open_clip model take square images of another size: resizes its position embeddings in place.

    image_size: edge in pixels, a multiple of the patch edge. The class token's position stays.
    Bilinear without antialiasing: AnomalyCLIP's paper says nothing, but the prompts that its authors released
    were learned so. VAND's code takes bicubic with antialiasing.
    """
    visual = model.visual
    if not isinstance(visual, VisionTransformer) or visual.positional_embedding.ndim != 2:
        raise ValueError(
            f"image_size={image_size}: only a Vision Transformer with learned positions takes images of "
            "another size; leave image_size out"
        )
    patch = visual.patch_size[0]
    if image_size < patch or image_size % patch:
        raise ValueError(f"image_size={image_size}: expected a multiple of the patch edge, {patch} pixels")
    positions, (rows, columns) = visual.positional_embedding.detach(), visual.grid_size
    grid = positions[1:].T.reshape(1, -1, rows, columns)  # (1, width, rows, columns)
    size = (image_size // patch, image_size // patch)
    grid = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    resized = torch.cat([positions[:1], grid.flatten(2)[0].T])  # (1 + patches, width)
    visual.positional_embedding = nn.Parameter(resized, requires_grad=False)
    visual.image_size, visual.grid_size = (image_size, image_size), size


# where weights are


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

    tag_config = config_of_tag(model, str(weights), quick_gelu)
    return _tag_weights(model, str(weights), tag_config)


def config_of_tag(model: str, weights: str, quick_gelu: bool) -> dict[str, Any]:
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
    if (model, tag) in PINNED:
        path, actual = fetch_pinned(model, tag)
        return WeightsSource(path, tag, actual, tag_config)
    address = tag_config.get("url") or f"https://huggingface.co/{tag_config['hf_hub']}"
    path, actual = fetch(f"weights {tag!r} of {model}", address, "", partial(download_pretrained, tag_config))
    warnings.warn(
        f"no checksum is pinned for weights {tag!r} of {model}; loaded {path} with SHA-256 {actual}. "
        "To have the same file next time, pass its path as weights",
        stacklevel=4,
    )
    return WeightsSource(path, tag, actual, tag_config)


def fetch_pinned(model: str, tag: str) -> tuple[Path, str]:
    """The file that `PINNED` names for a network, and its SHA-256; errors as of `fetch`."""
    url, expected = PINNED[model, tag]
    return fetch(f"weights {tag!r} of {model}", url, expected, partial(download_pretrained_from_url, url))


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
    """Tensors by name from the file's `read_content`; ValueError if it holds anything else."""
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
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, or is no weights file; it was not read, because loading it "
            f"could run code. Convert it to safetensors where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        size = path.stat().st_size
        raise ValueError(f"weights file {path} ({size:,} bytes) is cut off or damaged: {error}") from error


def load_weights(model: nn.Module, path: Path, model_id: str) -> None:
    """Copies the weights in `path` into an open_clip model; ValueError unless names and shapes fit."""
    state = read_state_dict(path)
    for key in ("input_resolution", "context_length", "vocab_size"):  # OpenAI keeps numbers beside weights
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


# OpenAI's TorchScript archives


_DTYPES = {"HalfStorage": torch.float16, "FloatStorage": torch.float32, "LongStorage": torch.int64}


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
