"""False alarms on the background (AnomalyCLIP, App. D, claim 49).

No dataset says where an object ends. Here the background of an image is estimated from its border: the pixels
that are close in colour to it and joined to it. That is only done for categories whose border has nearly one
colour and whose images hold a piece of something else; textures and cluttered scenes say nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import label as components

from zsad_core import anomalyclip as ac
from zsad_core.anomalyclip_figures import mapper
from zsad_core.datasets import stretched_mask
from zsad_core.dense import dense_parts
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.results import COLUMNS, rows
from zsad_core.winclip import image_maps
from zsad_core.winclip_studies import Category

TOLERANCE = 24
"""Grey levels of 256 in which each channel may differ from the border's colour."""

UNIFORM, LEAST, PIECE = 0.9, 0.05, 0.02
"""Of the border the share that must have its colour, of the image the least share of the background, and that
of the largest piece of the rest, which in a texture is a speck; medians over a category's images."""

BINS = 20_000
"""Of scores in [0, 1], among which the threshold of the best F1 is looked for."""


def background(image: np.ndarray, tolerance: int = TOLERANCE) -> tuple[np.ndarray, float]:
    """The estimated background (H, W) bool of an image (H, W, 3) uint8, and the share in [0, 1] of the border
    that has its colour.

    The border is a frame of 2 % of the shorter edge, its colour the median of each channel. Background is
    what differs from it by at most `tolerance` in each channel and is joined to the frame (4-neighbours).
    """
    frame = np.ones(image.shape[:2], bool)
    edge = max(1, round(0.02 * min(frame.shape)))
    frame[edge:-edge, edge:-edge] = False
    colour = np.median(image[frame], axis=0)
    close = (np.abs(image.astype(float) - colour) <= tolerance).all(axis=2)
    numbers, _ = components(close)
    joined = np.isin(numbers, np.setdiff1d(numbers[frame & close], [0]))
    return joined, float(close[frame].mean())


@dataclass(frozen=True)
class Shares:
    """Of one category: whether it counts, and the background's share of false positives and of normal pixels
    (NaN where it does not count, or nothing is falsely marked)."""

    uniform: float
    share: float
    piece: float
    false_positives: float = float("nan")
    normal: float = float("nan")

    @property
    def counts(self) -> bool:
        return self.uniform >= UNIFORM and self.share >= LEAST and self.piece >= PIECE


def background_shares(c: Category, prompts: LearnedPrompts) -> Shares:
    """Where AnomalyCLIP marks normal pixels, at the threshold of the category's best pixel F1.

    All at the size of the model's input, as it is measured.
    """
    size, sides = c.encoder.image_size, []
    for i in range(len(c.test)):
        image = c.test.image(i).resize(size[::-1], Image.Resampling.BILINEAR)
        sides.append(background(np.asarray(image)))
    behind = np.stack([found for found, _ in sides])
    uniform = float(np.median([share for _, share in sides]))
    pieces = [_largest(~found) for found in behind]
    rough = Shares(uniform, float(np.median(behind.mean((1, 2)))), float(np.median(pieces)))
    if not rough.counts or not ac.has_masks(c.test):
        return rough
    makes, place = mapper(c, prompts), 0
    counts = np.zeros((3, BINS))  # anomalous pixels, normal ones of the background, other normal ones
    for part in dense_parts(makes.extractor, c.test, c.settings.cache_dir, whole=c.whole):
        dense = part.load()
        for i, found in enumerate(image_maps(dense, makes.detect(dense)[""].maps, size, makes.sigma)):
            anomalous = stretched_mask(part.dataset.mask(i), size)
            groups = (anomalous, behind[place] & ~anomalous, ~behind[place] & ~anomalous)
            for number, group in enumerate(groups):
                counts[number] += np.histogram(found[group], BINS, (0, 1))[0]
            place += 1
    return Shares(rough.uniform, rough.share, rough.piece, *shares_above(counts))


def shares_above(counts: np.ndarray) -> tuple[float, float]:
    """The background's share of the normal pixels above the threshold of the best F1, and of all of them.

    counts: (3, b) of anomalous, background and other normal pixels by score, ascending.
    """
    hits, behind, other = np.cumsum(counts[:, ::-1], axis=1)
    best = np.argmax(2 * hits / np.maximum(hits + behind + other + hits[-1], 1))
    false = behind[best] + other[best]
    return float(behind[best] / false) if false else float("nan"), float(
        behind[-1] / (behind[-1] + other[-1])
    )


def background_rows(categories: Sequence[Category], prompts: LearnedPrompts, dataset: str) -> pd.DataFrame:
    """Rows of claim 49 for one dataset: a line for each category that counts, and their mean.

    categories: seen squashed (`anomalyclip_figures.squashed`). None counts: no rows.
    """
    found = {c.name: background_shares(c, prompts) for c in categories}
    values = [
        {"category": name, "background_false_positives": s.false_positives, "background_normal": s.normal}
        for name, s in found.items()
        if s.counts and not np.isnan(s.false_positives)
    ]
    if not values:
        return pd.DataFrame(columns=COLUMNS)
    names = {"paper": "anomalyclip", "artifact": "appD", "dataset": dataset, "method": "anomalyclip"}
    return rows(pd.DataFrame(values), task="pixel", **names)


def _largest(foreground: np.ndarray) -> float:
    """The share of the image that the largest piece of the foreground takes."""
    numbers, _ = components(foreground)
    return float(np.bincount(numbers.ravel(), minlength=2)[1:].max() / foreground.size)
