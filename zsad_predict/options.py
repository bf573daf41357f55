"""The options of a run on your own images: the encoder, the cache and what the methods can be told."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from zsad_core.prompts import ALPHABETS

METHODS = ("clip", "rwda", "winclip", "winclip_plus", "anomalyclip")
THRESHOLDS = ("auto", "references", "folder")
ROOT = Path(__file__).resolve().parents[1]  # the checkout, if this is one
_AT_LEAST = {
    **{"seed": 0, "n_pairs": 2, "batch_size": 2, "epochs": 1, "map_size": 1, "prompt_image_size": 1},
    **{"weight_decay": 0, "dropout": 0},
}
_CHOICES = {"precision": ("fp32", "bf16"), "alphabet": tuple(ALPHABETS)}


@dataclass(frozen=True)
class Options:
    """Names and meanings are those of the notebooks' parameters. weights: None are those that ship with
    zsad-mini. prompt_*: of AnomalyCLIP's encoder. temperature, map_size, prompt_image_size: None is the
    model's own, or the masks'. The last six train RWDA's network. Raises ValueError for a wrong value."""

    profile: str = "mini"
    cache_dir: str = "cache"
    model: str = "zsad-mini"
    weights: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    seed: int = 0
    n_pairs: int = 4000
    alphabet: str = "letters_digits36"
    scales: tuple[int, ...] = (2, 3)
    temperature: float | None = None
    map_size: int | None = None
    multi_crop: bool = True
    prompt_model: str = "zsad-mini"
    prompt_weights: str | None = None
    prompt_image_size: int | None = 144
    epochs: int = 2
    batch_size: int = 128
    lr: float = 0.001
    weight_decay: float = 0.0001
    dropout: float = 0.5
    hidden: tuple[int, ...] = (256, 256, 256)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _check(name, getattr(self, name) in choices, getattr(self, name), " or ".join(choices))
        device = isinstance(self.device, str) and re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device)
        _check("device", device, self.device, "auto, cpu, cuda, cuda:<number> or mps")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            empty = value is None and name in ("map_size", "prompt_image_size")
            _check(name, empty or _is_number(value) and value >= least, value, f"at least {least}")
        _check("seed", self.seed < 2**31, self.seed, f"below {2**31}")
        _check("dropout", self.dropout < 1, self.dropout, "below 1")
        _check("lr", _is_number(self.lr) and self.lr > 0, self.lr, "above 0")
        t = self.temperature
        _check("temperature", t is None or _is_number(t) and t > 0, t, "above 0")
        for name in ("scales", "hidden"):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and value and all(_is_number(n) and n >= 1 for n in value)
            _check(name, fits, value, "whole numbers of at least 1")
        for prefix in ("", "prompt_"):
            model = getattr(self, f"{prefix}model")
            if getattr(self, f"{prefix}weights") is None and model != "zsad-mini":
                raise ValueError(
                    f"{prefix}weights = shipped exist only for the model zsad-mini, got {prefix}model = "
                    f"{model!r}: give an open_clip tag, the path of a checkpoint, or random"
                )


def options_from(values: Mapping[str, object]) -> Options:
    """Options of a profile's or a notebook's values; other names are passed over. Lists become tuples, and
    the weights `shipped` None."""
    found = {f.name: values[f.name] for f in fields(Options) if f.name in values}
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    for name in ("weights", "prompt_weights"):
        if found.get(name) == "shipped":
            found[name] = None
    return Options(**found)


def read_options(profile: str = "mini", **given: object) -> Options:
    """Options of a profile, a name in profiles/ or a YAML file; what is given and not None goes before.

    Raises FileNotFoundError for an unknown profile, ValueError for a wrong value.
    """
    is_file = profile.endswith((".yaml", ".yml"))
    places = (Path(profile), ROOT / profile) if is_file else (ROOT / "profiles" / f"{profile}.yaml",)
    path = next((place for place in places if place.is_file()), None)
    if path is None and profile != Options.profile:  # whose values are the defaults here
        known = ", ".join(sorted(place.stem for place in (ROOT / "profiles").glob("*.yaml"))) or "mini"
        raise FileNotFoundError(
            f"unknown profile {profile!r}: expected one of {known}, or the path of a YAML file that exists"
        )
    try:
        values = {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"profile {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"profile {path} must hold lines 'name: value', got {type(values).__name__}")
    for name in ("cache_dir", "weights", "prompt_weights"):  # files of a profile start at the checkout
        value = values.get(name)
        is_path = name == "cache_dir" or str(value).endswith((".safetensors", ".pt", ".pth", ".bin"))
        if isinstance(value, str) and is_path and not Path(value).is_absolute():
            values[name] = Path(os.path.relpath(ROOT / value)).as_posix()
    return options_from({**values, **{n: v for n, v in given.items() if v is not None}, "profile": profile})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _check(name: str, holds: object, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} = {value!r}: expected {expected}")
