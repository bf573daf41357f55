"""From scores to decisions: a threshold, and a sentence that says where it comes from."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

FEW = 10  # A quantile of fewer scores is rough, and a warning says so.
# Quantiles: of references, the highest is still normal; of a folder, a person can check one image in ten.
DEFAULTS = {"references": 1.0, "folder": 0.9}


class Threshold(NamedTuple):
    """An image is anomalous if its score is above `value`, a place in it if the map is above `map_value` (NaN
    if unknown). rule: a phrase that completes "anomalous is what scores ..."."""

    value: float
    map_value: float
    rule: str
    warnings: tuple[str, ...] = ()


def check_rule(
    threshold: float | None, threshold_from: str, threshold_quantile: float | None, has_references: bool
) -> None:
    """ValueError for options that are wrong or contradict each other, before anything is scored."""
    if threshold_from not in ("auto", *DEFAULTS):
        raise ValueError(f"threshold_from={threshold_from!r}: expected auto, references or folder")
    if threshold_from == "references" and not has_references:
        raise ValueError("threshold_from=references, but there are none: give a folder of normal images")
    if threshold_quantile is not None and not 0 <= threshold_quantile <= 1:
        raise ValueError(f"threshold_quantile={threshold_quantile}: expected 0 to 1, such as 0.95")
    if threshold is not None and (threshold_quantile is not None or threshold_from != "auto"):
        raise ValueError(f"threshold={threshold} decides alone: leave out it, or the other two options")
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"threshold={threshold}: expected a finite number")


def choose_threshold(
    folder: pd.DataFrame,
    references: pd.DataFrame | None = None,
    *,
    threshold: float | None = None,
    threshold_from: str = "auto",
    threshold_quantile: float | None = None,
    left_out: bool = False,
) -> Threshold:
    """folder, references: columns score and map_maximum, NaN without maps.
    threshold_from: "auto" takes the references if any can be compared. threshold_quantile: by linear
        interpolation; None: `DEFAULTS`.
    left_out: whether each reference was scored against the others. A single one then has no score."""
    if threshold is not None:
        place = math.nan if references is None else references["map_maximum"].max(skipna=False)
        return Threshold(threshold, float(place), f"above {threshold:g}, a number that was given")
    warnings, q, own = [], threshold_quantile, threshold_from == "folder" or references is None
    if not own and references.empty:
        own, q = True, None
        why = "There is one reference only, and no other to compare it with"
        warnings.append(f"{why}: the folder's own scores set the threshold. Give two references or more.")
    sample, default = (folder, DEFAULTS["folder"]) if own else (references, DEFAULTS["references"])
    q = default if q is None else q
    if own:
        where, kind = f"{q:g}-quantile of the folder's own {len(sample)} scores", "image"
        share = f"A quantile of the folder's own scores flags about {100 * (1 - q):.0f} % of the images"
        warnings.append(f"{share}, whether any of them is damaged or all are. It ranks; it does not judge.")
    else:
        where, kind = "highest score" if q == 1 else f"{q:g}-quantile of the scores", "reference"
        where += f" of {len(sample)} normal references"
        where += ", each scored against the others" if left_out else ""
    if len(sample) < FEW:
        few = f"{len(sample)} {kind}{'s' if len(sample) > 1 else ''}"
        warnings.append(f"{few} make a rough threshold: another choice of them would move it.")
    value, place = (float(np.quantile(sample[name], q)) for name in ("score", "map_maximum"))
    return Threshold(value, place, f"above the {where}, {value:.4g}", tuple(warnings))
