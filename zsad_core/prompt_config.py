"""How prompts are learned: every choice by name, and presets for the paper, its code and CoOp."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from zsad_core.dpam import attention_kinds, quarter_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import PromptDesign
from zsad_core.losses import PARTS


@dataclass(frozen=True)
class PromptConfig:
    """What `prompt_learning.train_prompts` does. The defaults are the preset "released".
    attention, first, layers, final_norm: as in `ClipEncoder.embed_glocal`. first 0: the first quarter block.
        layers (): the last `n_layers` of the four quarter blocks (N of Figure 8d). The paper says all four;
        the code behind its numbers took the last one four times over, by mistake.
    temperature: of both softmaxes. The paper prints none; 0.07 is the code's. None: the model's own (CoOp).
    global_loss, local: cross entropy of the image, and which of `losses.PARTS` for the maps.
    local_weight: lambda, for each layer. 4 with one layer is 1 with four equal ones.
    optimizer: "adam", the paper's, with the code's `betas`; or CoOp's "sgd" with momentum 0.9, `weight_decay`
        and a cosine to 0 after a first epoch at 1e-5.
    epochs, batch_size, seed: 15, 8 (App. A.1) and 111 (the code). 0 epochs leave the prompts as drawn.
    """

    design: PromptDesign = field(default_factory=PromptDesign)
    attention: str = "vv"
    first: int = 0
    layers: tuple[int, ...] = ()
    n_layers: int = 1
    final_norm: bool = False
    temperature: float | None = 0.07
    global_loss: bool = True
    local: tuple[str, ...] = PARTS
    local_weight: float = 4.0
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    epochs: int = 15
    batch_size: int = 8
    seed: int = 111

    def __post_init__(self) -> None:
        attention_kinds(self.attention)
        if not set(self.local) <= set(PARTS) or not (self.global_loss or self.local):
            raise ValueError(f"local={self.local}: expected at least one loss, local parts out of {PARTS}")
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer={self.optimizer!r}: expected 'adam' or 'sgd'")
        if not 1 <= self.n_layers <= 4:
            raise ValueError(f"n_layers={self.n_layers}: expected 1 to 4 of the four quarter blocks")
        if self.epochs < 0:
            raise ValueError(f"epochs={self.epochs}: expected 0 or more")
        for name in ("temperature", "lr", "local_weight", "batch_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: expected a finite number above 0")

    def key(self) -> dict[str, Any]:
        """All choices as plain JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_key(cls, key: Mapping[str, Any]) -> PromptConfig:
        """The config that `key` was made of."""
        return cls(**{**_tupled(key), "design": PromptDesign(**_tupled(key["design"]))})


PRESETS: dict[str, dict[str, Any]] = {
    "released": {},
    "paper": {"ending": "", "deep": "concatenate", "n_layers": 4, "local_weight": 1.0}
    | {"final_norm": True, "betas": (0.9, 0.999)},
    "coop": {"context_length": 16, "shared": True, "states": ("normal", "anomalous"), "object_word": None}
    | {"depth": 0, "length": 0, "attention": "qk", "final_norm": True, "temperature": None, "local": ()}
    | {"optimizer": "sgd", "lr": 0.002, "weight_decay": 5e-4, "epochs": 50, "batch_size": 32},
}
"""What differs from the defaults, the code's. `paper`: its text, with the usual value where it gives none
(final norm, betas). `coop`: all as in its own paper; of its epochs those for the smallest sets."""


def prompt_config_of(encoder: ClipEncoder, preset: str = "released", **options: Any) -> PromptConfig:
    """A preset with options changed, fitted to the encoder's depth.
    options: fields of `PromptConfig` or `PromptDesign`, lists for tuples. The depth of learned tokens, when
        not given, is three quarters of the text blocks (9 of 12)."""
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r}: expected one of {', '.join(PRESETS)}")
    of_design, own = ({field.name for field in fields(kind)} for kind in (PromptDesign, PromptConfig))
    known = own - {"design"} | of_design
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown options {', '.join(unknown)}: expected some of {', '.join(sorted(known))}")
    if not encoder.has_class_token:
        raise ValueError(f"prompt learning reads the class token, which {encoder.model_id} does not have")
    options = {"depth": round(encoder.text_depth * 9 / 12), **PRESETS[preset], **_tupled(options)}
    design = PromptDesign(**{name: options.pop(name) for name in of_design & set(options)})
    config, quarters = PromptConfig(design, **options), quarter_blocks(encoder.depth)
    blocks = {"first": config.first or quarters[0], "layers": config.layers or quarters[-config.n_layers :]}
    return replace(config, temperature=config.temperature or encoder.temperature, **blocks)


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
