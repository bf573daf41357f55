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
    **{"figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110, "font.size": 10},
    **{"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False},
}
COLOURS = "inferno"
SMALLEST, LARGEST, THUMBNAIL = 256, 640, 288
"""Longer edge in pixels of a heat map, and of a picture in the report."""
ABREAST = 3
"""Pictures beside each other in a figure, so that titles can be read on a phone."""


class _Drawing(Figure):
    """A figure that notebooks show, outside pyplot's global list."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=STYLE["figure.dpi"], facecolor="white")
        return buffer.getvalue()


def _new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure = _Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a heat map: the longer edge between SMALLEST and LARGEST, the shape kept.

    >>> shown_size((96, 48)), shown_size((300, 200)), shown_size((4000, 3000))
    ((256, 128), (300, 200), (640, 480))
    """
    longer = max(size)
    scale = np.clip(longer, SMALLEST, LARGEST) / longer
    width, height = (max(1, round(edge * scale)) for edge in size)
    return width, height


def decorated(
    image: Image.Image, heat: np.ndarray, scale: tuple[float, float], threshold: float = np.nan
) -> Image.Image:
    """The heat map over a grey version of the image.

    image: RGB. heat: (h, w), the image's size. scale: values of the darkest and of the brightest colour.
    threshold: where the map is above it, a line is drawn around; NaN draws none.
    """
    low, high = scale
    colours = mpl.colormaps[COLOURS](np.clip((heat - low) / (high - low), 0, 1))[..., :3]  # (h, w, 3)
    grey = np.asarray(image.convert("L"), float)[..., None] / 255
    mixed = 0.4 * grey + 0.6 * colours
    if np.isfinite(threshold):
        above = heat > threshold
        line = binary_dilation(above, iterations=1) & ~above
        mixed[binary_dilation(line, iterations=1)] = 0
        mixed[line] = 1
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def thumbnail(image: Image.Image) -> Image.Image:
    """With THUMBNAIL pixels along the longer edge; small images are enlarged, so that all look alike."""
    scale = THUMBNAIL / max(image.size)
    return image.resize([max(1, round(edge * scale)) for edge in image.size], Image.Resampling.BICUBIC)


def colour_bar(width: int = 256, height: int = 12) -> Image.Image:
    """The colours from low to high, mixed with grey as over an image."""
    colours = mpl.colormaps[COLOURS](np.linspace(0, 1, width))[None, :, :3]
    mixed = 0.4 * 0.5 + 0.6 * np.repeat(colours, height, 0)
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def pairs_figure(
    pairs: Sequence[tuple[Image.Image, Image.Image]], titles: Sequence[str], scale: tuple[float, float]
) -> Figure:
    """Images above their heat maps, three beside each other, with one colour bar."""
    columns = min(len(pairs), ABREAST)
    rows = -(-len(pairs) // ABREAST)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = _new_figure(2 * rows, columns, 1.9 * columns + 1, 4.2 * rows)
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
        return figure


def score_histogram(scores: ArrayLike, threshold: float, references: ArrayLike = ()) -> Figure:
    """How often which score; the threshold as a dashed line, normal references as marks below the axis."""
    with mpl.rc_context(STYLE):
        figure, axes = _new_figure(1, 1, 6.4, 2.9)
        axis = axes[0, 0]
        scores, references = np.asarray(scores, float), np.asarray(references, float)
        edges = np.histogram_bin_edges(np.append(scores, references), min(40, max(8, len(scores) // 3)))
        axis.hist(scores, edges, color=BLUE, edgecolor="white", label=f"your images ({len(scores)})")
        if len(references):
            label = f"normal references ({len(references)})"
            axis.plot(references, np.zeros(len(references)), "|", ms=16, mew=1.6, color="black", label=label)
        axis.axvline(threshold, color=ORANGE, ls="--", lw=2, label=f"threshold {threshold:.4g}")
        axis.set(xlabel="score", ylabel="images")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=9)
        return figure


def histogram(scores: ArrayLike, threshold: float, references: ArrayLike = ()) -> Image.Image:
    """`score_histogram` as a picture."""
    buffer = BytesIO()
    score_histogram(scores, threshold, references).savefig(buffer, format="png", dpi=130, facecolor="white")
    return Image.open(buffer)
