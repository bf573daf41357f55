"""The options of a run on your own images: encoder, cache and what the methods let one choose."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zsad_core.prompts import ALPHABETS

METHODS = ("clip", "rwda", "winclip", "winclip_plus", "anomalyclip")
THRESHOLDS = ("auto", "references", "folder")
ROOT = Path(__file__).resolve().parents[1]  # the checkout, or the folder of installed packages

Positive = Annotated[int, Field(ge=1, strict=True)]
Several = Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]


class Options(BaseModel):
    """Names and meanings are those of the notebooks' parameters.

    weights: None for those that ship with zsad-mini. prompt_*: of AnomalyCLIP's encoder. temperature,
    map_size,
    prompt_image_size: None for the model's own, or that of the masks. The last six train RWDA's network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    profile: str = "mini"
    cache_dir: str = "cache"
    model: str = "zsad-mini"
    weights: str | None = None
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(0, ge=0, lt=2**31)
    n_pairs: int = Field(4000, ge=2)
    alphabet: Literal[tuple(ALPHABETS)] = "letters_digits36"
    scales: Several = (2, 3)
    temperature: float | None = Field(None, gt=0)
    map_size: Positive | None = None
    multi_crop: bool = True
    prompt_model: str = "zsad-mini"
    prompt_weights: str | None = None
    prompt_image_size: Positive | None = 144
    epochs: Positive = 2
    batch_size: int = Field(128, ge=2)
    lr: float = Field(0.001, gt=0)
    weight_decay: float = Field(0.0001, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    hidden: Several = (256, 256, 256)

    @model_validator(mode="after")
    def _weights_belong_to_the_model(self) -> Self:
        for name in ("model", "prompt_model"):
            weights = name.replace("model", "weights")
            model = getattr(self, name)
            if getattr(self, weights) is None and model != "zsad-mini":
                raise ValueError(
                    f"{weights} = shipped exist only for the model zsad-mini, got {name} = {model!r}: give "
                    "an open_clip tag, the path of a checkpoint, or random"
                )
        return self


def options_from(values: Mapping[str, Any]) -> Options:
    """Options from a profile's or a notebook's values, of which other names are left out. The weights
    `shipped` become None. Raises ValueError with a sentence for each wrong value."""
    found = {name: values[name] for name in Options.model_fields if name in values}
    shipped = [name for name in ("weights", "prompt_weights") if found.get(name) == "shipped"]
    try:
        return Options(**{**found, **dict.fromkeys(shipped)})
    except ValidationError as error:
        raise ValueError("; ".join(map(_sentence, error.errors()))) from None


def _sentence(error: Mapping[str, Any]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return f"{error['loc'][0]} = {error['input']!r}: {message}" if error["loc"] else message


def read_options(profile: str = "mini", **given: Any) -> Options:
    """Options of a profile, a name in profiles/ or a YAML file; a given value that is not None replaces its
    own.

    Raises FileNotFoundError for an unknown profile, ValueError for an unknown name or a wrong value.
    """
    path = _profile_path(profile)
    values = _read_profile(path)
    known = {*_read_profile(_profile_path("mini")), *Options.model_fields}  # mini sets every parameter
    for name in sorted(set(values) - known, key=str):
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`zsad params` lists all."
        raise ValueError(f"profile {path} sets an unknown parameter {name!r}: {hint}")
    start = ROOT if (ROOT / "pyproject.toml").is_file() else Path()
    for name in (
        "cache_dir",
        "weights",
        "prompt_weights",
    ):  # relative paths of a profile start at the checkout
        value = values.get(name)
        if isinstance(value, str) and (
            name == "cache_dir" or value.endswith((".safetensors", ".pt", ".pth", ".bin"))
        ):
            values[name] = str(start / value)
    values |= {name: value for name, value in given.items() if value is not None}
    return options_from({**values, "profile": profile})


def _profile_path(profile: str) -> Path:
    is_file = profile.endswith((".yaml", ".yml"))
    places = (Path(profile), ROOT / profile) if is_file else (ROOT / "profiles" / f"{profile}.yaml",)
    for place in places:
        if place.is_file():
            return place
    known = ", ".join(sorted(place.stem for place in (ROOT / "profiles").glob("*.yaml")))
    raise FileNotFoundError(
        f"unknown profile {profile!r}: expected one of {known}, or the path of a YAML file that exists"
    )


def _read_profile(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"profile {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"profile {path} must hold lines 'name: value', got {type(values).__name__}")
    return values
