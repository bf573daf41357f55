"""What training and testing cost on this machine: Table 8 of AnomalyCLIP."""

from __future__ import annotations

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
    settings: Settings,
    encoder: ClipEncoder,
    winclip_encoder: ClipEncoder,
    dataset: str,
    n_images: int,
    repeats: int = 20,
) -> pd.DataFrame:
    """Rows of Table 8: images a second from pixels to score and map, texts known; and minutes of an epoch,
    the time of one step times the steps that `n_images` of the auxiliary `dataset` need. In the row of "appD"
    the steps do without the image tower, through which this book sends an image once."""
    plain = _test(encoder, "qk")
    tests = {
        ("clip", ""): plain,
        ("coop", ""): plain,
        ("anomalyclip", ""): _test(encoder, "vv"),
        ("anomalyclip", "wo_dpam"): plain,
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
    found = [(key, "fps", 1000 / ms) for key, ms in latencies(tests, repeats).items()]
    epochs = latencies(steps, repeats).items()
    found += [(key, "train_min_per_epoch", minutes(ms, n_images)) for key, ms in epochs]
    frames = []
    for (method, variant), metric, value in found:
        names = {"artifact": "appD" if variant == "cached_features" else "T8", "method": method}
        names |= {"variant": variant, "dataset": "" if metric == "fps" else dataset}
        frames.append(rows(pd.DataFrame([{metric: value}]), paper="anomalyclip", task="", **names))
    return joined(frames)


def minutes(step_ms: float, n_images: int) -> float:
    """Minutes of an epoch whose steps take so many milliseconds; the last step may be a smaller one."""
    return math.ceil(n_images / BATCH) * step_ms / 60_000


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
        texts = texts_of(encoder, config.design, parameters, frozen, numbers)[0]
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
    pixels, texts = random_pixels(encoder, 1), encoder.embed_text(PAIR).float().cpu()
    embed, adapters = vand_extractor(encoder).features, _adapters(encoder)

    def run() -> tuple[Tensor, Tensor]:
        found = embed(pixels)
        logits = patch_logits(adapters, _layers(found), texts, 100, encoder.grid)
        scores = prompt_score(found["image"].float().cpu(), *texts, 0.01)
        return scores, vand_maps(logits, encoder.image_size)

    return run


def _vand_step(encoder: ClipEncoder) -> Callable[[], None]:
    """As `_step`, but with linear layers instead of prompts, and focal and dice loss only."""
    device, embed = encoder.device, vand_extractor(encoder).features
    parameters = {name: value.to(device).requires_grad_() for name, value in _adapters(encoder).items()}
    pixels, masks = random_pixels(encoder, BATCH), _masks(encoder).to(device)
    texts = encoder.embed_text(PAIR).float().to(device)

    def loss() -> Tensor:
        tokens = {layer: value.to(device) for layer, value in _layers(embed(pixels)).items()}
        return vand_loss(patch_logits(parameters, tokens, texts, 100, encoder.grid), masks)

    return _optimized(parameters, loss)


def _adapters(encoder: ClipEncoder) -> dict[str, Tensor]:
    layers = tuple(vand_extractor(encoder).key["layers"])
    return initial_adapters(encoder.width, encoder.dim, layers, torch.Generator().manual_seed(0))


def _layers(found: Mapping[str, Tensor]) -> dict[int, Tensor]:
    own = {name: value.float().cpu() for name, value in found.items() if name.startswith("layer/")}
    return {int(name.removeprefix("layer/")): value for name, value in own.items()}


def _masks(encoder: ClipEncoder) -> Tensor:
    """A defect in the corner of each of eight images."""
    masks = torch.zeros(BATCH, *encoder.image_size, dtype=torch.bool)
    masks[:, : encoder.image_size[0] // 4, : encoder.image_size[1] // 4] = True
    return masks
