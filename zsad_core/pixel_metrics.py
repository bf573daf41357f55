"""Pixel AUROC, PRO and F1-max of any number of images in one pass, in bounded memory, with error bounds.

`metrics` sorts all pixels of a set at once: a category of 100 maps of 1024 x 1024 is 100 million scores.
Here each image is added to a histogram and forgotten. As long as the set has at most `max_bins` distinct
scores, each has its own bin and the metrics are exact. Beyond that neighbouring bins are joined, and each
metric comes with a bound on what the joining can have changed. The bound is no estimate: whatever the order
of the pixels within a bin, the exact value lies inside.

Bins need no range of scores. A float32 has a place in the order of all float32 numbers, which is its bits
read as an integer; an interval of places is an interval of scores of fixed relative width. The key of a score
s is the sum of the places of s, s - 1, ..., s - 4. It rises with s and is fine near 0, 1, ..., 4, where the
probabilities of a softmax crowd, or sums of them over up to four layers; distances and negative scores have
keys as well. A bin holds the keys that agree but for their last few bits, as few as leave at most `max_bins`
bins. How many bits depends on the set of scores alone, so neither the order of the images nor how they were
shared among workers changes the bins.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import UndefinedMetricWarning

from zsad_core.metrics import _checked_values, _region_weights

CROWDED = (1, 2, 3, 4)  # scores near which keys are fine, besides 0
PENDING_PIXELS = 2**20  # keys collected before they are sorted into bins


class Bounded(NamedTuple):
    """`value` is within `error` of the exact metric (rounding of the last digits of a double aside)."""

    value: float
    error: float


@dataclass(eq=False)
class PixelHistogram:
    """Counts of normal and anomalous pixels, and region weights, by score; filled image by image.

    Parameters
    ----------
    connectivity : of the regions of PRO, as in `metrics.aupro`.
    max_bins : 40 bytes each. With the default, bounds are mostly below 1e-4; they are wider where many scores
        crowd around a value other than 0 to 4, and narrower with more bins.

    >>> histogram = PixelHistogram()
    >>> histogram.add([[0, 1]], [[0.1, 0.9]])
    >>> histogram.add([[0, 0, 0]], [[0.2, 0.1, 0.3]])  # sizes may differ
    >>> histogram.pixel_auroc()
    Bounded(value=1.0, error=0.0)
    """

    connectivity: Literal[1, 2] = 2
    max_bins: int = 2**17
    images: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.connectivity not in (1, 2):
            raise ValueError(f"connectivity is {self.connectivity!r}; expected 1 or 2")
        if self.max_bins < 2:
            raise ValueError(f"max_bins is {self.max_bins!r}; expected 2 or more")
        self._low = np.zeros(0, np.int64)  # (b,) smallest key seen in each bin, ascending
        self._high = np.zeros(0, np.int64)  # (b,) largest
        self._shift = 0  # bits of the keys that do not count
        self._sums = np.zeros((3, 0))  # normal pixels, anomalous pixels, their 1 / region area
        self._clear_pending()

    def add(self, mask: ArrayLike, anomaly_map: ArrayLike) -> None:
        """Count the pixels of one image.

        Parameters
        ----------
        mask : (H, W) bool, or 0 and 1; 1 marks an anomalous pixel. An image called anomalous whose mask is
            empty has normal pixels only and is no error.
        anomaly_map : (H, W) finite, cast to float32; higher means more anomalous. Images may differ in size.

        Raises
        ------
        ValueError: shapes that differ, a mask with other values, scores that are not finite (as float32).
        """
        mask, scores = np.asarray(mask), np.asarray(anomaly_map)
        if mask.ndim != 2 or mask.shape != scores.shape:
            raise ValueError(
                f"mask {self.images} has shape {mask.shape} and its map {scores.shape}; expected one (H, W) "
                "for both: resize the map to the size of the mask"
            )
        with np.errstate(over="ignore"):
            scores = scores.astype(np.float32, copy=False)
        mask, scores = _checked_values(mask, scores, f"mask {self.images}", f"map {self.images}")
        self.images += 1
        keys = _keys(scores)
        if mask.any():
            box = _extent(mask.any(axis=1)), _extent(mask.any(axis=0))  # labelling is slow: only there
            inside = mask[box]
            self._anomalous.append(keys[box][inside])
            self._weights.append(_region_weights(inside, self.connectivity)[inside])
            keys = keys[~mask]
        self._normal.append(keys.ravel())
        self._n_pending += mask.size
        if self._n_pending >= PENDING_PIXELS:
            self._flush()

    def pixel_auroc(self) -> Bounded:
        """`metrics.pixel_auroc` of all pixels."""
        mixed, (normal, anomalous, _) = self._descending()
        return _area(normal, anomalous, mixed, 1.0) if self._defined("pixel AUROC") else _UNDEFINED

    def aupro(self, max_fpr: float = 0.3) -> Bounded:
        """`metrics.aupro` of all images."""
        _check_max_fpr(max_fpr)
        mixed, (normal, _, weight) = self._descending()
        return _area(normal, weight, mixed, max_fpr) if self._defined("AUPRO") else _UNDEFINED

    def f1_max(self) -> Bounded:
        """`metrics.f1_max` of all pixels. A threshold reaches the value, so the exact one is not below it."""
        mixed, (normal, anomalous, _) = self._descending()
        if not self._defined("pixel F1-max"):
            return _UNDEFINED
        hits, false = np.cumsum(anomalous), np.cumsum(normal)
        f1 = 2 * hits / (hits + false + hits[-1])
        # no threshold inside a bin does better than one that has all its anomalous pixels and no normal one
        best = 2 * hits / (hits + false - normal + hits[-1])
        return Bounded(float(f1.max()), float(np.where(mixed, best, f1).max() - f1.max()))

    def _descending(self) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """From the highest score down: whether a bin has several scores, (b,), and the sums, (3, b)."""
        if not self.images:
            raise ValueError("no images: expected at least one; call add first")
        self._flush()
        return (self._high > self._low)[::-1], self._sums[:, ::-1]

    def _defined(self, metric: str) -> bool:
        """False, with a warning, when only one class is present."""
        normal, anomalous = self._sums[:2].sum(axis=1)
        if normal and anomalous:
            return True
        warnings.warn(
            f"{metric} is undefined: all {normal + anomalous:.0f} pixels are "
            f"{'normal' if normal else 'anomalous'}; returning NaN",
            UndefinedMetricWarning,
            stacklevel=3,
        )
        return False

    def _clear_pending(self) -> None:
        self._normal: list[NDArray[np.int64]] = []
        self._anomalous: list[NDArray[np.int64]] = []
        self._weights: list[NDArray[np.float64]] = []
        self._n_pending = 0

    def _flush(self) -> None:
        """Sort the pending keys into bins."""
        if not self._n_pending:
            return
        parts = [(self._low, self._high, self._sums)]
        normal = np.concatenate(self._normal)
        if normal.size:
            normal.sort()
            self._coarsen(normal)
            start = _starts(normal, self._shift)
            end = np.append(start[1:], normal.size)
            sums = np.zeros((3, start.size))
            sums[0] = end - start
            parts.append((normal[start], normal[end - 1], sums))
        if self._anomalous:
            keys, weights = np.concatenate(self._anomalous), np.concatenate(self._weights)
            order = np.argsort(keys)
            keys = keys[order]
            self._coarsen(keys)
            start = _starts(keys, self._shift)
            end = np.append(start[1:], keys.size)
            sums = np.stack([np.zeros(start.size), end - start, np.add.reduceat(weights[order], start)])
            parts.append((keys[start], keys[end - 1], sums))
        self._clear_pending()
        self._absorb(*parts)

    def _absorb(self, *parts: tuple[NDArray, NDArray, NDArray]) -> None:
        """Make one set of bins of several (low, high, sums)."""
        low, high, sums = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts))
        if not low.size:
            return
        order = np.argsort(low, kind="stable")  # the parts are sorted, so this merges
        low = low[order]
        self._coarsen(low)
        start = _starts(low, self._shift)
        self._low = low[start]
        self._high = np.maximum.reduceat(high[order], start)
        self._sums = np.add.reduceat(sums[:, order], start, axis=1)

    def _coarsen(self, keys: NDArray[np.int64]) -> None:
        """Raise `shift` until these sorted keys are in at most `max_bins` bins."""
        while keys.size > self.max_bins and _starts(keys, self._shift).size > self.max_bins:
            self._shift += 1


_UNDEFINED = Bounded(float("nan"), float("nan"))


def _keys(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers in the order of the scores, equal where scores are equal."""
    keys = _places(scores + np.float32(0)).astype(np.int64)  # -0.0 becomes 0.0
    for point in CROWDED:
        keys += _places(scores - np.float32(point))  # rounding keeps the order
    return keys


def _places(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Place of each number in the order of all float32 numbers, 0 at 0.0."""
    bits = values.view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the magnitude of a negative number runs the other way


def _extent(occupied: NDArray[np.bool_]) -> slice:
    """From the first true value to the last."""
    return slice(occupied.argmax(), occupied.size - occupied[::-1].argmax())


def _starts(keys: NDArray[np.int64], shift: int) -> NDArray[np.intp]:
    """Where a bin starts among sorted keys."""
    bins = keys >> shift
    return np.flatnonzero(np.append(True, bins[1:] != bins[:-1]))


def _area(normal: NDArray, positive: NDArray, mixed: NDArray[np.bool_], max_fpr: float) -> Bounded:
    """Area under the curve of `positive` over `normal` shares up to `max_fpr`, divided by that.

    A bin is a step (dx, dy) of the curve. Inside that box the exact curve rises in some unknown way; here it
    is the diagonal. The part of the box up to `max_fpr` is t dx wide (t = 1 but for the bin that is cut), and
    of it the diagonal has t dx dy t/2 below and t dx dy (1 - t/2) above. The latter is the larger. A bin of a
    single score is a straight line in the exact curve too.
    """
    x, y = (np.append(0.0, np.cumsum(steps)) for steps in (normal, positive))
    x, y = x / x[-1], y / y[-1]
    dx, dy = np.diff(x), np.diff(y)
    width = np.clip(max_fpr - x[:-1], 0, dx)
    t = np.divide(width, dx, out=np.zeros_like(dx), where=dx > 0)
    value = np.sum(width * (y[:-1] + dy * t / 2)) / max_fpr
    return Bounded(float(value), float(np.sum(mixed * width * dy * (1 - t / 2)) / max_fpr))


def _check_max_fpr(max_fpr: float) -> None:
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr is {max_fpr!r}; expected a number in (0, 1]")
