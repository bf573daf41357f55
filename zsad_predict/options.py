"""The options of a run on your own images: encoder, cache and the methods' options; and their record."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiles import profile_path, read_values, refuse_unknown
from profiles.record import program_facts, recorded
from zsad_core.prompts import ALPHABETS

with (Path(__file__).parent / "methods.csv").open(encoding="utf-8", newline="") as _file:
    METHODS = {row["method"]: row for row in csv.DictReader(_file)}  # title, heat map, published weights
THRESHOLDS = ("auto", "references", "folder")
ROOT = Path(__file__).resolve().parents[1]  # the checkout, or the folder of installed packages

Positive = Annotated[int, Field(ge=1, strict=True)]
Several = Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]


class Options(BaseModel):
    """Names and meanings are those of the notebooks' parameters. weights: None for those that ship with
    zsad-mini. prompt_*: of AnomalyCLIP's encoder. temperature, prompt_image_size: None for the model's own;
    map_size: None for the masks' size. The last six train RWDA's network."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    profile: str = "mini"
    cache_dir: str = "cache"
    model: str = "zsad-mini"
    weights: str | None = None
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(0, ge=0, lt=2**31)
    n_pairs: int = Field(2000, ge=2)
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


def options_from(values: Mapping[str, Any]) -> Options:
    """Of a profile's or a notebook's values; `shipped` becomes None. ValueError names each wrong value."""
    found = {name: values[name] for name in Options.model_fields if name in values}
    shipped = [name for name in ("weights", "prompt_weights") if found.get(name) == "shipped"]
    try:
        return Options(**{**found, **dict.fromkeys(shipped)})
    except ValidationError as error:
        wrong = (f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ValueError("; ".join(wrong)) from None


def read_options(profile: str = "mini", **given: Any) -> Options:
    """Options of a profile, a name in profiles/ or a YAML file; given values replace its own. Relative paths
    in it start at the checkout. Raises FileNotFoundError, and ValueError for a name or a value."""
    values = read_values(path := profile_path(profile, ROOT))
    known = [*read_values(profile_path("mini", ROOT)), *Options.model_fields]  # mini has all parameters
    refuse_unknown(values, list(dict.fromkeys(known)), f"profile {path.name}")
    start = ROOT if (ROOT / "pyproject.toml").is_file() else Path()
    for name in ("cache_dir", "weights", "prompt_weights"):
        value = str(values.get(name) or "")
        if value.endswith((".safetensors", ".pt", ".pth", ".bin")) or (value and name == "cache_dir"):
            values[name] = str(start / value)
    return options_from({**values, **given, "profile": profile})


def caveat(model: str, weights: str, method: str = "winclip") -> str | None:
    """What to know before one believes the scores of the encoder with these ids; None if there is nothing."""
    if not model.startswith("zsad-mini") or weights.startswith("random"):
        return None
    known = "zsad-mini was trained on drawings of parts, not on photographs"
    return f"{known}: its scores of photographs mean little. For those add `{METHODS[method]['published']}`."


def run_facts(options: Options, encoder: Any = None, **more: object) -> dict[str, Any]:
    """For `run.json` and the report, plain values; paths cut to names. more: parameters besides options."""
    parameters = {**options.model_dump(exclude={"cache_dir"}), **more}
    return {
        "profile": Path(options.profile).stem,
        "parameters": {name: recorded(value) for name, value in parameters.items()},
        **{name: getattr(encoder, f"{name}_id", None) for name in ("model", "weights")},
        "weights_sha256": getattr(encoder, "weights_sha256", None),
        "device": str(encoder.device) if encoder else None,
        **program_facts(ROOT),
    }
