"""What training and testing cost on this machine: Table 8 of AnomalyCLIP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.auxiliary import Batch
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import freeze, initial_parameters
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import glocal_loss
from zsad_core.scores import prompt_score
from zsad_core.windows import winclip_map
from zsad_papers.baselines.vand import initial_adapters, patch_logits, vand_extractor, vand_loss, vand_maps
from zsad_papers.common.costs import latencies
from zsad_papers.common.results import rows
from zsad_papers.common.settings import Settings

BATCH = 8

TRAINED: dict[tuple[str, str], dict[str, Any]] = {
    ("coop", ""): {"preset": "coop"},
    ("anomalyclip", ""): {},
    ("anomalyclip", "wo_dpam"): {"attention": "qk"},
}
"""Options of `prompt_config.prompt_config_of` for (method, variant)."""

ATTENTION = {
    ("clip", ""): "qk",
    ("coop", ""): "qk",
    ("anomalyclip", ""): "vv",
    ("anomalyclip", "wo_dpam"): "qk",
}


def time_rows(
    settings: Settings,
    encoder: ClipEncoder,
    winclip_encoder: ClipEncoder,
    dataset: str,
    n_images: int,
    repeats: int = 20,
) -> pd.DataFrame:
    """Rows of Table 8: images a second at test time, minutes of an epoch of training, each the median.

    A test is one image from pixels to score and map, texts known; CLIP, CoOp and AnomalyCLIP without DPAM do
    the same there. An epoch is the time of one step, image tower included as published, times the number of
    steps that `n_images` of the auxiliary `dataset` need. A row of artifact "appD", variant
    `cached_features`, has the epoch without the image tower: what training costs in this book, where each
    image goes through the tower once.
    """
    tests = {key: _test(encoder, kind) for key, kind in ATTENTION.items()}
    tests |= {("vand", ""): _vand_test(encoder), ("winclip", ""): _winclip_test(settings, winclip_encoder)}
    steps = {key: _step(encoder, options) for key, options in TRAINED.items()}
    steps |= {("vand", ""): _vand_step(encoder)}
    steps |= {("anomalyclip", "cached_features"): _step(encoder, {}, tower=False)}
    milliseconds = latencies(tests, repeats)
    of_steps = latencies(steps, repeats)
    names = {"paper": "anomalyclip", "task": ""}
    frames = []
    for (method, variant), ms in milliseconds.items():
        values = pd.DataFrame([{"fps": 1000 / ms}])
        frames.append(rows(values, artifact="T8", dataset="", method=method, variant=variant, **names))
    for (method, variant), ms in of_steps.items():
        values = pd.DataFrame([{"train_min_per_epoch": minutes(ms, n_images)}])
        artifact = "appD" if variant == "cached_features" else "T8"
        frames.append(
            rows(values, artifact=artifact, dataset=dataset, method=method, variant=variant, **names)
        )
    return pd.concat(frames, ignore_index=True)


def minutes(step_ms: float, n_images: int, batch_size: int = BATCH) -> float:
    """Minutes of an epoch whose steps take so many milliseconds; the last step may be a smaller one.

    >>> minutes(1000, 1725)
    3.6
    """
    return math.ceil(n_images / batch_size) * step_ms / 60_000


def _test(encoder: ClipEncoder, attention: str) -> Callable[[], object]:
    """One image through the tower to score and map; attention "qk" is the plain tower."""
    pixels, direction = _pixels(encoder, 1), F.normalize(torch.ones(encoder.dim), dim=0)
    depth = encoder.depth

    def run() -> tuple[Tensor, Tensor]:
        head, local = encoder.embed_glocal(pixels, (depth,), attention, quarter_blocks(depth)[0])
        grid = torch.sigmoid(local[depth] @ direction / 0.07).unflatten(1, encoder.grid)[:, None]
        return torch.sigmoid(head @ direction / 0.07), F.interpolate(
            grid, encoder.image_size, mode="bilinear"
        )

    return run


def _winclip_test(settings: Settings, encoder: ClipEncoder) -> Callable[[], object]:
    pixels = _pixels(encoder, 1)
    normal, anomalous = encoder.embed_text(["a photo of an object", "a photo of a damaged object"])
    texts = {"normal": normal, "anomalous": anomalous, "temperature": 0.01}
    return lambda: winclip_map(encoder, pixels, scales=settings.scales, **texts)


def _vand_test(encoder: ClipEncoder) -> Callable[[], object]:
    pixels, see = _pixels(encoder, 1), vand_extractor(encoder).features
    adapters, texts = _adapters(encoder)

    def run() -> tuple[Tensor, Tensor]:
        found = see(pixels)
        logits = patch_logits(adapters, _layers(found), texts, 100, encoder.grid)
        scores = prompt_score(found["image"].float().cpu(), *texts, 0.01)
        return scores, vand_maps(logits, encoder.image_size)

    return run


def _vand_step(encoder: ClipEncoder) -> Callable[[], object]:
    """As `_step`, with linear layers in the place of prompts and focal and dice loss alone."""
    see, (adapters, texts), device = vand_extractor(encoder).features, _adapters(encoder), encoder.device
    parameters = {name: value.to(device).requires_grad_() for name, value in adapters.items()}
    pixels, masks, texts = _pixels(encoder, BATCH), _masks(encoder).to(device), texts.to(device)
    optimizer = torch.optim.Adam(parameters.values(), lr=0.0)

    def run() -> None:
        optimizer.zero_grad()
        tokens = {layer: value.to(device) for layer, value in _layers(see(pixels)).items()}
        vand_loss(patch_logits(parameters, tokens, texts, 100, encoder.grid), masks).backward()
        optimizer.step()

    return run


def _adapters(encoder: ClipEncoder) -> tuple[dict[str, Tensor], Tensor]:
    layers, width = tuple(vand_extractor(encoder).key["layers"]), encoder.width
    texts = encoder.embed_text(["a photo of an object", "a photo of a damaged object"]).float().cpu()
    return initial_adapters(width, encoder.dim, layers, torch.Generator().manual_seed(0)), texts


def _layers(found: Mapping[str, Tensor]) -> dict[int, Tensor]:
    own = {name: value.float().cpu() for name, value in found.items() if name.startswith("layer/")}
    return {int(name.removeprefix("layer/")): value for name, value in own.items()}


def _step(encoder: ClipEncoder, options: dict[str, Any], tower: bool = True) -> Callable[[], object]:
    """One step of training on a batch of eight images with one defect each."""
    config = prompt_config_of(encoder, **options)
    generator = torch.Generator().manual_seed(config.seed)
    drawn = initial_parameters(encoder, config.design, generator)
    parameters = {name: value.to(encoder.device).requires_grad_() for name, value in drawn.items()}
    b = BATCH
    agnostic = config.design.object_word is not None
    frozen = freeze(encoder, config.design, ["object"] if agnostic else [f"part {n}" for n in range(b)])
    pixels, masks = _pixels(encoder, b), _masks(encoder)
    labels, names = torch.arange(b) % 2, torch.zeros(b, dtype=torch.long) if agnostic else torch.arange(b)

    def see() -> tuple[Tensor, dict[int, Tensor]]:
        layers = (config.layers, config.attention, config.first)
        return encoder.embed_glocal(pixels, *layers, final_norm=config.final_norm)

    kept = see()
    optimizer = torch.optim.Adam(parameters.values(), lr=0.0)  # nothing runs away while the clock runs

    def run() -> None:
        head, patches = see() if tower else kept
        optimizer.zero_grad()
        glocal_loss(
            encoder, config, parameters, frozen, Batch(head, patches, masks, labels, names)
        ).backward()
        optimizer.step()

    return run


def _pixels(encoder: ClipEncoder, number: int) -> Tensor:
    return torch.randn(number, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))


def _masks(encoder: ClipEncoder) -> Tensor:
    """A defect in the corner of each of eight images."""
    masks = torch.zeros(BATCH, *encoder.image_size, dtype=torch.bool)
    masks[:, : encoder.image_size[0] // 4, : encoder.image_size[1] // 4] = True
    return masks
