"""Galleries of images beside their anomaly maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from zsad_papers.common.plots import PICTURES, new_figure, or_words, show_image


@dataclass(frozen=True)
class Example:
    """A test image (H, W, 3), its mask (H, W), a normal image of its category, and maps (H, W) by method."""

    label: str
    image: np.ndarray
    mask: np.ndarray
    normal: np.ndarray
    maps: Mapping[str, np.ndarray] = field(repr=False)


@or_words
@mpl.rc_context({**PICTURES, "font.size": 8})
def map_gallery(examples: Sequence[Example], *, normal: bool = False, size: float = 1.05) -> Figure:
    """Rows of examples: the image with its mask outlined, then each method's map, one colour scale a method.

    normal: whether the normal image is shown first. A scale runs from the method's lowest to its highest
    score in this figure, so rows of a column can be compared; columns cannot.
    """
    methods = list(examples[0].maps)
    columns = ["normal"] * normal + ["image, mask"] + methods
    width, height = size * len(columns) + 1.0, size * len(examples) + 0.7
    ratios = [1] * len(examples) + [0.07]
    figure, axes = new_figure(len(ratios), len(columns), width, height, height_ratios=ratios)
    for j, title in enumerate(columns):
        axes[0, j].set_title(title, fontsize=8)
        values = [found.maps[title] for found in examples] if title in methods else None
        scale = {"vmin": min(map(np.min, values)), "vmax": max(map(np.max, values))} if values else {}
        for axis, found in zip(axes[:-1, j], examples, strict=True):
            image = found.normal if title == "normal" else found.image
            mask = None if title == "normal" else found.mask
            show_image(axis, found.maps.get(title, image), mask, 0.7, cmap="inferno", **scale)
        if values:
            bar = figure.colorbar(axes[0, j].images[0], cax=axes[-1, j], orientation="horizontal")
            bar.set_ticks(list(scale.values()), labels=[_short(v) for v in scale.values()])
            bar.set_label("score", labelpad=0, fontsize=7)
            for text, side in zip(bar.ax.get_xticklabels(), ("left", "right")):
                text.set(ha=side, fontsize=7)
        else:
            axes[-1, j].set_axis_off()
    for axis, found in zip(axes[:-1, 0], examples, strict=True):
        axis.set_ylabel(found.label, rotation=0, ha="right", va="center", fontsize=7.5)
    return figure


def labelled(found: Example, text: str) -> Example:
    """The example with a line of text above its label."""
    return replace(found, label=f"{text}\n{found.label}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
