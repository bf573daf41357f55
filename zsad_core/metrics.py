"""Image and pixel metrics of the three papers, as fractions in [0, 1], on scikit-learn and scikit-image.

RWDA Section 4.1, WinCLIP Section 5 and AnomalyCLIP Section 4.1 report the area under the ROC curve (AUROC),
the area under the precision-recall curve (AUPR), the best F1 score over thresholds (F1-max) and, for maps,
the pixel AUROC and the area under the per-region-overlap curve (AUPRO). All of them rank: scores run upwards
with anomaly and may have any scale.

Where only one class is present a ranking metric has no value. Every function here then returns NaN and warns
with scikit-learn's `UndefinedMetricWarning`; scikit-learn itself would return 1.0 or 0.0 for some of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.measure import label as connected_components
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

Images = ArrayLike | Sequence[ArrayLike]


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often an anomalous image scores above a normal one (ties count half).

    Parameters
    ----------
    labels : (n,) 0 for normal, 1 for anomalous.
    scores : (n,) finite, higher means more anomalous.

    Returns
    -------
    A fraction in [0, 1]; NaN with a warning when only one class is present (never 0.5).

    Raises
    ------
    ValueError: empty input, lengths that differ, labels other than 0 and 1, scores that are not finite.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    labels, scores = _checked(labels, scores)
    if _undefined(labels, "AUROC"):
        return float("nan")
    return float(roc_auc_score(labels, scores))


def aupr(labels: ArrayLike, scores: ArrayLike, interpolation: Literal["step", "trapezoid"] = "step") -> float:
    """Area under the precision-recall curve, with the anomalous class as the positive one.

    Parameters are those of `auroc`, and

    interpolation : "step" is average precision, the default: WinCLIP and AnomalyCLIP call the same number
        AUPR and AP, and it does not credit points that no threshold reaches. "trapezoid" joins the points by
        straight lines; the two differ in the third decimal on benchmark-sized sets, more on small ones.

    >>> round(aupr([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    >>> round(aupr([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], interpolation="trapezoid"), 4)
    0.7917
    """
    if interpolation not in ("step", "trapezoid"):
        raise ValueError(f"interpolation is {interpolation!r}; expected 'step' or 'trapezoid'")
    labels, scores = _checked(labels, scores)
    if _undefined(labels, "AUPR"):
        return float("nan")
    if interpolation == "step":
        return float(average_precision_score(labels, scores))
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(auc(recall, precision))


def f1_max(labels: ArrayLike, scores: ArrayLike) -> float:
    """Best F1 score over all thresholds, "F1-max": the threshold is chosen on the test set itself.

    Parameters, errors and the single-class case are those of `auroc`.

    >>> round(f1_max([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8
    """
    labels, scores = _checked(labels, scores)
    if _undefined(labels, "F1-max"):
        return float("nan")
    precision, recall, _ = precision_recall_curve(labels, scores)  # (t,)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(f1.max())


def pixel_auroc(masks: Images, maps: Images) -> float:
    """AUROC over all pixels of all images, normal ones included (WinCLIP Section 5; AnomalyCLIP Section 4.1).

    Parameters
    ----------
    masks : (n, H, W), or n arrays (H_i, W_i) of any sizes; bool, or 0 and 1; 1 marks an anomalous pixel.
    maps : anomaly maps of the same shapes.

    Returns
    -------
    A fraction in [0, 1]; NaN with a warning when no pixel, or every pixel, is anomalous.

    >>> pixel_auroc([[[0, 1], [0, 0]]], [[[0.1, 0.9], [0.2, 0.3]]])
    1.0
    """
    pairs = _checked_images(masks, maps)
    labels = np.concatenate([mask.ravel() for mask, _ in pairs])
    if _undefined(labels, "pixel AUROC"):
        return float("nan")
    return float(roc_auc_score(labels, np.concatenate([scores.ravel() for _, scores in pairs])))


def aupro(masks: Images, maps: Images, max_fpr: float = 0.3, connectivity: Literal[1, 2] = 2) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate, divided by that rate.

    For each threshold the overlap of a region is the part of its pixels above the threshold, and PRO is the
    mean over all connected regions of all masks, so that small and large defects weigh the same. The curve
    runs over the false-positive rate among the pixels of no region. It has a point at every distinct score
    (no grid of thresholds), is joined by straight lines and cut exactly at `max_fpr`. A map that ranks all
    anomalous pixels first gives 1.

    PRO is a weighted true-positive rate: each anomalous pixel counts 1 / (area of its region). Hence it is
    scikit-learn's ROC curve with those weights.

    Parameters
    ----------
    masks, maps : as in `pixel_auroc`.
    max_fpr : in (0, 1]; 0.3 in WinCLIP and AnomalyCLIP.
    connectivity : 2 joins pixels that touch at a corner (8 neighbours, the default of the public codes), 1
        only those that share an edge.

    >>> aupro([[[0, 1, 1], [0, 0, 0]]], [[[0.1, 0.9, 0.8], [0.2, 0.3, 0.1]]])
    1.0
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr is {max_fpr!r}; expected a number in (0, 1]")
    pairs = _checked_images(masks, maps)
    labels = np.concatenate([mask.ravel() for mask, _ in pairs])
    if _undefined(labels, "AUPRO"):
        return float("nan")
    weights = np.concatenate([_region_weights(mask, connectivity).ravel() for mask, _ in pairs])
    scores = np.concatenate([scores.ravel() for _, scores in pairs])
    fpr, overlap, _ = roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)  # (t,)
    inside = np.searchsorted(fpr, max_fpr, side="right")
    at_limit = np.interp(max_fpr, fpr, overlap)
    return float(auc([*fpr[:inside], max_fpr], [*overlap[:inside], at_limit]) / max_fpr)


def _region_weights(mask: NDArray[np.bool_], connectivity: int) -> NDArray[np.float64]:
    """1 / area of the region that a pixel belongs to; 1 on normal pixels."""
    regions = connected_components(mask, connectivity=connectivity)  # (H, W), 0 is background
    areas = np.bincount(regions.ravel()).astype(float)
    areas[0] = 1.0
    return 1.0 / areas[regions]


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """Labels as bool and scores as floats, both (n,), or an error that says what is wrong."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"labels have shape {labels.shape} and scores {scores.shape}; expected two vectors of one length"
        )
    return _checked_values(labels, scores, "labels", "scores")


def _checked_images(masks: Images, maps: Images) -> list[tuple[NDArray[np.bool_], NDArray[np.floating]]]:
    """Pairs of (H, W) mask and map, checked one by one."""
    masks, maps = list(masks), list(maps)
    if len(masks) != len(maps):
        raise ValueError(f"{len(masks)} masks and {len(maps)} maps; expected one map for each mask")
    if not masks:
        raise ValueError("no masks: expected at least one image")
    pairs = []
    for i, (mask, scores) in enumerate(zip(masks, maps, strict=True)):
        mask, scores = np.asarray(mask), np.asarray(scores)
        if mask.ndim != 2 or mask.shape != scores.shape:
            raise ValueError(
                f"mask {i} has shape {mask.shape} and its map {scores.shape}; expected one (H, W) for both: "
                "resize the map to the size of the mask"
            )
        pairs.append(_checked_values(mask, scores, f"mask {i}", f"map {i}"))
    return pairs


def _checked_values(
    labels: NDArray, scores: NDArray, labels_name: str, scores_name: str
) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    if labels.size == 0:
        raise ValueError(f"{labels_name}: empty; expected at least one value")
    if labels.dtype != bool:
        other = np.setdiff1d(labels, [0, 1])
        if other.size:
            raise ValueError(
                f"{labels_name}: found {other[:5].tolist()}; expected only 0 (normal) and 1 (anomalous), "
                "for instance `mask > 0` for a mask stored as 0 and 255"
            )
        labels = labels.astype(bool)
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(float)
    finite = np.isfinite(scores)
    if not finite.all():
        raise ValueError(
            f"{scores_name}: {np.count_nonzero(~finite)} of {scores.size} values are NaN or infinite; "
            "expected finite scores"
        )
    return labels, scores


def _undefined(labels: NDArray[np.bool_], metric: str) -> bool:
    """True, with a warning, when only one class is present."""
    if labels.any() and not labels.all():
        return False
    present = "anomalous" if labels.any() else "normal"
    warnings.warn(
        f"{metric} is undefined: all {labels.size} labels are {present}; returning NaN",
        UndefinedMetricWarning,
        stacklevel=3,
    )
    return True
