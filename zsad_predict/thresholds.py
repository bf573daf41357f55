"""From scores to decisions: a threshold, and a sentence that says where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from zsad_predict.options import THRESHOLDS

FEW = 10
"""A quantile of fewer scores than these is rough, and a warning says so."""
DEFAULTS = {"references": 1.0, "folder": 0.9}
"""Quantiles. References are normal, so the highest of them is still normal. Nothing is known of a folder; one
image in ten is what a person can look through."""


@dataclass(frozen=True)
class Rule:
    """What the user says about the threshold. Raises ValueError for values that contradict each other.

    source: "references", "folder", or "auto": references if there are any that can be compared.
    quantile: of the scores there, by linear interpolation; None: `DEFAULTS`. number: the threshold itself.
    """

    source: str = "auto"
    quantile: float | None = None
    number: float | None = None

    def __post_init__(self) -> None:
        if self.source not in THRESHOLDS:
            raise ValueError(f"threshold_from={self.source!r}: expected auto, references or folder")
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise ValueError(f"threshold_quantile={self.quantile}: expected 0 to 1, such as 0.95")
        if self.number is not None and (self.quantile is not None or self.source != "auto"):
            raise ValueError(
                f"threshold={self.number} decides alone: leave out either it, or threshold_quantile and "
                "threshold_from"
            )
        if self.number is not None and not math.isfinite(self.number):
            raise ValueError(f"threshold={self.number}: expected a finite number")


@dataclass(frozen=True)
class Threshold:
    """An image is anomalous if its score is above `value`, a place in it if the map is above `map_value`
    (NaN if unknown). rule: a phrase that completes "anomalous is what scores ..."."""

    value: float
    map_value: float
    rule: str
    warnings: tuple[str, ...] = ()

    def decide(self, scores: ArrayLike) -> np.ndarray:
        """(n,) bool from scores (n,): above, not equal, so that the highest reference itself is normal."""
        return np.asarray(scores, float) > self.value


@dataclass(frozen=True)
class Sample:
    """Scores (n,) of images and the maxima (n,) of their maps, NaN without maps.

    left_out: whether each was scored against the others. A single one then has no others, and no score.
    """

    scores: np.ndarray
    maxima: np.ndarray
    left_out: bool = False


def choose_threshold(rule: Rule, folder: Sample, references: Sample | None = None) -> Threshold:
    """The threshold of a folder's scores by a rule."""
    if rule.number is not None:
        place = _quantile(references.maxima, 1.0) if references else math.nan
        return Threshold(rule.number, place, f"above {rule.number:g}, a number that was given")
    warnings, quantile = [], rule.quantile
    if rule.source != "folder" and references is not None and not len(references.scores):
        quantile = None
        warnings.append(
            "There is one reference only, which can be compared with none but itself, so the threshold comes "
            "from the folder's own scores. Give two references or more."
        )
    if rule.source == "folder" or references is None or not len(references.scores):
        sample, kind = folder, "image"
        quantile = DEFAULTS["folder"] if quantile is None else quantile
        where = f"above the {quantile:g}-quantile of the folder's own {len(sample.scores)} scores"
        warnings.append(
            f"A quantile of the folder's own scores flags about {100 * (1 - quantile):.0f} % of the images, "
            "whether any of them is damaged or all are. It ranks; it does not judge."
        )
    else:
        sample, kind = references, "reference"
        quantile = DEFAULTS["references"] if quantile is None else quantile
        what = "highest score" if quantile == 1 else f"{quantile:g}-quantile of the scores"
        where = f"above the {what} of {len(sample.scores)} normal references"
        where += ", each scored against the others" if sample.left_out else ""
    number = len(sample.scores)
    if number < FEW:
        warnings.append(
            f"{number} {kind}{'s' if number > 1 else ''} make a rough threshold: another choice of them "
            "would move it."
        )
    value, place = _quantile(sample.scores, quantile), _quantile(sample.maxima, quantile)
    return Threshold(value, place, f"{where}, {value:.4g}", tuple(warnings))


def _quantile(values: np.ndarray, quantile: float) -> float:
    """NaN where there are no values, or one is NaN."""
    return float(np.quantile(values, quantile)) if len(values) else math.nan
