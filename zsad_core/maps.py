"""Anomaly maps at the size of an image: tiles are put back and averaged where they overlap."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zsad_core.image_features import TileFeatures


def image_maps(
    tiles: TileFeatures, maps: Tensor, map_size: int | tuple[int, int] | None = None, sigma: float = 0.0
) -> Iterator[np.ndarray]:
    """One map (h, w) float32 for each image from maps (t, rows, columns) of its tiles. Bilinear; the mean
    where tiles overlap (supplement A); NaN outside all tiles. sigma: Gaussian, in pixels."""
    for i, (height, width) in enumerate(tiles.sizes.tolist()):
        h, w = scaled_size(height, width, map_size)
        total, count = torch.zeros(h, w), torch.zeros(h, w)
        for tile in np.flatnonzero(tiles.owner == i):
            edges = zip(tiles.boxes[tile].tolist(), (w / width, h / height) * 2, strict=True)
            left, upper, right, lower = (round(edge * scale) for edge, scale in edges)
            size, values = (lower - upper, right - left), maps[tile][None, None].float()
            total[upper:lower, left:right] += F.interpolate(values, size, mode="bilinear")[0, 0]
            count[upper:lower, left:right] += 1
        whole = (total / count).numpy()
        yield gaussian_filter(whole, sigma) if sigma else whole


def scaled_size(height: int, width: int, map_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) with `map_size` as the shorter edge. None keeps the size; a pair (h, w) is the result."""
    if isinstance(map_size, tuple):
        return map_size
    scale = 1 if map_size is None else map_size / min(height, width)
    return round(height * scale), round(width * scale)
