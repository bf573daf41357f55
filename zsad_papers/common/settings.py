"""The parameters of every notebook: one name, one meaning, checked before anything is computed.

A notebook declares the parameters that it uses in its first code cell and leaves them at None; the next cell
turns them into one `Settings`:

    from zsad_papers.common.settings import read_settings
    settings = read_settings(globals())

A parameter that is None takes the value of the profile, `profiles/<profile>.yaml`. Papermill only warns about
a misspelt name and turns some values into other types, so everything is checked here.
`zsad params seeds n_pairs` prints a parameters cell for the names given.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from zsad_core.prompts import ALPHABETS
from zsad_papers import all_papers

PATH_PARAMETERS = (
    *("data_dir", "cache_dir", "results_dir", "captions_file"),
    *("images_dir", "normal_dir", "masks_dir", "labels_from", "prompts_file"),
)
METHODS = ("clip", "rwda", "winclip", "winclip_plus", "anomalyclip")
"""What a folder of one's own images can be scored with."""
THRESHOLDS = ("auto", "references", "folder")
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
DATASET_ROLES = tuple(dict.fromkeys(name for paper in all_papers().values() for name in paper.datasets))
"""Published datasets for which a profile names what stands in their place: a prepared dataset, `name`, or one
category of it, `name/category`. One may stand in several places."""

_EXAMPLES = {str: '"text"', int: "4", float: "0.001", bool: "true", list: "[1, 2, 4]", dict: "{mvtec: name}"}


def parameter(kind: type, meaning: str, **limits: Any) -> Any:
    """A field of `Settings`: its YAML type, its meaning in one line, and any of at_least, above, below,
    at_most, choices, optional (a profile may leave it empty), example (for the error message)."""
    return field(metadata={"kind": kind, "meaning": meaning, **limits})


@dataclass(frozen=True)
class Settings:
    """Every parameter that a notebook can have. Lists arrive as tuples, folders relative to the working
    directory, `weights: shipped` as None."""

    profile: str = parameter(str, "a name in profiles/ or a YAML file: the value of all that is None")
    data_dir: str = parameter(str, "prepared datasets; a relative path starts at the repository root")
    cache_dir: str = parameter(str, "embeddings and scores that are kept between runs")
    results_dir: str = parameter(str, "the result files that this run writes")
    datasets: dict[str, str | None] = parameter(dict, "published dataset: the one in its place (null: none)")
    model: str = parameter(str, "zsad-mini, or the name of an open_clip architecture")
    weights: str | None = parameter(str, "shipped, an open_clip tag, a checkpoint file, or random")
    device: str = parameter(str, "auto, cpu, cuda, cuda:<number> or mps", example='"auto"')
    precision: str = parameter(str, "fp32 or bf16", choices=("fp32", "bf16"))
    seeds: int = parameter(int, "how many seeds; every mean and standard deviation is over these", at_least=1)
    seed: int = parameter(int, "the first seed; the others follow it", at_least=0, below=2**31)
    n_pairs: int = parameter(int, "random-word prompt pairs that train one FNN (N_p)", at_least=2)
    pool_pairs: int = parameter(int, "prompt pairs embedded once; each seed draws from them", at_least=2)
    pair_counts: tuple[int, ...] = parameter(list, "training-set sizes to compare, in pairs", at_least=2)
    shots: tuple[int, ...] = parameter(list, "numbers of normal reference images", at_least=1)
    ablation_shots: tuple[int, ...] = parameter(
        list, "numbers of reference images in WinCLIP+'s ablations", at_least=1
    )
    reference_seeds: int = parameter(int, "how many draws of reference images", at_least=1)
    scales: tuple[int, ...] = parameter(list, "window sizes of WinCLIP, in patches", at_least=1)
    temperature: float | None = parameter(
        float, "of WinCLIP's softmax (null in a profile: the model's own)", above=0, optional=True
    )
    map_size: int | None = parameter(
        int,
        "shorter edge at which maps meet masks (null in a profile: that of the masks)",
        at_least=1,
        optional=True,
    )
    backbone: str = parameter(str, "of SPADE, PaDiM and PatchCore: clip, or the name of a timm architecture")
    backbone_weights: str = parameter(str, "of a timm backbone: a tag, a .safetensors file, or random")
    clip_backbones: dict[str, str] = parameter(
        dict, "CLIPs to compare, by published name: architecture and weights", example="{rn50: RN50 openai}"
    )
    prompt_model: str = parameter(str, "of AnomalyCLIP: zsad-mini, or the name of an open_clip architecture")
    prompt_weights: str | None = parameter(
        str, "of AnomalyCLIP: shipped, an open_clip tag, a checkpoint file, or random"
    )
    prompt_image_size: int | None = parameter(
        int,
        "edge of AnomalyCLIP's input in pixels (null in a profile: the model's own)",
        at_least=1,
        optional=True,
    )
    prompt_epochs: int | None = parameter(
        int, "epochs of all that is learned from images (null in a profile: each method's own)",
        at_least=1, optional=True,
    )  # fmt: skip
    context_lengths: tuple[int, ...] = parameter(list, "learned words in a prompt to compare (E)", at_least=1)
    prompt_depths: tuple[int, ...] = parameter(
        list, "text blocks with learned tokens to compare (M)", at_least=1
    )
    token_lengths: tuple[int, ...] = parameter(
        list, "learned tokens in a text block to compare (L)", at_least=1
    )
    multi_crop: bool = parameter(bool, "score six views of a test image (false: the whole image only)")
    batch_size: int = parameter(int, "embeddings in one training batch, two for each pair", at_least=2)
    epochs: int = parameter(int, "passes over the training pairs", at_least=1)
    lr: float = parameter(float, "learning rate of the first epoch", above=0)
    weight_decay: float = parameter(float, "weight decay of AdamW", at_least=0)
    dropout: float = parameter(float, "dropout rate in the FNN", at_least=0, below=1, example="0.5")
    alphabet: str = parameter(str, "symbols of the random words", choices=tuple(ALPHABETS))
    hidden: tuple[int, ...] = parameter(list, "widths of the FNN's hidden layers", at_least=1)
    limit_images: int | None = parameter(
        int,
        "at most so many test images a category and label (null in a profile: all)",
        at_least=1,
        optional=True,
    )
    captions_file: str | None = parameter(
        str, "COCO captions JSON (null in a profile: this project's own sentences)", optional=True
    )
    tsne_points: int = parameter(int, "embeddings of each kind in a t-SNE plot", at_least=10)
    images_dir: str | None = parameter(
        str, "a folder of your own images (null in a profile: an example from the datasets)", optional=True
    )
    normal_dir: str | None = parameter(
        str, "a folder of a few normal images (null in a profile: none)", optional=True
    )
    labels_from: str | None = parameter(
        str, "labels of your images: folders, or a CSV file (null in a profile: none)", optional=True
    )
    masks_dir: str | None = parameter(
        str, "a folder of masks of your images (null in a profile: none)", optional=True
    )
    scored_with: str = parameter(str, "the method for your images", choices=METHODS)
    object_in_images: str = parameter(str, "what the prompts call the thing in your images")
    prompts_file: str | None = parameter(
        str, "learned prompts for AnomalyCLIP on your images (null in a profile: shipped)", optional=True
    )
    threshold_from: str = parameter(
        str, "auto (references if there are any), references or folder", choices=THRESHOLDS
    )
    threshold_quantile: float | None = parameter(
        float,
        "of the scores there (null in a profile: 1 of references, 0.9 of a folder)",
        at_least=0,
        at_most=1,
        optional=True,
    )
    threshold: float | None = parameter(
        float, "a number that decides (null in a profile: the quantile does)", optional=True
    )


_FIELDS: dict[str, Mapping[str, Any]] = {f.name: f.metadata for f in fields(Settings)}
KINDS: dict[str, type] = {name: metadata["kind"] for name, metadata in _FIELDS.items()}
MEANINGS: dict[str, str] = {name: metadata["meaning"] for name, metadata in _FIELDS.items()}


def read_settings(namespace: Mapping[str, Any]) -> Settings:
    """Check a notebook's parameters and fill those left at None from the profile.

    namespace: `globals()` of the notebook, or a dict of parameters. Any other public name with a plain value
    is taken for a misspelt one, unless a `Settings` is there already (the cell runs again, by hand).
    Raises ValueError (name, value or combination) or FileNotFoundError (profile); the message says what was
    expected and how to write it.
    """
    if not any(isinstance(value, Settings) for value in namespace.values()):
        _refuse_unknown((n for n, value in namespace.items() if _looks_like_parameter(n, value)), "notebook")
    profile = namespace.get("profile") or "mini"
    if not isinstance(profile, str):
        raise _wrong("profile", profile, "the name of a profile or the path of a YAML file")
    values = read_profile(profile)
    values |= {name: namespace[name] for name in KINDS if namespace.get(name) is not None}
    values["profile"] = profile
    checked = {name: _check(name, value) for name, value in values.items()}
    checked |= {n: _from_root(checked[n]) for n in PATH_PARAMETERS if checked[n] != "folders"}
    for name in ("weights", "prompt_weights"):
        if (checked[name] or "").endswith(CHECKPOINT_SUFFIXES):
            checked[name] = _from_root(checked[name])
    settings = Settings(**checked)
    _check_together(settings)
    return settings


def read_profile(profile: str) -> dict[str, Any]:
    """The raw values of `profiles/<profile>.yaml`, or of the YAML file at this path. It must be whole."""
    path = profile_path(profile)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"profile {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"profile {path} must hold lines 'name: value', got {type(values).__name__}")
    values.pop("profile", None)  # in the file for papermill's -f, which knows no profile otherwise
    _refuse_unknown(values, f"profile {path.name}")
    missing = [name for name in KINDS if name not in values and name != "profile"]
    if missing:
        raise ValueError(f"profile {path} lacks {', '.join(missing)}; profiles/mini.yaml has every name")
    return values


def profile_path(profile: str) -> Path:
    """The YAML file of a profile; raises FileNotFoundError naming those that exist."""
    root = repository_root()
    if profile.endswith((".yaml", ".yml")):
        candidates = [Path(profile), root / profile]
    else:
        candidates = [root / "profiles" / f"{profile}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in (root / "profiles").glob("*.yaml"))) or "none found"
    raise FileNotFoundError(
        f"unknown profile {profile!r}: expected one of {known}, or the path of a YAML file that exists"
    )


def repository_root() -> Path:
    """The checkout: the nearest folder with `profiles/` and `zsad_core/`, upwards from the working directory,
    then from this package; the working directory when there is none."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "profiles").is_dir() and (folder / "zsad_core").is_dir():
                return folder
    return Path.cwd()


def folder_and_category(dataset: str) -> tuple[str, str | None]:
    """The prepared folder that a value of `datasets` means, and the category if it is only that one's.

    >>> folder_and_category("mini_visa"), folder_and_category("mini_medical_pixel/skin")
    (('mini_visa', None), ('mini_medical_pixel', 'skin'))
    """
    folder, _, category = dataset.partition("/")
    return folder, category or None


def parameters_cell(names: Iterable[str] | None = None) -> str:
    """Source of a parameters cell: the profile, then `names` in the order of `Settings` (None: all)."""
    wanted = set(KINDS if names is None else names) | {"profile"}
    _refuse_unknown(wanted, "list of names")
    return "\n".join(
        f"{name}: {KINDS[name].__name__} = {chr(34) + 'mini' + chr(34) if name == 'profile' else None}"
        f"  # {MEANINGS[name]}"
        for name in KINDS
        if name in wanted
    )


def _looks_like_parameter(name: str, value: Any) -> bool:
    if name.startswith("_") or name in ("In", "Out", "exit", "quit"):  # IPython's own
        return False
    return isinstance(value, (str, int, float, bool, list, tuple, dict))


def _refuse_unknown(names: Iterable[str], where: str) -> None:
    for name in sorted(set(names) - set(KINDS)):
        close = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown parameter {name!r} in the {where}: {hint}Known: {', '.join(KINDS)}")


def _wrong(name: str, value: Any, expected: str) -> ValueError:
    kind, kind_given = KINDS[name], type(value).__name__
    example = _FIELDS[name].get("example", _EXAMPLES[kind])
    if kind is str and kind_given in ("int", "float"):
        example = f'"{value}"'
    return ValueError(
        f"parameter {name} = {value!r} ({kind_given}): expected {expected}. "
        f"In a YAML file (papermill -f) write for example '{name}: {example}'"
    )


def _check(name: str, value: Any) -> Any:
    """The value with type and limits checked; lists become tuples, `shipped` becomes None."""
    metadata = _FIELDS[name]
    kind = metadata["kind"]
    if value is None:
        if metadata.get("optional"):
            return None
        raise _wrong(name, value, f"a value: {metadata['meaning']}")
    if kind is list:
        if not isinstance(value, (list, tuple)) or not value:
            raise _wrong(name, value, "a list of whole numbers, not empty")
        return tuple(_check_number(name, item, int) for item in value)
    if kind in (int, float):
        return _check_number(name, value, kind)
    if not isinstance(value, kind):
        words = {
            str: "text (in quotes where it looks like a number)",
            bool: "true or false, without quotes (papermill -p knows True and False only)",
        }
        raise _wrong(name, value, words.get(kind, "a mapping of names to names"))
    if kind is str and (not value or value not in metadata.get("choices", (value,))):
        expected = " or ".join(metadata["choices"]) if "choices" in metadata else "text that is not empty"
        raise _wrong(name, value, expected)
    if name == "datasets":
        return _check_datasets(value)
    if name == "clip_backbones":
        return _check_backbones(value)
    if name == "device" and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise _wrong(name, value, metadata["meaning"])
    if name in ("weights", "prompt_weights"):
        return None if value == "shipped" else value
    return value


def _check_number(name: str, value: Any, kind: type) -> int | float:
    metadata = _FIELDS[name]
    if isinstance(value, bool) or not isinstance(value, (int,) if kind is int else (int, float)):
        words = {list: "whole numbers", int: "a whole number", float: "a number"}
        raise _wrong(name, value, words[metadata["kind"]])
    if not math.isfinite(value):
        raise _wrong(name, value, "a finite number")
    limits = (
        ("at_least", lambda limit: value >= limit, "at least"),
        ("above", lambda limit: value > limit, "above"),
        ("below", lambda limit: value < limit, "below"),
        ("at_most", lambda limit: value <= limit, "at most"),
    )
    for limit, holds, words in limits:
        if limit in metadata and not holds(metadata[limit]):
            raise _wrong(name, value, f"{words} {metadata[limit]}")
    return kind(value)


def _check_datasets(value: dict[str, Any]) -> dict[str, str | None]:
    for role, dataset in value.items():
        if role not in DATASET_ROLES:
            raise _wrong("datasets", value, f"the keys {', '.join(DATASET_ROLES)}, not {role!r}")
        if dataset is not None and not (
            isinstance(dataset, str) and dataset.count("/") < 2 and all(dataset.split("/"))
        ):
            raise _wrong("datasets", value, f"a dataset's name, name/category or null for {role}")
    return {role: value.get(role) for role in DATASET_ROLES}


def _check_backbones(value: dict[str, Any]) -> dict[str, str]:
    for text in value.values():
        if not isinstance(text, str) or len(text.split()) != 2:
            raise _wrong("clip_backbones", value, "an architecture and its weights for each name")
    return value


def _check_together(settings: Settings) -> None:
    needed = max(settings.n_pairs, *settings.pair_counts)
    if settings.pool_pairs < needed:
        raise ValueError(
            f"pool_pairs = {settings.pool_pairs} is less than {needed}, the largest of n_pairs and "
            "pair_counts: raise pool_pairs or lower the others"
        )
    for prefix in ("", "prompt_"):
        model = getattr(settings, f"{prefix}model")
        if getattr(settings, f"{prefix}weights") is None and model != "zsad-mini":
            raise ValueError(
                f"{prefix}weights = shipped exist only for the model zsad-mini, got {prefix}model = "
                f"{model!r}: give an open_clip tag, the path of a checkpoint, or random"
            )


def _from_root(path: str | None) -> str | None:
    """A path of the repository as seen from the working directory: no machine's path shows up in a page."""
    if path is None or Path(path).is_absolute():
        return path
    return Path(os.path.relpath(repository_root() / path)).as_posix()


def main(arguments: list[str]) -> int:
    """`zsad params`: a parameters cell for a notebook."""
    parser = argparse.ArgumentParser(prog="zsad params", description=main.__doc__.split(": ")[1])
    parser.add_argument("names", nargs="*", help="of parameters; none: all")
    try:
        print(parameters_cell(parser.parse_args(arguments).names or None))
    except ValueError as error:
        parser.error(str(error))
    return 0
