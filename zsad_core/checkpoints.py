"""CLIP's networks and weights: find, check and read them, without executing pickled code."""

import csv
import difflib
import json
import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from open_clip.pretrained import download_pretrained, download_pretrained_from_url
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file
from torch import Tensor, nn

from zsad_core.cache import content_key, sha256_of

SHIPPED = Path(__file__).parent / "weights"  # config, weights and checksum of zsad-mini; pinned.csv

# (architecture, tag) -> the original release's address, and what the file's SHA-256 begins with. open_clip's
# hub entry of ViT-B-16-plus-240's laion400m_e32 points at epoch 31, so a tag proves nothing.
with (SHIPPED / "pinned.csv").open(encoding="utf-8") as _file:
    PINNED = {(row["architecture"], row["tag"]): (row["url"], row["sha256"]) for row in csv.DictReader(_file)}

PLAIN_VISION = {"image_size", "patch_size", "layers", "width", "head_width", "mlp_ratio", "ls_init_value"}
PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}
"""Config values of towers with plain blocks: the image tower a class token or a ResNet's attention pooling,
the text tower a causal mask and CLIP's tokenizer, whose end token is read."""


def read_config(model: str | Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(model_id, open_clip model config, preprocessing that a config file sets).

    model: "zsad-mini", an architecture of open_clip, or the path of a config file (.json), either the plain
        model config or one with "model_cfg" and "preprocess_cfg" as on the hub. A hash of it is in model_id.
    """
    model_id, preprocess = str(model), {}
    path = SHIPPED / "zsad-mini.json" if model == "zsad-mini" else Path(model)
    if path.suffix == ".json":
        config, preprocess = _read_file(path)
        if model != "zsad-mini":
            model_id = f"{path.stem}@{content_key(config=config, preprocess=preprocess)[:12]}"
    elif (config := open_clip.get_model_config(model_id)) is None:
        close = difflib.get_close_matches(model_id, open_clip.list_models()) or ["ViT-B-16-plus-240"]
        expected = f"the path of a .json config, or an architecture of open_clip such as {', '.join(close)}"
        raise ValueError(f"unknown model {model_id!r}; expected 'zsad-mini', {expected}")
    foreign = {"multimodal_cfg", "custom_text"} & config.keys()
    foreign |= config["vision_cfg"].keys() - PLAIN_VISION | config["text_cfg"].keys() - PLAIN_TEXT
    if foreign:
        expected = "open_clip's own Vision Transformer or ResNet and text tower, such as ViT-B-16-plus-240"
        found = f"its config has {', '.join(sorted(foreign))}"
        raise ValueError(f"{model_id} is no CLIP with {expected}: {found}")
    return model_id, config, preprocess


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"model config {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content.get("model_cfg", content)
        _ = config["embed_dim"], config["vision_cfg"], config["text_cfg"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        message = f"{path} is no open_clip model config with embed_dim, vision_cfg and text_cfg ({error!r})"
        raise ValueError(message) from error
    return config, content.get("preprocess_cfg", {})


def resize_grid(model: nn.Module, image_size: int) -> None:
    """Let an open_clip model take square images of `image_size` pixels: resizes its position embeddings,
    bilinear without antialiasing, as for the prompts that AnomalyCLIP's authors released."""
    visual = model.visual
    if not isinstance(visual, VisionTransformer):
        raise ValueError(f"{image_size=}: a ResNet takes no images of another size; leave image_size out")
    patch = visual.patch_size[0]
    if image_size < patch or image_size % patch:
        raise ValueError(f"image_size={image_size}: expected a multiple of the patch edge, {patch} pixels")
    positions, size = visual.positional_embedding.detach(), (image_size // patch, image_size // patch)
    grid = positions[1:].T.unflatten(1, visual.grid_size)[None]  # (1, width, rows, columns)
    grid = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    resized = torch.cat([positions[:1], grid.flatten(2)[0].T])  # (1 + patches, width)
    visual.positional_embedding = nn.Parameter(resized, requires_grad=False)
    visual.image_size, visual.grid_size = (image_size, image_size), size


class WeightsSource(NamedTuple):
    """A weights file, a name made of content, its SHA-256, and the image normalisation of its tag."""

    path: Path | None  # None: random weights
    weights_id: str
    sha256: str | None = None
    preprocess: dict[str, Any] = {}  # noqa: RUF012


def locate_weights(model: str, weights: str | Path | None, quick_gelu: bool, seed: int) -> WeightsSource:
    """The file that `weights` means for an architecture, checked. `encoders.load_encoder` lists its values.
    Weights known to need the other activation are refused: they would load, and give other embeddings."""
    if weights == "random":
        return WeightsSource(None, f"random-seed{seed}")
    if weights is None and model == "zsad-mini":
        path, checksum = SHIPPED / "zsad-mini.safetensors", SHIPPED / "zsad-mini.sha256"
        if not (path.is_file() and checksum.is_file()):
            raise FileNotFoundError(f"{path} or {checksum.name} is missing; restore both from the repository")
        sha256 = _checked(path, checksum.read_text().split()[0], "restore both files from the repository")
        return WeightsSource(path, f"zsad-mini@{sha256[:12]}", sha256)
    path = Path(str(weights)).expanduser()
    if path.is_file():
        if _is_torchscript(path) and not quick_gelu:
            raise ValueError(f"{path} is TorchScript, the form of OpenAI's {_other_activation(model, False)}")
        sha256 = sha256_of(path)
        return WeightsSource(path, f"file@{sha256[:12]}", sha256)
    config = config_of_tag(model, str(weights), quick_gelu)
    address = config.get("url") or f"https://huggingface.co/{config['hf_hub']}"
    path, sha256 = fetch(model, str(weights), address, partial(download_pretrained, config))
    return WeightsSource(path, f"{weights}@{sha256[:12]}", sha256, config)


def config_of_tag(model: str, weights: str, quick_gelu: bool) -> dict[str, Any]:
    """open_clip's entry of a pretrained tag, if it is one of this model and of its activation."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights not in tags:
        found = f"{weights=} is neither an existing file nor a pretrained tag of {model}; its tags: "
        found += f"{', '.join(tags) or 'none'}. 'random' gives random weights"
        raise ValueError(f"{found}; only zsad-mini has its own")
    config = open_clip.get_pretrained_cfg(model, weights)
    if config.get("quick_gelu", False) != quick_gelu:
        raise ValueError(f"{weights!r} names {_other_activation(model, quick_gelu)}")
    return config


def _other_activation(model: str, quick_gelu: bool) -> str:
    """The end of an error about weights that were trained with the other activation."""
    has, trained = ("QuickGELU", "plain GELU") if quick_gelu else ("plain GELU", "QuickGELU")
    variant = model.removesuffix("-quickgelu") if quick_gelu else f"{model}-quickgelu"
    return f"weights, which were trained with {trained}, but {model} has {has}; use model={variant!r}"


def fetch(model: str, tag: str, address: str, download: Callable[[], str]) -> tuple[Path, str]:
    """The file of a pretrained tag and its SHA-256: the one that `PINNED` names, else what `download` gives.
    OSError without a network; ValueError for another file than the pinned one; a warning if none is pinned.
    """
    address, expected = PINNED.get((model, tag), (address, ""))
    try:
        path = Path(download_pretrained_from_url(address) if expected else download())
    except (OSError, RuntimeError) as error:
        advice = f"Without a network, fetch {address} elsewhere and pass the file's path as weights"
        raise OSError(f"weights {tag!r} of {model} could not be fetched ({error}). {advice}") from error
    actual = _checked(path, expected, "delete it and load the tag again")
    if not expected:
        loaded = f"loaded {path} with SHA-256 {actual}. Pass its path to have the same file next time"
        warnings.warn(f"no checksum is pinned for weights {tag!r} of {model}; {loaded}", stacklevel=4)
    return path, actual


def _checked(path: Path, expected: str, remedy: str) -> str:
    """The file's SHA-256; ValueError unless it begins with `expected`."""
    actual = sha256_of(path)
    if not actual.startswith(expected):
        raise ValueError(f"{path} has SHA-256 {actual}, expected {expected}; {remedy}")
    return actual


def load_weights(model: nn.Module, path: Path, model_id: str) -> None:
    """Copies the weights in `path` into an open_clip model; ValueError unless names and shapes fit."""
    state = read_content(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict; expected tensors by name, or these under 'state_dict'")
    if all(key.startswith("module.") for key in state):  # saved from a model on several GPUs
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    beside = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # OpenAI's, no weights
    state = {key: tensor for key, tensor in state.items() if key not in beside}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # names what is missing, not expected, or of another shape
        advice = f"{path} does not fit {model_id}; choose the architecture it was made for"
        raise ValueError(f"{advice}. {textwrap.shorten(str(error), 600)}") from error


def read_content(path: Path) -> Any:
    """The content of a safetensors file, torch file or TorchScript archive, usually a dict of tensors.
    Raises ValueError for a file that is cut off, or that holds code. None is run, except that of the archives
    whose whole SHA-256 is in `PINNED`: OpenAI's."""
    if not path.is_file():
        raise FileNotFoundError(f"file {path} does not exist; correct the path")
    with path.open("rb") as file:
        header = file.read(9)[8:]
    try:
        if header == b"{":  # safetensors: eight bytes of length, then JSON
            return load_file(path)
        if _is_torchscript(path):
            return _read_torchscript(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = f"{path} holds more than tensors, or is no weights file, and loading it could run code"
        advice = f"Convert it to safetensors where you trust it. ({str(error).splitlines()[0]})"
        raise ValueError(f"{found}. {advice}") from error
    except Exception as error:  # each reader has its own for a damaged file
        raise ValueError(f"weights file {path} is cut off or damaged: {error!r}") from error


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with constants beside the data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Torch can only read such an archive by running its program, so it must be one that is known."""
    if (sha256 := sha256_of(path)) not in {digest for _, digest in PINNED.values()}:
        raise pickle.UnpicklingError(f"a TorchScript archive with the unknown SHA-256 {sha256}")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch would like another format
        return torch.jit.load(path, map_location="cpu").state_dict()
