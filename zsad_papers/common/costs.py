"""Parameters, multiply-accumulates and latency of an image tower. Counted is everything, or what the profiler
behind RWDA's Table 3 saw of the tower: patch embedding and MLPs."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Literal

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zsad_core.encoders import ClipEncoder

Counted = Literal["all", "profiler"]


def paper_tower() -> VisionTransformer:
    """ViT-B/16+ at 240 pixels, without weights."""
    with torch.device("meta"):
        return VisionTransformer(240, 16, width=896, layers=12, heads=14, mlp_ratio=4.0, output_dim=640)


def tower_of(encoder: ClipEncoder) -> VisionTransformer:
    """An encoder's image tower, without weights."""
    return deepcopy(encoder.model.visual).float().to("meta")


def parameters(tower: VisionTransformer, counted: Counted = "all") -> int:
    seen = [tower.conv1, *(block.mlp for block in tower.transformer.resblocks)]
    parts = {"all": [tower], "profiler": seen}[counted]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def multiply_accumulates(
    tower: VisionTransformer,
    sequences: Sequence[tuple[int, int]] | None = None,
    *,
    patch_embeddings: int = 1,
    counted: Counted = "all",
) -> int:
    """sequences: (number, tokens in each) that the blocks process; default: one whole image.
    patch_embeddings: number of images whose patches are embedded; windows share those of their image."""
    tower.train()  # the counter misses the fused attention of evaluation
    mlps = nn.Sequential(*(block.mlp for block in tower.transformer.resblocks))
    blocks = {"all": tower.transformer, "profiler": mlps}[counted]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        if patch_embeddings:
            tower.conv1(torch.empty(patch_embeddings, 3, *tower.image_size))
        for number, tokens in [(1, len(tower.positional_embedding))] if sequences is None else sequences:
            found = blocks(torch.empty(number, tokens, tower.transformer.width))
            if counted == "all":
                found[:, 0] @ tower.proj
    return counter.get_total_flops() // 2


def window_sequences(tower: VisionTransformer, sizes: Sequence[int] = (2, 3)) -> list[tuple[int, int]]:
    """WinCLIP's windows as sequences: k x k patches and the class token, at every position of the grid."""
    rows, columns = tower.grid_size
    if not all(1 <= k <= min(rows, columns) for k in sizes):
        most = min(rows, columns)
        raise ValueError(f"window sizes {tuple(sizes)} on a grid of {(rows, columns)}; expected 1 to {most}")
    return [((rows - k + 1) * (columns - k + 1), k * k + 1) for k in sizes]


def random_pixels(encoder: ClipEncoder, number: int) -> torch.Tensor:
    return torch.randn(number, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))


def latencies(steps: dict[str, Callable[[], object]], repeats: int = 8) -> dict[str, float]:
    """Median milliseconds of each step after one warm-up. They run in turn: a slow phase affects them all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}
