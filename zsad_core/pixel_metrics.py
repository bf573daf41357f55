"""Anomaly maps at the size of their image, and pixel AUROC, PRO and F1-max of any number of images.

Tiles are put back and averaged where they overlap. The metrics take one pass, and memory that does not grow:
each image is counted into a histogram with fixed bins, whose pixels count as ties. A float32 has a place in
the order of all float32 numbers: its bits read as an integer. The bin of a score s is the sum of the places
of s and s - 1 without their last bits. So no bin is wider than 1/4096 of the distance to 0 or 1, near which
the probabilities of a softmax crowd. A metric differs by less than 1e-4 from the exact one if the scores
spread over some thousand bins: over 10 % of their size, or near those points.
"""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from torch import Tensor

from zsad_core.image_features import TileFeatures
from zsad_core.metrics import UndefinedMetricWarning, anomalous_weights, area_below, checked, undefined

CROWDED = {0: 0.0, 1: 2.0**-25}
"""Scores near which bins are narrow, and the smallest distance; near 1 no float32 is closer."""
_DROPPED = 11  # bits of each place
THRESHOLDS = 200


def image_maps(
    tiles: TileFeatures, maps: Tensor, map_size: int | tuple[int, int] | None = None, sigma: float = 0.0
) -> Iterator[np.ndarray]:
    """One map (h, w) float32 for each image from maps (t, rows, columns) of its tiles. Bilinear; the mean
    where tiles overlap (supplement A); NaN outside all tiles. sigma: Gaussian, in pixels."""
    for i, (height, width) in enumerate(tiles.sizes.tolist()):
        h, w = scaled_size(height, width, map_size)
        total, count, own = torch.zeros(h, w), torch.zeros(h, w), np.flatnonzero(tiles.owner == i)
        at_once, after = (sigma, 0.0) if len(own) == 1 else (0.0, sigma)  # at once takes a tenth of the time
        for tile in own:
            edges = zip(tiles.boxes[tile].tolist(), (w / width, h / height) * 2, strict=True)
            left, upper, right, lower = (round(edge * scale) for edge, scale in edges)
            found = enlarged(maps[tile].float(), (lower - upper, right - left), at_once)
            total[upper:lower, left:right] += found
            count[upper:lower, left:right] += 1
        whole = (total / count).numpy()
        yield gaussian_filter(whole, after) if after else whole


def enlarged(values: Tensor, size: tuple[int, int], sigma: float = 0.0) -> Tensor:
    """A map (rows, columns) at `size`, bilinear between the centres of its cells, then smoothed."""
    down, across = (_weights(*edge, sigma) for edge in zip(values.shape, size))
    return down @ values @ across.T


@lru_cache(64)
def _weights(n: int, size: int, sigma: float) -> Tensor:
    """(size, n): of n values along an edge in each of `size` pixels, smoothed by a Gaussian in pixels."""
    weights = F.interpolate(torch.eye(n, dtype=torch.float64)[None], size, mode="linear")[0].numpy()
    weights = gaussian_filter1d(weights, sigma) if sigma else weights
    return torch.from_numpy(weights).T.float()


def scaled_size(height: int, width: int, map_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) with `map_size` as the shorter edge. None keeps the size; a pair (h, w) is the result."""
    if isinstance(map_size, tuple):
        return map_size
    scale = 1 if map_size is None else map_size / min(height, width)
    return round(height * scale), round(width * scale)


class PixelMetrics(NamedTuple):
    """Fractions in [0, 1], or NaN. pro200: the estimate of AnomalyCLIP's published code (`coarse_pro`)."""

    auroc: float
    pro: float
    f1_max: float
    pro200: float


class PixelHistogram:
    """Counts of pixels by score, filled image by image: some megabytes for probabilities, at most 250.

    >>> histogram = PixelHistogram()
    >>> histogram.add([[0, 1]], [[0.1, 0.9]])
    >>> histogram.add([[0, 0, 0]], [[0.2, 0.1, 0.3]])  # sizes may differ
    >>> histogram.metrics()
    PixelMetrics(auroc=1.0, pro=1.0, f1_max=1.0, pro200=1.0)
    """

    def __init__(self) -> None:
        self.images = 0
        self._first = 0  # number of the first bin that is kept
        self._low, self._high = np.inf, -np.inf  # of all scores
        self._sums = np.zeros((3, 0))  # all pixels, anomalous pixels, their 1 / region area

    def add(self, mask: ArrayLike, anomaly_map: ArrayLike, weights: NDArray | None = None) -> None:
        """Count the pixels of a mask and a map (H, W), cast to float32; errors as in `metrics.aupro`.
        weights: `anomalous_weights(mask)`, if it is known."""
        with np.errstate(over="ignore"):
            scores = np.asarray(anomaly_map).astype(np.float32, copy=False)
        mask, scores = checked(mask, scores, f"mask {self.images}", f"map {self.images}", n_axes=2)
        bins = _bins(scores)
        self._low, self._high = min(self._low, float(scores.min())), max(self._high, float(scores.max()))
        sums, bins = self._covering(bins.min(), bins.max()), (bins - bins.min()).astype(np.intp)
        np.add.at(sums[0], bins.ravel(), 1.0)  # far more bins than pixels: faster than bincount
        if mask.any():
            np.add.at(sums[1], bins[mask], 1.0)
            np.add.at(sums[2], bins[mask], anomalous_weights(mask) if weights is None else weights)
        self.images += 1

    def metrics(self, max_fpr: float = 0.3) -> PixelMetrics:
        """`metrics.auroc`, `aupro` and `f1_max` of all pixels so far."""
        if not self.images:
            raise ValueError("no images: expected at least one; call add first")
        filled = np.flatnonzero(self._sums[0])
        sums = self._sums[:, filled[::-1]]  # from the highest score down
        pixels, hits, overlap = np.cumsum(np.pad(sums, ((0, 0), (1, 0))), axis=1)  # (b + 1,) each
        false = pixels - hits
        if undefined(false[-1], hits[-1], "pixel AUROC, PRO and F1-max"):
            return PixelMetrics(np.nan, np.nan, np.nan, np.nan)
        fpr, overlap = false / false[-1], overlap / overlap[-1]
        auroc, pro = area_below(fpr, hits / hits[-1], 1.0), area_below(fpr, overlap, max_fpr)
        thresholds = np.linspace(self._low, self._high, THRESHOLDS, endpoint=False)
        below = thresholds.astype(np.float32)  # at most the threshold: the same scores are above
        below = np.where(below > thresholds, np.nextafter(below, np.float32(-np.inf)), below)
        places = _bins(below) - self._first
        above = len(filled) - np.searchsorted(filled, places, side="right")  # bins above each threshold
        f1_max = float(np.max(2 * hits / (pixels + hits[-1])))
        return PixelMetrics(auroc, pro, f1_max, coarse_pro(fpr[above], overlap[above], max_fpr))

    def _covering(self, low: int, high: int) -> NDArray[np.float64]:
        """The sums of the bins from `low` to `high`; missing bins are created."""
        if not self.images:
            self._first = low
        before, after = max(0, self._first - low), max(0, high + 1 - self._first - self._sums.shape[1])
        if before or after:
            self._sums = np.pad(self._sums, ((0, 0), (before, after)))
            self._first -= before
        return self._sums[:, low - self._first : high + 1 - self._first]


def coarse_pro(fpr: NDArray, overlap: NDArray, max_fpr: float) -> float:
    """PRO as AnomalyCLIP's published code estimates it, from points at 200 thresholds. Those with a rate of
    `max_fpr` or more are dropped, the rates of the others stretched to [0, 1]. NaN if one rate is left."""
    kept = fpr < max_fpr
    fpr, overlap = fpr[kept][::-1], overlap[kept][::-1]
    if not len(fpr) or fpr[-1] == fpr[0]:
        message = f"PRO at {THRESHOLDS} thresholds is undefined: less than two false-positive rates are below"
        warnings.warn(f"{message} {max_fpr}; returning NaN", UndefinedMetricWarning, stacklevel=3)
        return np.nan
    return float(np.trapezoid(overlap, (fpr - fpr[0]) / (fpr[-1] - fpr[0])))


def _bins(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bin of each score, rising with it."""
    total = np.zeros(scores.shape, np.int32)
    for point, least in CROWDED.items():
        distance, least = scores - np.float32(point), np.float32(least)  # rounding keeps the order
        signs = distance.view(np.int32) >> 31  # -1 below the point, else 0: the places change sign with it
        places = np.maximum(np.abs(distance, out=distance), least, out=distance).view(np.int32)
        total += (((places - least.view(np.int32)) ^ signs) - signs) >> _DROPPED
    return total
