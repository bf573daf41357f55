"""Pictures of a report: heat maps over images, their colour bar, a histogram of scores.

One scale of colours for all images of a run. The colours are perceptually uniform, and where a map is above
the threshold a line says so, white with black on either side, which needs no colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import binary_dilation

BLUE, ORANGE = "#0072B2", "#D55E00"  # told apart by everybody
STYLE = {
    **{"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 130, "font.size": 10},
    **{"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False},
}
COLOURS = "inferno"
SMALLEST, LARGEST, THUMBNAIL = 256, 640, 288
"""Longer edge in pixels of a heat map, and of a picture in the report."""
ABREAST = 3
"""Pictures beside each other in a figure, so that titles can be read on a phone."""


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a heat map: the longer edge between SMALLEST and LARGEST, the shape kept.

    >>> shown_size((96, 48)), shown_size((300, 200)), shown_size((4000, 3000))
    ((256, 128), (300, 200), (640, 480))
    """
    return _scaled(size, np.clip(max(size), SMALLEST, LARGEST))


def thumbnail(image: Image.Image) -> Image.Image:
    """With THUMBNAIL pixels along the longer edge; small images are enlarged, so that all look alike."""
    return image.resize(_scaled(image.size, THUMBNAIL), Image.Resampling.BICUBIC)


def _scaled(size: tuple[int, int], longer: int) -> tuple[int, int]:
    width, height = (max(1, round(edge * longer / max(size))) for edge in size)
    return width, height


def decorated(
    image: Image.Image, heat: np.ndarray, scale: tuple[float, float], threshold: float = np.nan
) -> Image.Image:
    """The heat map over a grey version of the image.

    image: RGB. heat: (h, w), the image's size. scale: values of the darkest and of the brightest colour.
    threshold: where the map is above it, a line is drawn around; NaN draws none.
    """
    low, high = scale
    mixed = _mixed((heat - low) / (high - low), np.asarray(image.convert("L"), float)[..., None] / 255)
    if np.isfinite(threshold):
        above = heat > threshold
        line = binary_dilation(above, iterations=1) & ~above
        mixed[binary_dilation(line, iterations=1)] = 0
        mixed[line] = 1
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def colour_bar(width: int = 256, height: int = 12) -> Image.Image:
    """The colours from low to high, mixed with grey as over an image."""
    mixed = _mixed(np.tile(np.linspace(0, 1, width), (height, 1)), 0.5)
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def _mixed(heat: np.ndarray, grey: np.ndarray | float) -> np.ndarray:
    """(h, w, 3) from heat (h, w), of which 0 to 1 are the ends of the colours, and grey."""
    return 0.4 * grey + 0.6 * mpl.colormaps[COLOURS](np.clip(heat, 0, 1))[..., :3]


def pairs_figure(
    pairs: Sequence[tuple[Image.Image, Image.Image]], titles: Sequence[str], scale: tuple[float, float]
) -> Image.Image:
    """Images above their heat maps, three beside each other, with one colour bar."""
    columns, rows = min(len(pairs), ABREAST), -(-len(pairs) // ABREAST)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.9 * columns + 1, 4.2 * rows), layout="constrained")
        axes = figure.subplots(2 * rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for number, (pair, title) in enumerate(zip(pairs, titles, strict=True)):
            row, column = divmod(number, ABREAST)
            for axis, picture in zip(axes[2 * row : 2 * row + 2, column], pair, strict=True):
                axis.imshow(picture)
            axes[2 * row, column].set_title(title, fontsize=9)
        colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(*scale), COLOURS)
        label = "map (mixed with the grey image)"
        figure.colorbar(colours, ax=axes, label=label, extend="both", shrink=0.8)
        return _drawn(figure)


def score_histogram(scores: ArrayLike, threshold: float, references: ArrayLike = ()) -> Image.Image:
    """How often which score; the threshold as a dashed line, normal references as marks below the axis."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        axis = figure.subplots()
        scores, references = np.asarray(scores, float), np.asarray(references, float)
        both = np.append(scores, references)
        ends = both.min() - 1e-6, both.max() + 1e-6  # bins have a width also if all scores are equal
        edges = np.histogram_bin_edges(both, min(40, max(8, len(scores) // 3)), ends)
        axis.hist(scores, edges, color=BLUE, edgecolor="white", label=f"your images ({len(scores)})")
        if len(references):
            label = f"normal references ({len(references)})"
            axis.plot(references, np.zeros(len(references)), "|", ms=16, mew=1.6, color="black", label=label)
        axis.axvline(threshold, color=ORANGE, ls="--", lw=2, label=f"threshold {threshold:.4g}")
        axis.set(xlabel="score", ylabel="images")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=9)
        return _drawn(figure)


def _drawn(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)
