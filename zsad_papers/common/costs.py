"""Parameters, multiply-accumulates and latency of an image tower.

Counts need only sizes, not a loaded model. There are two kinds: everything, and what the profiler behind
RWDA's Table 3 counted of the image tower: patch embedding and MLPs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zsad_core.encoders import ClipEncoder

Counted = Literal["all", "profiler"]


@dataclass(frozen=True)
class VisionTower:
    """Sizes of an open_clip vision transformer; the defaults are ViT-B/16+ at 240 pixels."""

    image_size: tuple[int, int] = (240, 240)
    patch_size: tuple[int, int] = (16, 16)
    width: int = 896
    layers: int = 12
    mlp_width: int = 3584
    dim: int = 640

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in a column and in a row."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid[0] * self.grid[1] + 1


def tower_of(encoder: ClipEncoder) -> VisionTower:
    """The sizes of an encoder's image tower."""
    mlp = encoder.model.visual.transformer.resblocks[0].mlp
    sizes = (encoder.image_size, encoder.patch_size, encoder.width, encoder.depth)
    return VisionTower(*sizes, mlp.c_fc.out_features, encoder.dim)


@cache
def _module(tower: VisionTower) -> VisionTransformer:
    """The tower without weights, in training mode, because the counter misses fused attention."""
    sizes = (tower.image_size, tower.patch_size, tower.width, tower.layers)
    with torch.device("meta"):
        ratio = tower.mlp_width / tower.width
        return VisionTransformer(*sizes, heads=1, mlp_ratio=ratio, output_dim=tower.dim).train()


def parameters(tower: VisionTower, counted: Counted = "all") -> int:
    """Number of parameters of the tower."""
    module = _module(tower)
    seen = [module.conv1, *(block.mlp for block in module.transformer.resblocks)]
    parts = {"all": [module], "profiler": seen}[counted]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def multiply_accumulates(
    tower: VisionTower,
    sequences: Sequence[tuple[int, int]] | None = None,
    *,
    patch_embeddings: int = 1,
    counted: Counted = "all",
) -> int:
    """Multiply-accumulates of running the tower.

    sequences : (number, tokens in each) that the blocks process; default: one whole image.
    patch_embeddings : number of images whose patches are embedded; windows share those of their image.
    """
    module = _module(tower)
    mlps = nn.Sequential(*(block.mlp for block in module.transformer.resblocks))
    blocks = {"all": module.transformer, "profiler": mlps}[counted]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        if patch_embeddings:
            module.conv1(torch.empty(patch_embeddings, 3, *tower.image_size))
        for number, tokens in [(1, tower.tokens)] if sequences is None else sequences:
            found = blocks(torch.empty(number, tokens, tower.width))
            if counted == "all":
                found[:, 0] @ module.proj
    return counter.get_total_flops() // 2


def window_sequences(tower: VisionTower, sizes: Sequence[int] = (2, 3)) -> list[tuple[int, int]]:
    """WinCLIP's windows as sequences: k x k patches and the class token, at every position of the grid."""
    rows, columns = tower.grid
    if not all(1 <= k <= min(rows, columns) for k in sizes):
        raise ValueError(
            f"window sizes {tuple(sizes)} on a grid of {tower.grid}; expected 1 to {min(tower.grid)}"
        )
    return [((rows - k + 1) * (columns - k + 1), k * k + 1) for k in sizes]


def random_pixels(encoder: ClipEncoder, number: int) -> torch.Tensor:
    return torch.randn(number, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))


def latencies(steps: dict[str, Callable[[], object]], repeats: int = 20) -> dict[str, float]:
    """Median milliseconds of each step, after one warm-up each. The steps run in turn, so a slow phase of the
    machine affects all of them."""
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
