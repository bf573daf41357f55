"""Parameters, multiply-accumulates and latency of a detector.

The counts are closed formulas, so that they also hold for models that are not loaded. They are made in two
ways: everything, and what the profiler behind RWDA's Table 3 saw of the image tower: patch embedding
and MLPs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from zsad_core.encoders import ClipEncoder


def tower_of(encoder: ClipEncoder) -> VisionTower:
    """The sizes of an encoder's image tower."""
    visual = encoder.model.visual
    return VisionTower(
        encoder.image_size,
        encoder.patch_size,
        encoder.width,
        encoder.depth,
        visual.transformer.resblocks[0].mlp.c_fc.out_features,
        encoder.dim,
    )


def latencies(steps: dict[str, Callable[[], object]], repeats: int = 20) -> dict[str, float]:
    """Median milliseconds of each step, after one warm-up each.

    The steps take turns, so that a machine that slows down for a while slows all of them.
    """
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


Counted = Literal["all", "profiler"]
Sequences = Sequence[tuple[int, int]]
"""(how many, tokens each): what the transformer is run on."""


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
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.patches + 1


def vision_tower(config: Mapping[str, Any]) -> VisionTower:
    """The sizes in an open_clip model configuration (a file of its `model_configs`).

    >>> sizes = {"image_size": 240, "layers": 12, "width": 896, "patch_size": 16}
    >>> vision_tower({"embed_dim": 640, "vision_cfg": sizes}) == VisionTower()
    True
    """
    try:
        vision, dim = config["vision_cfg"], int(config["embed_dim"])
        width, layers = int(vision["width"]), vision["layers"]
        sides = [vision[name] for name in ("image_size", "patch_size")]
    except KeyError as error:
        raise ValueError(f"no {error} in the configuration; expected embed_dim and a vision_cfg") from error
    if not isinstance(layers, int):
        raise ValueError(f"layers is {layers!r}, as for a ResNet; expected the depth of a vision transformer")
    image, patch = (tuple(side) if isinstance(side, Sequence) else (side, side) for side in sides)
    return VisionTower(image, patch, width, layers, int(width * vision.get("mlp_ratio", 4.0)), dim)


def parameters(tower: VisionTower, counted: Counted = "all") -> int:
    """Number of parameters of the tower.

    >>> parameters(VisionTower()), parameters(VisionTower(), counted="profiler")
    (117213824, 77812224)
    """
    width = tower.width
    patch_embedding = 3 * tower.patch_size[0] * tower.patch_size[1] * width  # a convolution without bias
    mlp = 2 * width * tower.mlp_width + tower.mlp_width + width  # two linear layers with biases
    if _profiler(counted):
        return patch_embedding + tower.layers * mlp
    attention = 3 * (width * width + width) + width * width + width  # q, k, v; output
    layer_norms = 2 * 2 * width
    embeddings = width + tower.tokens * width  # class token; positions
    ends = 2 * 2 * width + width * tower.dim  # layer norms before and after the blocks; projection
    return patch_embedding + tower.layers * (mlp + attention + layer_norms) + embeddings + ends


def multiply_accumulates(
    tower: VisionTower,
    sequences: Sequences | None = None,
    *,
    patch_embeddings: int = 1,
    counted: Counted = "all",
) -> int:
    """Multiply-accumulates of running the tower.

    sequences : what the blocks are run on; default: one whole image. For WinCLIP see `window_sequences`.
    patch_embeddings : how many images are cut into embedded patches; windows share those of their image.

    >>> multiply_accumulates(VisionTower(), counted="profiler")
    17572724736
    >>> multiply_accumulates(VisionTower(), 6 * [(1, 226)], patch_embeddings=6, counted="profiler") / 1e9
    105.436348416
    """
    width = tower.width
    sequences = [(1, tower.tokens)] if sequences is None else sequences
    patch_weights = 3 * tower.patch_size[0] * tower.patch_size[1] * width
    total = patch_embeddings * tower.patches * patch_weights
    for number, tokens in sequences:
        per_block = tokens * 2 * width * tower.mlp_width
        if not _profiler(counted):
            per_block += tokens * 4 * width * width + 2 * tokens * tokens * width  # projections; q k' and a v
            total += number * width * tower.dim  # the class token's projection
        total += number * tower.layers * per_block
    return total


def window_sequences(tower: VisionTower, sizes: Sequence[int] = (2, 3)) -> list[tuple[int, int]]:
    """WinCLIP's windows as sequences: k x k patches and the class token, at every position of the grid.

    >>> window_sequences(VisionTower())
    [(196, 5), (169, 10)]
    """
    rows, columns = tower.grid
    if not all(1 <= k <= min(rows, columns) for k in sizes):
        raise ValueError(
            f"window sizes {tuple(sizes)} on a grid of {tower.grid}; expected 1 to {min(tower.grid)}"
        )
    return [((rows - k + 1) * (columns - k + 1), k * k + 1) for k in sizes]


def fnn_parameters(dim: int = 640, hidden: Sequence[int] = (256, 256, 256)) -> int:
    """Parameters of RWDA's network: linear layers with biases; batch norm (scale, shift) after hidden ones.

    The widths are not in the paper: 256, 256, 256 is the only equal choice that fits Table 3's total.

    >>> fnn_parameters()
    297473
    """
    linear = sum(a * b + b for a, b in pairwise((dim, *hidden, 1)))
    return linear + sum(2 * width for width in hidden)


def fnn_multiply_accumulates(dim: int = 640, hidden: Sequence[int] = (256, 256, 256)) -> int:
    """Multiply-accumulates of RWDA's network for one embedding.

    >>> fnn_multiply_accumulates()
    295168
    """
    return sum(a * b for a, b in pairwise((dim, *hidden, 1)))


def complexity_table(
    tower: VisionTower | None = None, *, views: int = 6, hidden: Sequence[int] = (256, 256, 256)
) -> pd.DataFrame:
    """Table 3's first two columns, counted both ways: method, metric, profiler, all (millions and 10^9).

    views : test-time views of CLIP and of RWDA; six is the only small number that gives the printed 105.4.
    WinCLIP is counted as the table does: its windows once, on one patch embedding.
    """
    tower = tower or VisionTower()
    whole = views * [(1, tower.tokens)]
    records = []
    for method, added in (("clip", False), ("winclip", False), ("rwda", True), ("clip_rwda", True)):
        for metric, unit in (("params_M", 1e6), ("macs_G", 1e9)):
            numbers = {}
            for counted in ("profiler", "all"):
                if metric == "params_M":
                    number = parameters(tower, counted) + added * fnn_parameters(tower.dim, hidden)
                else:
                    windows = method == "winclip"
                    number = multiply_accumulates(
                        tower,
                        window_sequences(tower) if windows else whole,
                        patch_embeddings=1 if windows else views,
                        counted=counted,
                    )
                    number += added * views * fnn_multiply_accumulates(tower.dim, hidden)
                numbers[counted] = number / unit
            records.append({"method": method, "metric": metric, **numbers})
    return pd.DataFrame(records)


def _profiler(counted: str) -> bool:
    if counted not in ("all", "profiler"):
        raise ValueError(f"counted is {counted!r}; expected 'all' or 'profiler'")
    return counted == "profiler"
