"""The parameters of every notebook: one name, one meaning, checked before anything is computed. One that is
None takes its value from the profile. A paper's own parameters are in its `settings.py`."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import click
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from profiles import profile_path, read_values, refuse_unknown
from zsad_papers import all_papers

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
OURS = ("data_dir", "cache_dir", "results_dir")  # of the checkout, from whatever folder a page runs

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
settings_class = dataclass(config=_CONFIG, frozen=True, kw_only=True)  # decorates each class of settings


def published_datasets() -> tuple[str, ...]:
    """The papers' datasets."""
    return tuple(dict.fromkeys(name for paper in all_papers().values() for name in paper.datasets))


def _with_all_datasets(value: dict[str, str | None]) -> dict[str, str | None]:
    unknown = [name for name in value if name not in published_datasets()]
    if unknown:
        raise ValueError(f"unknown dataset {unknown[0]!r}; the keys are {', '.join(published_datasets())}")
    return {name: value.get(name) for name in published_datasets()}


def parameter(meaning: str, **limits: Any) -> Any:
    """A field of settings: its meaning in one line; limits, and a default, as in `pydantic.Field`."""
    return Field(description=meaning, **limits)


Text = Annotated[str, Field(min_length=1)]
NumbersFrom1 = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, strict=False)]
NumbersFrom2 = Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1, strict=False)]
Dataset = Annotated[str, Field(pattern="^[^/]+(/[^/]+)?$")]
Datasets = Annotated[dict[str, Dataset | None], AfterValidator(_with_all_datasets)]


@settings_class
class Settings:
    """The parameters that several papers share. Lists arrive as tuples, folders relative to the working
    directory, `weights: shipped` as None."""

    profile: Text = parameter("a name in profiles/ or a YAML file: the value of all that is None")
    data_dir: Text = parameter("prepared datasets; relative to the repository root")
    cache_dir: Text = parameter("embeddings and scores that are kept between runs")
    results_dir: Text = parameter("the result files that this run writes")
    datasets: Datasets = parameter("published dataset: its stand-in (null: none)")
    allow_missing: bool = parameter("go on although no dataset of the page is prepared")
    model: Text = parameter("zsad-mini, or the name of an open_clip architecture")
    weights: Text | None = parameter("shipped, an open_clip tag, a checkpoint file, or random")
    device: str = parameter("auto, cpu, cuda, cuda:<number> or mps", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["fp32", "bf16"] = parameter("fp32 or bf16")
    seed: int = parameter("the first seed; the others follow it", ge=0, lt=2**31)
    shots: NumbersFrom1 = parameter("numbers of normal reference images")
    ablation_shots: NumbersFrom1 = parameter("numbers of references in WinCLIP+'s ablations")
    reference_seeds: int = parameter("how many draws of reference images", ge=1)
    scales: NumbersFrom1 = parameter("window sizes of WinCLIP, in patches")
    temperature: float | None = parameter("of prompts' softmax (null: the model's own)", gt=0)
    map_size: int | None = parameter("shorter edge at which maps meet masks (null: the masks' own)", ge=1)
    backbone: Text = parameter("of SPADE, PaDiM, PatchCore: clip or timm name")
    backbone_weights: Text = parameter("tag, file, package, random")
    limit_images: int | None = parameter("most test images a category and label (null: all)", ge=1)

    @model_validator(mode="after")
    def _weights_are_there(self) -> Self:
        for prefix in ("", "prompt_"):
            model = getattr(self, f"{prefix}model", "zsad-mini")
            if getattr(self, f"{prefix}weights", "") is None and model != "zsad-mini":
                raise ValueError(
                    f"{prefix}weights = shipped exist only for the model zsad-mini, got {prefix}model = "
                    f"{model!r}: give an open_clip tag, the path of a checkpoint, or random"
                )
        return self


@settings_class
class YourImages(Settings):
    """The parameters of the page about a folder of your own images."""

    multi_crop: bool = parameter("score six views of a test image (false: the whole image only)")
    images_dir: Text | None = parameter("a folder of your images (null: an example from the datasets)")
    normal_dir: Text | None = parameter("a folder of a few normal images (null: none)")
    labels_from: Text | None = parameter("labels of your images: folders, or a CSV file (null: none)")
    masks_dir: Text | None = parameter("a folder of masks of your images (null: none)")
    scored_with: Literal["clip", "rwda", "winclip", "winclip_plus", "anomalyclip"] = parameter(
        "the method for your images"
    )
    object_in_images: Text = parameter("the object's name in your images, as prompts use it")
    prompts_file: Text | None = parameter("learned AnomalyCLIP prompts for your images (null: shipped)")
    threshold_from: Literal["auto", "references", "folder"] = parameter(
        "auto (references if there are any), references or folder"
    )
    threshold_quantile: float | None = parameter(
        "of scores (null: 1 of references, 0.9 of a folder)", ge=0, le=1
    )
    threshold: float | None = parameter("a number that decides (null: the quantile does)")


@cache
def all_settings() -> type[Settings]:
    """The class with the parameters of all papers: what a profile holds."""
    kinds = [*(paper.settings for paper in all_papers().values()), YourImages]
    bases = tuple(reversed(kinds))  # the last one's fields come first
    return settings_class(type("AllSettings", bases, {}))


@cache
def parameters() -> dict[str, tuple[str, str]]:
    """{name: (type in YAML, meaning)} of every parameter, in the order of a parameters cell."""
    fields = all_settings().__pydantic_fields__
    return {name: (_kind(field.annotation), field.description) for name, field in fields.items()}


def _kind(annotation: Any) -> str:
    if NoneType in get_args(annotation):
        return _kind(get_args(annotation)[0])
    kind = get_origin(annotation) or annotation
    if kind is Annotated:
        return _kind(get_args(annotation)[0])
    return {tuple: "list", Literal: "str"}.get(kind) or kind.__name__


def read_settings(namespace: Mapping[str, Any], kind: type[Settings] | None = None) -> Settings:
    """Check a notebook's parameters and fill those left at None from the profile.

    namespace: `globals()` of the notebook, or a dict of parameters. Any other public name with a plain value
    counts as misspelt, unless a `Settings` is there already (the reader runs the cell again).
    kind: the class of the paper; None: all parameters. Raises ValueError or FileNotFoundError (profile)."""
    kind = kind or all_settings()
    if not any(isinstance(value, Settings) for value in namespace.values()):
        names = (name for name, value in namespace.items() if _looks_like_parameter(name, value))
        refuse_unknown(names, parameters(), "notebook")
    profile = namespace.get("profile") or "mini"
    if not isinstance(profile, str):
        expected = "a profile's name, or the path of a YAML file"
        raise ValueError(f"parameter profile = {profile!r}: expected {expected}")
    usual, values = read_profile(profile), {}
    for field in dataclasses.fields(kind):
        given = namespace.get(name := field.name)
        # what is there as seen from the working directory is meant; other paths start at the repository root
        here = _is_path(name, given) and name not in OURS and Path(given).exists()
        given = usual.get(name) if given is None else given
        values[name] = given if here else _as_seen_from_here(name, given)
    try:
        return kind(**values | {"profile": profile})
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    """The first error: the parameter, the value that was given, what was expected, and an example."""
    first = error.errors()[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    name, value = first["loc"][0], first["input"]
    usual = read_profile("mini").get(name)
    usual = dict(list(usual.items())[:1]) if isinstance(usual, dict) else usual
    wrong = f"parameter {name} = {value!r} ({type(value).__name__}): {first['msg']}"
    wrong += f"; it is {parameters()[name][1]}"
    return f"{wrong}. In a YAML file (papermill -f) write for example '{name}: {json.dumps(usual)}'"


def read_profile(profile: str) -> dict[str, Any]:
    """The raw values of `profiles/<profile>.yaml`, or of the YAML file at this path, and defaults."""
    path = profile_path(profile, repository_root())
    values = read_values(path)
    values.pop("profile", None)  # in the file for papermill's -f, which knows no profile otherwise
    refuse_unknown(values, parameters(), f"profile {path.name}")
    fields = all_settings().__pydantic_fields__
    values = {name: field.default for name, field in fields.items() if not field.is_required()} | values
    missing = [name for name in fields if name not in ("profile", *values)]
    if missing:
        raise ValueError(f"profile {path} lacks {', '.join(missing)}; profiles/mini.yaml has every name")
    return values


def repository_root() -> Path:
    """The checkout: the nearest folder with `_config.yml` and `zsad_core/`, upwards from the working
    directory, then from this package; the working directory when there is none."""
    places = (Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents)
    found = (path for path in places if (path / "_config.yml").is_file() and (path / "zsad_core").is_dir())
    return next(found, Path.cwd())


def folder_and_category(dataset: str) -> tuple[str, str | None]:
    """The prepared folder that a value of `datasets` means, and the category if it is only that one's."""
    folder, _, category = dataset.partition("/")
    return folder, category or None


def parameters_cell(names: Iterable[str] | None = None) -> str:
    """Source of a parameters cell: `names` (None: all), each with its meaning and its value in mini."""
    wanted, lines = set(parameters() if names is None else names), []
    refuse_unknown(wanted, parameters(), "list of names")
    usual = {name: f"; mini: {json.dumps(value)}" for name, value in read_profile("mini").items()}
    usual |= {"profile": "", "datasets": "; mini: see profiles/mini.yaml"}
    for name, (kind, meaning) in parameters().items():
        if name in wanted | {"profile"}:
            value = '"mini"' if name == "profile" else None
            lines.append(f"{name}: {kind} = {value}  # {meaning}{usual[name]}")
    return "\n".join(lines)


def _looks_like_parameter(name: str, value: Any) -> bool:
    of_ipython = name.startswith("_") or name in ("In", "Out", "exit", "quit")
    return not of_ipython and isinstance(value, (str, int, float, bool, list, tuple, dict))


def _as_seen_from_here(name: str, value: Any) -> Any:
    """A path as seen from the working directory, so that pages show no machine's; None for `shipped`."""
    if name.endswith("weights") and value == "shipped":
        return None
    if not _is_path(name, value) or Path(value).is_absolute():
        return value
    return Path(os.path.relpath(repository_root() / value)).as_posix()


def _is_path(name: str, value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    if name.endswith("weights"):
        return value.endswith(CHECKPOINT_SUFFIXES)
    return name.endswith(("_dir", "_file")) or (name == "labels_from" and value != "folders")


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Prints a parameters cell for a notebook: these names, or all."""
    try:
        print(parameters_cell(names or None))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
