"""Image and pixel metrics of the three papers, as fractions in [0, 1]. Where only one class is present they
are NaN, with a warning; scikit-learn returns 1 or 0 for some."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects, label


class UndefinedMetricWarning(UserWarning):
    """A metric has no value for one class alone. That of scikit-learn takes half a second to load."""


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often an anomalous image scores above a normal one (ties count half).
    labels: (n,) 0 for normal, 1 for anomalous. scores: (n,) finite. ValueError for anything else."""
    return float(ranked_metrics(labels, scores)["auroc"])


def aupr(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision, called AUPR or AP in the papers; arguments as in `auroc`."""
    return float(ranked_metrics(labels, scores)["aupr"])


def f1_max(labels: ArrayLike, scores: ArrayLike) -> float:
    """Best F1 score over all thresholds, which is chosen on the test set itself; arguments as in `auroc`."""
    return float(ranked_metrics(labels, scores)["f1max"])


def ranked_metrics(labels: ArrayLike, scores: ArrayLike, counts: NDArray | float = 1.0) -> dict[str, NDArray]:
    """auroc, aupr, ap (the same) and f1max of one curve; arguments as in `auroc`. counts: (b, n), how often
    each of b samples holds each image, some of either label; then each metric has (b,) values."""
    labels, scores = checked(labels, scores, "labels", "scores", n_axes=1)
    anomalous = np.count_nonzero(labels)
    if undefined(labels.size - anomalous, anomalous, "AUROC, AUPR, F1-max"):
        return dict.fromkeys(("auroc", "aupr", "ap", "f1max"), np.nan)
    false, hits = _curve(scores, ~labels * counts, labels * counts)
    recall = hits / hits[..., -1:]
    precision = hits / np.maximum(hits + false, 1.0)  # a sample may lack the images of the highest scores
    area = np.sum(np.diff(recall) * precision[..., 1:], axis=-1)
    best = np.max(2 * hits / (hits + false + hits[..., -1:]), axis=-1)
    return {"auroc": np.trapezoid(recall, false / false[..., -1:]), "aupr": area, "ap": area, "f1max": best}


def aupro(masks: Sequence[ArrayLike], maps: Sequence[ArrayLike], max_fpr: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate, divided by that rate.

    For each threshold the overlap of a region is the part of its pixels above the threshold, and PRO is the
    mean over all connected regions of all masks. The curve runs over the false-positive rate among normal
    pixels: it is the ROC curve where each anomalous pixel counts 1 / (area of its region).

    masks: n arrays (H_i, W_i) of any sizes, 1 marks an anomalous pixel. maps: of the same shapes.
    max_fpr: in (0, 1]; 0.3 in WinCLIP and AnomalyCLIP.

    >>> aupro([[[0, 1, 1], [0, 0, 0]]], [[[0.1, 0.9, 0.8], [0.2, 0.3, 0.1]]])
    1.0
    """
    if len(masks) != len(maps) or not len(masks):
        raise ValueError(f"{len(masks)} masks and {len(maps)} maps; expected one map for each mask")
    named = enumerate(zip(masks, maps, strict=True))
    pairs = [checked(mask, scores, f"mask {i}", f"map {i}", n_axes=2) for i, (mask, scores) in named]
    labels, scores = (np.concatenate([x.ravel() for x in images]) for images in zip(*pairs, strict=True))
    if undefined(np.count_nonzero(~labels), np.count_nonzero(labels), "AUPRO"):
        return np.nan
    weights = labels.astype(float)
    weights[labels] = np.concatenate([anomalous_weights(mask) for mask, _ in pairs if mask.any()])
    false, overlap = _curve(scores, ~labels, weights)
    return area_below(false / false[-1], overlap / overlap[-1], max_fpr)


def area_below(fpr: NDArray, y: NDArray, max_fpr: float) -> float:
    """Area below a curve (t,) over false-positive rates up to `max_fpr`, divided by that rate."""
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr is {max_fpr!r}; expected a number in (0, 1]")
    inside = np.searchsorted(fpr, max_fpr, side="right")
    at_limit = np.interp(max_fpr, fpr, y)
    return float(np.trapezoid(np.append(y[:inside], at_limit), np.append(fpr[:inside], max_fpr)) / max_fpr)


def anomalous_weights(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(k,) for each anomalous pixel of a mask (H, W), at least one: 1 / area of its region. Pixels that touch
    at a corner are joined, as in the public codes."""
    part = mask[find_objects(mask.astype(np.uint8))[0]]  # labelling is slow: only there
    regions = label(part, np.ones((3, 3)))[0][part]  # corners touch
    return 1.0 / np.bincount(regions)[regions]


def undefined(normal: int, anomalous: int, metric: str) -> bool:
    """True, with a warning, when one of the two numbers of labels is 0."""
    if normal and anomalous:
        return False
    labels = f"all {normal + anomalous:.0f} labels are {'anomalous' if anomalous else 'normal'}"
    warnings.warn(f"{metric} is undefined: {labels}; returning NaN", UndefinedMetricWarning, stacklevel=4)
    return True


def checked(
    labels: ArrayLike, scores: ArrayLike, labels_name: str, scores_name: str, n_axes: int
) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """Labels as bool and scores as floats of one shape, or an error that says what is wrong."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != n_axes or labels.shape != scores.shape:
        wanted = "two vectors of one length" if n_axes == 1 else "one (H, W): resize the map to its mask"
        shapes = f"{labels_name}: shape {labels.shape}, {scores_name}: shape {scores.shape}"
        raise ValueError(f"{shapes}; expected {wanted}")
    if labels.size == 0:
        raise ValueError(f"{labels_name}: empty; expected at least one value")
    other = [] if labels.dtype == bool else np.setdiff1d(labels, [0, 1])[:5].tolist()
    if other:
        advice = "for instance `mask > 0` for a mask stored as 0 and 255"
        raise ValueError(f"{labels_name}: found {other}; expected only 0 (normal) and 1, {advice}")
    scores = scores if np.issubdtype(scores.dtype, np.floating) else scores.astype(float)
    wrong = scores.size - np.count_nonzero(np.isfinite(scores))
    if wrong:
        found = f"{wrong} of {scores.size} values are NaN or infinite"
        raise ValueError(f"{scores_name}: {found}; expected finite scores")
    return labels.astype(bool, copy=False), scores


def _curve(scores: NDArray, *weights: NDArray) -> list[NDArray]:
    """The weights (..., n) of values above each threshold (..., t), from none to all."""
    order = np.argsort(-scores)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of equal scores
    found = [np.cumsum(own.take(order, -1), axis=-1, dtype=float).take(last, -1) for own in weights]
    return [np.concatenate([np.zeros_like(own[..., :1]), own], axis=-1) for own in found]
