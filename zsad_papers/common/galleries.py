"""Galleries of images beside their anomaly maps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from zsad_core.image_features import Extractor
from zsad_core.methods import Detector
from zsad_core.pixel_metrics import image_maps
from zsad_core.prompts import object_name
from zsad_core.windows import upsample
from zsad_papers.common.experiment import Category
from zsad_papers.common.plots import PICTURES, new_figure, or_placeholder, show_image


@dataclass(frozen=True)
class Example:
    """A test image (H, W, 3), its mask (H, W), a normal image of its category, and maps (H, W) by method."""

    label: str
    image: np.ndarray
    mask: np.ndarray
    normal: np.ndarray
    maps: Mapping[str, np.ndarray] = field(repr=False)


def example(
    category: Category, image: int, maps: Mapping[str, np.ndarray], reference: int | None = None
) -> Example:
    """Test image number `image`; reference: the training image shown as normal, black without one."""
    test = category.test
    normal = Image.new("RGB", test.size(image)) if reference is None else category.train.image(reference)
    label = f"{object_name(category.name)}\n{object_name(test.meta['defect'].iloc[image])}"
    return Example(label, np.asarray(test.image(image)), test.mask(image), np.asarray(normal), maps)


def image_map(
    category: Category,
    extractor: Extractor,
    detect: Detector,
    image: int,
    output: str = "",
    *,
    map_size: tuple[int, int] | None = None,
    sigma: float = 0.0,
) -> np.ndarray:
    """The map (H, W) of test image number `image` at its own size; map_size and sigma as in `measure`."""
    features = category.features(extractor, image)
    found = next(image_maps(features, detect(features)[output].maps, map_size, sigma))
    return upsample(torch.from_numpy(found)[None], tuple(features.sizes[0].tolist()))[0].numpy()


def within_images(category: Category, each: np.ndarray) -> pd.DataFrame:
    """For each test image: label, area (the defect's share of the image), kind of defect, and, of its map
    alone, pixel AUROC and F1-max (NaN without anomalous pixels) and maximum. each: as of `measure`."""
    test, measures = category.test, dict(zip(("auroc", "f1max", "maximum"), each.T, strict=True))
    areas = [test.mask(i).mean() if label else 0.0 for i, label in enumerate(test.labels)]
    kinds = test.meta["defect"].to_numpy()
    return pd.DataFrame({"label": test.labels, "area": areas, "kind": kinds, **measures})


def together(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of `within_images` of several categories; columns `number`, of the category, and `image`."""
    parts = [frame.assign(number=number) for number, frame in enumerate(frames)]
    return pd.concat(parts).rename_axis("image").reset_index()


def lowest(
    images: pd.DataFrame, scores: pd.Series, categories: Sequence[Category], number: int
) -> list[tuple[Category, int]]:
    """The images with the lowest scores, at most one a category. images: of `together`."""
    first = images.loc[scores.sort_values(kind="stable").index].drop_duplicates("number").head(number)
    return [(categories[row.number], int(row.image)) for row in first.itertuples()]


def one_scale(maps: Iterable[np.ndarray]) -> dict[str, float]:
    """The limits of one colour scale for all maps."""
    return {"vmin": min(map(np.min, maps)), "vmax": max(map(np.max, maps))}


@or_placeholder
@mpl.rc_context({**PICTURES, "font.size": 8})
def map_gallery(examples: Sequence[Example], *, normal: bool = False, size: float = 1.05) -> Figure:
    """Rows of examples: the normal image, if wanted, the image with its mask outlined, each method's map, in
    one colour scale a method: rows can be compared, columns cannot."""
    methods = list(examples[0].maps)
    columns = ["normal"] * normal + ["image, mask"] + methods
    width, height = size * len(columns) + 1.0, size * len(examples) + 0.7
    ratios = [1] * len(examples) + [0.07]
    figure, axes = new_figure(len(ratios), len(columns), width, height, height_ratios=ratios)
    for j, title in enumerate(columns):
        axes[0, j].set_title(title, fontsize=8)
        values = [found.maps[title] for found in examples] if title in methods else None
        scale = one_scale(values) if values else {}
        for axis, found in zip(axes[:-1, j], examples, strict=True):
            image = found.normal if title == "normal" else found.image
            mask = None if title == "normal" else found.mask
            show_image(axis, found.maps.get(title, image), mask, 0.7, cmap="inferno", **scale)
        if values:
            bar = figure.colorbar(axes[0, j].images[0], cax=axes[-1, j], orientation="horizontal")
            bar.set_ticks(list(scale.values()), labels=[short(v, scale["vmax"]) for v in scale.values()])
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


def short(value: float, largest: float) -> str:
    """A number beside a colour bar: 0 if it is less than a thousandth of the largest."""
    value = 0.0 if abs(value) < largest / 1000 else value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
