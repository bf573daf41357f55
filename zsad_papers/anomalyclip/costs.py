"""What training and testing cost on this machine: Table 8 of AnomalyCLIP."""

import math
from collections.abc import Callable, Mapping

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.auxiliary import Batch
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import freeze, initial_parameters
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import glocal_loss, texts_of
from zsad_core.scores import prompt_score
from zsad_papers.baselines.vand import initial_adapters, patch_logits, vand_extractor, vand_loss, vand_maps
from zsad_papers.common.costs import latencies, random_pixels
from zsad_papers.common.results import joined, rows
from zsad_papers.common.settings import Settings
from zsad_papers.winclip.costs import PAIR, map_step

BATCH = 8


def time_rows(
    settings: Settings, encoder: ClipEncoder, winclip_encoder: ClipEncoder, dataset: str, n_images: int
) -> pd.DataFrame:
    """Rows of Table 8: images a second from pixels to score and map, texts known; and minutes of an epoch of
    `n_images` of the auxiliary `dataset`, for "appD" without the image tower, as this book trains."""
    plain = _test(encoder, "qk")
    tests = {
        **dict.fromkeys([("clip", ""), ("coop", ""), ("anomalyclip", "wo_dpam")], plain),
        ("anomalyclip", ""): _test(encoder, "vv"),
        ("vand", ""): _vand_test(encoder),
        ("winclip", ""): map_step(winclip_encoder, settings.scales),
    }
    steps = {
        ("coop", ""): _step(encoder, preset="coop"),
        ("anomalyclip", ""): _step(encoder),
        ("anomalyclip", "wo_dpam"): _step(encoder, attention="qk"),
        ("vand", ""): _vand_step(encoder),
        ("anomalyclip", "cached_features"): _step(encoder, tower=False),
    }
    n_steps = math.ceil(n_images / BATCH)  # the last one may be smaller
    found = [(key, "fps", 1000 / ms) for key, ms in latencies(tests).items()]
    epochs = latencies(steps).items()
    found += [(key, "train_min_per_epoch", n_steps * ms / 60_000) for key, ms in epochs]
    frames = []
    for (method, variant), metric, value in found:
        names = {"artifact": "appD" if variant == "cached_features" else "T8", "method": method}
        names |= {"variant": variant, "dataset": "" if metric == "fps" else dataset}
        frames.append(rows(pd.DataFrame([{metric: value}]), paper="anomalyclip", task="", **names))
    return joined(frames)


def _test(encoder: ClipEncoder, attention: str) -> Callable[[], object]:
    """One image through the tower to score and map; attention "qk" is the plain tower."""
    pixels, direction = random_pixels(encoder, 1), F.normalize(torch.ones(encoder.dim), dim=0) / 0.07
    depth = encoder.depth

    def run() -> tuple[Tensor, Tensor]:
        head, local = encoder.embed_glocal(pixels, (depth,), attention, quarter_blocks(depth)[0])
        grid = torch.sigmoid(local[depth] @ direction).unflatten(1, encoder.grid)[:, None]
        return torch.sigmoid(head @ direction), F.interpolate(grid, encoder.image_size, mode="bilinear")

    return run


def _step(encoder: ClipEncoder, tower: bool = True, **options: str) -> Callable[[], None]:
    """One step of training on a batch of eight images with one defect each."""
    config = prompt_config_of(encoder, **options)
    drawn = initial_parameters(encoder, config.design, torch.Generator().manual_seed(config.seed))
    parameters = {name: value.to(encoder.device).requires_grad_() for name, value in drawn.items()}
    named = config.design.object_word is None
    frozen = freeze(encoder, [config.design], [f"part {n}" for n in range(BATCH)] if named else ["object"])
    pixels, (masks, numbers) = random_pixels(encoder, BATCH), (_masks(encoder), torch.arange(BATCH))

    def embed() -> tuple[Tensor, dict[int, Tensor]]:
        layers = (config.layers, config.attention, config.first)
        return encoder.embed_glocal(pixels, *layers, final_norm=config.final_norm)

    kept = embed()

    def loss() -> Tensor:
        batch = Batch(*(embed() if tower else kept), masks, numbers % 2, numbers)
        texts = texts_of(encoder, config.design, parameters, frozen, numbers[None])[0]
        return glocal_loss(encoder, config, texts, batch)

    return _optimized(parameters, loss)


def _optimized(parameters: Mapping[str, Tensor], loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step of Adam with learning rate 0, so that no value diverges while the clock runs."""
    optimizer = torch.optim.Adam(parameters.values(), lr=0.0)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return run


def _vand_test(encoder: ClipEncoder) -> Callable[[], object]:
    adapters, texts, embed = _vand(encoder, 1, "cpu")

    def run() -> tuple[Tensor, Tensor]:
        image, tokens = embed()
        logits = patch_logits(adapters, tokens, texts, 100, encoder.grid)
        return prompt_score(image, *texts, 0.01), vand_maps(logits, encoder.image_size)

    return run


def _vand_step(encoder: ClipEncoder) -> Callable[[], None]:
    """As `_step`, but with linear layers instead of prompts, and focal and dice loss only."""
    adapters, texts, embed = _vand(encoder, BATCH, encoder.device)
    parameters = {name: value.requires_grad_() for name, value in adapters.items()}
    masks = _masks(encoder).to(encoder.device)

    def loss() -> Tensor:
        return vand_loss(patch_logits(parameters, embed()[1], texts, 100, encoder.grid), masks)

    return _optimized(parameters, loss)


def _vand(encoder: ClipEncoder, number: int, device: str | torch.device) -> tuple[dict, Tensor, Callable]:
    """New layers, two texts, and what gives embeddings and {block: tokens} of `number` images."""
    layers, pixels = tuple(vand_extractor(encoder).key["layers"]), random_pixels(encoder, number)
    drawn = initial_adapters(encoder.width, encoder.dim, layers, torch.Generator().manual_seed(0))

    def embed() -> tuple[Tensor, dict[int, Tensor]]:
        found = encoder.embed_scales(pixels, (), layers=layers)
        return found.image, {layer: value.float().to(device) for layer, value in found.layers.items()}

    adapters = {name: value.to(device) for name, value in drawn.items()}
    return adapters, encoder.embed_text(PAIR).float().to(device), embed


def _masks(encoder: ClipEncoder) -> Tensor:
    """A defect in the corner of each of eight images."""
    masks = torch.zeros(BATCH, *encoder.image_size, dtype=torch.bool)
    masks[:, : encoder.image_size[0] // 4, : encoder.image_size[1] // 4] = True
    return masks
