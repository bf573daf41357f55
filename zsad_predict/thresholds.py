"""From scores to decisions: a threshold, and in words where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

FEW = 10
"""Fewer scores than these make a rough quantile, which is said."""
DEFAULTS = {"references": 1.0, "folder": 0.9}
"""References are normal, so the highest of them is still normal. Of a folder nothing is known; one image in
ten is what a person can look through."""


@dataclass(frozen=True)
class Threshold:
    """An image is anomalous if its score is above `value`, and a place if the map is above `map_value` (NaN:
    nothing tells). rule: a phrase that completes "anomalous is what scores ...". warnings: what to beware
    of."""

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

    comparable: False where a score says nothing about other images, as that of an only reference of WinCLIP+
    does, which could be compared with nothing but itself.
    """

    scores: np.ndarray
    maxima: np.ndarray
    comparable: bool = True


def choose_threshold(
    folder: Sample,
    references: Sample | None = None,
    *,
    source: str = "auto",
    quantile: float | None = None,
    number: float | None = None,
    left_out: bool = False,
) -> Threshold:
    """The threshold of a folder's scores.

    source: "references", "folder", or "auto": references if there are any that can be compared.
    quantile: of the scores there, by linear interpolation; None: `DEFAULTS`. number: the threshold itself.
    left_out: whether each reference was scored against the others, for the wording.
    Raises ValueError for options that contradict each other.
    """
    check_options(references is not None, source=source, quantile=quantile, number=number)
    if number is not None:
        return Threshold(
            number, _quantile(references.maxima, 1.0) if references else math.nan, _given(number)
        )
    warnings = []
    usable = references is not None and references.comparable
    if source != "folder" and references is not None and not usable:
        warnings.append(
            "There is one reference only, which can be compared with none but itself, so the threshold comes "
            "from the folder's own scores. Give two references or more."
        )
    if source == "folder" or not usable:
        q, sample = DEFAULTS["folder"] if quantile is None or warnings else quantile, folder
        rule = f"above the {q:g}-quantile of the folder's own {len(sample.scores)} scores"
        warnings.append(
            f"A quantile of the folder's own scores flags about {100 * (1 - q):.0f} % of the images, whether "
            "any of them is damaged or all are. It ranks; it does not judge."
        )
        kind = "image"
    else:
        q, sample = DEFAULTS["references"] if quantile is None else quantile, references
        what = "highest score" if q == 1 else f"{q:g}-quantile of the scores"
        rule = f"above the {what} of {len(sample.scores)} normal references"
        rule += ", each scored against the others" if left_out else ""
        kind = "reference"
    if len(sample.scores) < FEW:
        number = len(sample.scores)
        warnings.append(
            f"{number} {kind}{'s' if number > 1 else ''} make a rough threshold: another choice of them "
            "would move it."
        )
    value, highest = _quantile(sample.scores, q), _quantile(sample.maxima, q)
    return Threshold(value, highest, f"{rule}, {value:.4g}", tuple(warnings))


def _given(number: float) -> str:
    return f"above {number:g}, a number that was given"


def _quantile(values: np.ndarray, q: float) -> float:
    """NaN where there are no values, or they are NaN."""
    return float(np.quantile(values, q)) if len(values) and not np.isnan(values).any() else math.nan


def check_options(
    has_references: bool, *, source: str = "auto", quantile: float | None = None, number: float | None = None
) -> None:
    """ValueError for options of `choose_threshold` that contradict each other, before anything is scored."""
    if source not in ("auto", "references", "folder"):
        raise ValueError(f"threshold_from={source!r}: expected auto, references or folder")
    if source == "references" and not has_references:
        raise ValueError("threshold_from=references, but there are none: give a folder of normal images")
    if quantile is not None and not 0 <= quantile <= 1:
        raise ValueError(f"threshold_quantile={quantile}: expected a number from 0 to 1, such as 0.95")
    if number is not None and (quantile is not None or source != "auto"):
        raise ValueError(
            f"threshold={number} is a number, so threshold_quantile and threshold_from have no use: leave "
            "out the one or the others"
        )
    if number is not None and not math.isfinite(number):
        raise ValueError(f"threshold={number}: expected a finite number")
