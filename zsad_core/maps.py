"""Anomaly maps at the size of an image: tiles are put back and averaged where they overlap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zsad_core.image_features import TileFeatures


def image_maps(
    dense: TileFeatures, maps: Tensor, map_size: int | tuple[int, int] | None = None, sigma: float = 0.0
) -> Iterator[np.ndarray]:
    """One map (h, w) float32 for each image from maps (t, rows, columns) of its tiles.

    Bilinear; where tiles overlap their mean (supplement A); 0 where no tile lies. sigma: as in `measure`.
    """
    for i, (height, width) in enumerate(dense.sizes.tolist()):
        h, w = scaled_size(height, width, map_size)
        total, count = torch.zeros(h, w), torch.zeros(h, w)
        for tile in np.flatnonzero(dense.owner == i):
            edges = zip(dense.boxes[tile].tolist(), (w / width, h / height) * 2, strict=True)
            left, upper, right, lower = (round(edge * scale) for edge, scale in edges)
            size = (lower - upper, right - left)
            total[upper:lower, left:right] += _resize(maps[tile], size)
            count[upper:lower, left:right] += 1
        whole = (total / count.clamp(min=1)).numpy()
        yield gaussian_filter(whole, sigma) if sigma else whole


def scaled_size(height: int, width: int, map_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) with `map_size` as the shorter edge; None keeps the size, (h, w) is taken as it is."""
    if isinstance(map_size, tuple):
        return map_size
    scale = 1 if map_size is None else map_size / min(height, width)
    return round(height * scale), round(width * scale)


def _resize(image: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    options = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(image[None, None].float(), size, mode=mode, **options)[0, 0]
