"""AnomalyCLIP's figures of images and scores: maps of images chosen by rule, and how scores are spread.

Figures that explain the method are in `anomalyclip_explained`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zsad_core import methods as methods_module
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import PART, Extractor, TileFeatures, feature_parts
from zsad_core.maps import image_maps
from zsad_core.methods import Detector, anomalyclip, detector
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import object_name
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip.experiments import clip_features, clip_scores, measured, prompt_scores
from zsad_papers.baselines.vand import Adapters, vand_detector, vand_extractor
from zsad_papers.common import data
from zsad_papers.common.data import missing
from zsad_papers.common.experiment import Category, categories
from zsad_papers.common.galleries import Example, _short
from zsad_papers.common.plots import MARKERS, PALETTE, STYLE, Words, new_figure, or_words
from zsad_papers.common.settings import Settings
from zsad_papers.winclip.figures import example as winclip_example

METHODS = ("CLIP", "WinCLIP", "CoOp", "VAND", "AnomalyCLIP")

Asks = LearnedPrompts | Adapters | ClipEncoder | None
"""What a method asks with: learned prompts, VAND's layers, WinCLIP's encoder, or None: CLIP's own words."""


def squashed(settings: Settings, encoder: ClipEncoder, role: str) -> list[Category]:
    """The categories in a role, seen as AnomalyCLIP sees them; none, without a warning, if there are none."""
    if missing(settings, [role]):
        return []
    return [replace(c, whole="squash") for c in categories(settings, encoder, role)]


def asked(
    settings: Settings,
    encoder: ClipEncoder,
    role: str,
    methods: Sequence[str] = ("AnomalyCLIP",),
    windows: ClipEncoder | None = None,
) -> dict[str, Asks]:
    """What each of some `METHODS` asks the dataset in a role with, learned on its auxiliary set.

    windows: WinCLIP's encoder. Methods whose auxiliary set is not there are left out.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or ("WinCLIP" in methods and windows is None):
        raise ValueError(
            f"methods={tuple(methods)}, windows={windows}: expected some of {', '.join(METHODS)}, and for "
            "WinCLIP its encoder, `embeddings.encoder_of(settings)`"
        )
    auxiliary, found = anomalyclip_experiments.auxiliary_role(role), {}
    learns = not missing(settings, [auxiliary])
    for method in methods:
        if method in ("CLIP", "WinCLIP"):
            found[method] = windows if method == "WinCLIP" else None
        elif learns and method == "VAND":
            found[method] = anomalyclip_experiments.learned_adapters(settings, encoder, auxiliary)
        elif learns:
            preset = "coop" if method == "CoOp" else "released"
            found[method] = anomalyclip_experiments.learned_prompts(settings, encoder, auxiliary, preset)
    return found


class Mapper(NamedTuple):
    """How a method makes maps: features, detector, and the sigma of its smoothing at the model's input."""

    extractor: Extractor
    detect: Detector
    sigma: float


def mapper(c: Category, asks: LearnedPrompts | Adapters | None, *, look_at_training: bool = False) -> Mapper:
    """Maps of a category; refuses images that a method was trained on, unless look_at_training."""
    if asks is not None and not look_at_training:
        asks.refuse_training_images(c.test)
    encoder, sigma = c.encoder, methods_module.smoothing(c.encoder.image_size)
    if isinstance(asks, Adapters):
        return Mapper(
            vand_extractor(encoder), vand_detector(encoder, asks, c.name, c.settings.cache_dir), 0.0
        )
    if asks is None:
        return clip_mapper(c)
    texts = asks.texts(encoder, [object_name(c.name)])[0]
    detect = detector(anomalyclip, texts, encoder.grid, asks.config.temperature)
    return Mapper(methods_module.extractor_of(encoder, asks.config), detect, sigma)


def clip_mapper(c: Category, attention: str = "qk") -> Mapper:
    """Maps by CLIP's hand-written prompts, of the last block's features with some kind of attention."""
    texts = anomalyclip_experiments.clip_texts(c.encoder, c.name, c.settings.cache_dir)
    detect = detector(anomalyclip, texts, c.encoder.grid)
    return Mapper(clip_features(c.encoder, attention), detect, methods_module.smoothing(c.encoder.image_size))


def features_of(c: Category, extractor: Extractor, image: int) -> TileFeatures:
    """The features of test image number `image`."""
    number, place = divmod(image, PART)
    return feature_parts(extractor, c.test, c.settings.cache_dir, whole=c.whole)[number].load().only(place)


def image_map(c: Category, makes: Mapper, image: int) -> np.ndarray:
    """(H, W) float32 in [0, 1]: the map at the model's input size, which is measured, at the image's size."""
    dense = features_of(c, makes.extractor, image)
    found = next(image_maps(dense, makes.detect(dense)[""].maps, c.encoder.image_size, makes.sigma))
    size = tuple(dense.sizes[0].tolist())
    return _bilinear(torch.from_numpy(found), size).numpy()


def map_examples(c: Category, asks: Mapping[str, Asks], images: Sequence[int]) -> list[Example]:
    """Examples for `winclip_figures.map_gallery` or `strip`: maps of some test images. asks: of `asked`."""
    makes = {name: mapper(c, own) for name, own in asks.items() if not isinstance(own, ClipEncoder)}
    found = []
    for image in images:
        maps = {}
        for name, own in asks.items():
            if name in makes:
                maps[name] = image_map(c, makes[name], image)
            else:
                maps |= winclip_example(replace(c, encoder=own, whole="tiles"), image).maps
        picture, defect = np.asarray(c.test.image(image)), object_name(c.test.meta["defect"].iloc[image])
        found.append(Example(f"{object_name(c.name)}\n{defect}", picture, c.test.mask(image), picture, maps))
    return found


def spread_out(c: Category, number: int) -> list[int]:
    """At most `number` anomalous test images, evenly spaced in the dataset's list."""
    anomalous = np.flatnonzero(c.test.labels == 1)
    places = np.linspace(0, len(anomalous) - 1, min(number, len(anomalous))).round().astype(int)
    return anomalous[places].tolist()


def within_images(c: Category, prompts: LearnedPrompts) -> pd.DataFrame:
    """Of each test image: label, area (the defect's share of the image), and of AnomalyCLIP's map in this
    image alone the pixel AUROC and F1-max (NaN where nothing is anomalous) and the maximum."""
    measure = lambda extractor, detect, key: measured(  # noqa: E731
        c, "anomalyclip", extractor, detect, prompts=key, each=("",)
    )
    found = anomalyclip_experiments.score_dataset(prompts, c.encoder, c.test, measure)["/each"]
    areas = [c.test.mask(i).mean() if label else 0.0 for i, label in enumerate(c.test.labels)]
    names = ("auroc", "f1max", "maximum")
    return pd.DataFrame({"label": c.test.labels, "area": areas, **dict(zip(names, found.T, strict=True))})


def successes_and_failures(
    chosen: Sequence[tuple[Category, LearnedPrompts]], number: int = 3
) -> dict[str, list[tuple[Category, int]]]:
    """The images with the highest and the lowest pixel AUROC within the image, and the normal images whose
    map has the highest maximum (Figure 7); at most one image a category in each group. Categories
    without masks are left out."""
    masked = [(c, prompts) for c, prompts in chosen if data.has_masks(c.test)]
    if not masked:
        return {}
    parts = [within_images(c, prompts).assign(number=n) for n, (c, prompts) in enumerate(masked)]
    images = pd.concat(parts).rename_axis("image").reset_index()
    found, normal = images.dropna(), images[images["label"] == 0]
    groups = {
        "success": found.sort_values("auroc", ascending=False, kind="stable"),
        "failure": found.sort_values("auroc", kind="stable"),
        "false alarm": normal.sort_values("maximum", ascending=False, kind="stable"),
    }
    first = {name: group.drop_duplicates("number").head(number) for name, group in groups.items()}
    return {
        name: [(masked[row.number][0], int(row.image)) for row in group.itertuples()]
        for name, group in first.items()
    }


def strip(examples: Sequence[Example], method: str = "AnomalyCLIP", size: float = 1.35) -> Figure:
    """As in Figures 14 to 37: a column an image; the image, the image with its mask outlined, the map. One
    colour scale for all maps, from their lowest to their highest score."""
    with mpl.rc_context({**STYLE, "axes.grid": False, "font.size": 8}):
        height, width = examples[0].mask.shape
        tall = 3 * size * min(1.3, height / width)
        figure, axes = new_figure(3, len(examples), size * len(examples) + 2.0, tall + 0.5)
        values = [found.maps[method] for found in examples]
        scale = {"vmin": min(v.min() for v in values), "vmax": max(v.max() for v in values)}
        for j, (found, value) in enumerate(zip(examples, values, strict=True)):
            axes[0, j].imshow(found.image)
            axes[1, j].imshow(found.image)
            drawn = axes[2, j].imshow(value, cmap="inferno", **scale)
            axes[0, j].set_title(found.label.split("\n")[-1], fontsize=8)
            if found.mask.any():
                axes[1, j].contour(found.mask, [0.5], colors="black", linewidths=1.8)
                axes[1, j].contour(found.mask, [0.5], colors="white", linewidths=0.8)
        name, masked = examples[0].label.split("\n")[0], any(found.mask.any() for found in examples)
        for axis, label in zip(axes[:, 0], (name, "mask" if masked else "no mask", "map"), strict=True):
            axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        place = {"ax": axes.ravel().tolist(), "fraction": 0.06, "shrink": 0.3, "anchor": (0.0, 0.0)}
        bar = figure.colorbar(drawn, label="score", **place)
        figure.get_layout_engine().set(rect=(0.05, 0, 0.95, 1))  # else long names are cut at the left
        bar.set_ticks(list(scale.values()), labels=[_short(v) for v in scale.values()])
        return figure


SHOWN: dict[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "F14": ("hazelnut", "MVTec-AD", (("mvtec", "hazelnut"), ("mvtec", "bottle_top"))),
    "F15": ("pill", "MVTec-AD", (("mvtec", "pill"), ("mvtec", "capsule"))),
    "F16": ("metal nut", "MVTec-AD", (("mvtec", "metal_nut"), ("mvtec", "hex_nut"))),
    "F17": ("capsule", "MVTec-AD", (("mvtec", "capsule"),)),
    "F18": ("screw", "MVTec-AD", (("mvtec", "screw"),)),
    "F19": ("candle", "VisA", (("visa", "candle"), ("visa", "candles"))),
    "F20": ("chewing gum", "VisA", (("visa", "chewinggum"), ("visa", "cookie"))),
    "F21": ("capsules", "VisA", (("visa", "capsules"), ("visa", "beans"))),
    "F22": ("cashew", "VisA", (("visa", "cashew"),)),
    "F23": ("circuit board", "VisA", (("visa", "pcb1"), ("visa", "circuit_board"))),
    "F24": ("pipe fryum", "VisA", (("visa", "pipe_fryum"), ("visa", "macaroni"))),
    "F25": ("bracket", "MPDD", (("mpdd", "bracket_black"), ("visa", "gear"))),
    "F26": ("metal plate", "MPDD", (("mpdd", "metal_plate"), ("mvtec", "transistor"))),
    "F27": ("tube", "MPDD", (("mpdd", "tubes"), ("visa", "fuse"))),
    "F28": ("grid", "MVTec-AD", (("mvtec", "grid"),)),
    "F29": ("leather", "MVTec-AD", (("mvtec", "leather"),)),
    "F30": ("carpet", "MVTec-AD", (("mvtec", "carpet"),)),
    "F31": ("tile", "MVTec-AD", (("mvtec", "tile"),)),
    "F32": ("wood", "MVTec-AD", (("mvtec", "wood"),)),
    "F33": ("zipper", "MVTec-AD", (("mvtec", "zipper"),)),
    "F34": ("skin", "ISIC", (("isic", ""),)),
    "F35": ("thyroid", "TN3K", (("tn3k", ""),)),
    "F36": ("colon", "CVC-ClinicDB", (("cvc_clinicdb", ""),)),
    "F37": ("brain", "BrainMRI", (("brainmri", ""),)),
}
"""Of Figures 14 to 37 the category, its dataset, and the places (role, category) where it or something of its
kind is looked for, in order; an empty category is the first of a dataset. The paper names neither the circuit
board nor the bracket nor the set of colon or brain pictures: these are our choice."""


def shown_category(settings: Settings, encoder: ClipEncoder, artifact: str) -> tuple[str, Category] | None:
    """The role and the category that stand for one of `SHOWN`; None if there is none."""
    for role, name in SHOWN[artifact][2]:
        for c in squashed(settings, encoder, role):
            if name in ("", c.name):
                return role, c
    return None


def shown_table(settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    """What each of Figures 14 to 37 shows in the paper and in this run."""
    lines = []
    for artifact, (name, dataset, _) in SHOWN.items():
        found = shown_category(settings, encoder, artifact)
        role, c = found or ("", None)
        lines.append(
            {
                "figure": artifact[1:],
                "in the paper": f"{name}, {dataset}",
                "here": f"{object_name(c.name)}, {c.dataset.name}" if c else "nothing: no such data",
                "masks": ("yes" if data.has_masks(c.test) else "none") if c else "",
                "prompts learned on": settings.datasets[anomalyclip_experiments.auxiliary_role(role)]
                or "nothing"
                if c
                else "",
            }
        )
    return pd.DataFrame(lines)


def shown_maps(
    settings: Settings, encoder: ClipEncoder, artifact: str, number: int = 5
) -> tuple[Figure | Words, Category | None]:
    """One of Figures 14 to 37, and the category in it; words where there is no data."""
    found = shown_category(settings, encoder, artifact)
    if found is None:
        return Words(f"Neither {SHOWN[artifact][0]} nor a stand-in for it is among this run's data."), None
    role, c = found
    asks = asked(settings, encoder, role)
    if not asks:
        return Words("No auxiliary set to learn prompts on is among this run's data."), None
    return strip(map_examples(c, asks, spread_out(c, number))), c


def image_scores(c: Category, prompts: LearnedPrompts | None) -> np.ndarray:
    """(n,) anomalous probabilities of the test images; prompts None: CLIP's own words."""
    return (clip_scores(c) if prompts is None else prompt_scores(c, prompts))["/scores"]


@or_words
def score_histograms(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], *, bins: int = 40, columns: int = 4
) -> Figure:
    """A panel a category (Figures 10 to 13): which share of normal and of anomalous images has which score.

    scores: {title: (scores (n,) in [0, 1], labels (n,))}. Normal images have a solid outline, anomalous ones
    a dashed one with hatching.
    """
    n_rows = max(1, -(-len(scores) // columns))
    with mpl.rc_context({**STYLE, "font.size": 8}):
        figure, axes = new_figure(n_rows, columns, 2.1 * columns, 1.45 * n_rows + 0.7, sharex=True)
        for axis, (title, (values, labels)) in zip(axes.flat, scores.items(), strict=False):
            for label, name, style in ((0, "normal", "-"), (1, "anomalous", "--")):
                own = values[np.asarray(labels) == label]
                look = {"histtype": "stepfilled", "ls": style, "lw": 1.4, "edgecolor": PALETTE[label]}
                look |= {
                    "facecolor": (*mpl.colors.to_rgb(PALETTE[label]), 0.15),
                    "hatch": ("", "////")[label],
                }
                shares = np.full(len(own), 1 / max(1, len(own)))
                axis.hist(own, bins, range=(0, 1), weights=shares, label=name, **look)
            axis.set_title(title, fontsize=8.5)
            axis.set_xlim(0, 1)
        for axis in axes.flat[len(scores) :]:
            axis.set_axis_off()
        for below, axis in enumerate(axes.flat):
            axis.xaxis.set_tick_params(labelbottom=below + columns >= len(scores))
        figure.supxlabel("image score (probability of anomalous)", fontsize=8.5)
        figure.supylabel("share of images", fontsize=8.5)
        if scores:
            figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return figure


def _bilinear(values: Tensor, size: tuple[int, int]) -> Tensor:
    options = {"mode": "bilinear", "align_corners": False}
    return torch.nn.functional.interpolate(values[None, None].float(), size, **options)[0, 0]


SWEPT = {"E": "learned words E", "M": "text blocks M", "L": "tokens in each L", "N": "image layers N"}
MEASURES = {("pixel", "pro"): "pixel PRO (%)", ("image", "ap"): "image AP (%)"}
"""What Figure 8 shows of each setting."""


@or_words
def dots(
    frame: pd.DataFrame,
    *,
    label: str,
    value: str,
    group: str,
    panel: str,
    xlabel: str,
    reference: float | None = None,
    columns: int = 2,
    share_x: bool = False,
) -> Figure:
    """One line a label, one dot a group, told by marker and colour; a panel for each value of `panel`.

    frame: a row a dot. reference: a vertical line at this x, such as 0 for changes. share_x: one scale for
        all panels.
    Lines keep the order in which labels first appear, and stand in every panel. Unlike bars, dots need no
    axis from 0, so small differences between high numbers stay visible.
    """
    with mpl.rc_context(STYLE):
        labels, groups, panels = (list(dict.fromkeys(frame[name])) for name in (label, group, panel))
        columns = min(columns, len(panels))
        n_rows = -(-len(panels) // columns)
        height = n_rows * (0.9 + 0.12 * len(labels) * (1 + len(groups))) + 0.4
        figure, axes = new_figure(n_rows, columns, 1.6 + 2.7 * columns, height, sharey=True, sharex=share_x)
        for axis, title in zip(axes.flat, panels, strict=False):
            for number, name in enumerate(groups):
                own = frame[(frame[group] == name) & (frame[panel] == title)].set_index(label)[value]
                at = np.arange(len(labels)) + 0.5 * ((number + 0.5) / len(groups) - 0.5)
                marker, colour = MARKERS[number % len(MARKERS)], PALETTE[number % len(PALETTE)]
                axis.plot(own.reindex(labels), at, marker, color=colour, label=name)
            if reference is not None:
                axis.axvline(reference, color="grey", lw=1)
            axis.set(title=title, xlabel=xlabel, yticks=range(len(labels)), yticklabels=labels)
            axis.title.set_fontsize(10)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        axes[0, 0].invert_yaxis()
        if len(groups) > 1:
            handles = axes.flat[0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", ncols=min(3, len(groups)))
        return figure


@or_words
def sweeps(frame: pd.DataFrame, defaults: Mapping[str, int]) -> Figure:
    """Figure 8: a row of panels for each hyperparameter, pixel PRO on the left and image AP on the right.

    frame: rows of `results` whose variants are `E=12` and the like. defaults: by letter, marked by a line.
    """
    parts = frame["variant"].str.extract(r"^([EMLN])=(\d+)$")
    frame = frame.assign(letter=parts[0], x=parts[1].astype("Int64")).dropna(subset="letter")
    letters = [letter for letter in SWEPT if (frame["letter"] == letter).any()]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(len(letters), 2, 6.4, 1.9 * len(letters) + 0.3)
        for row, letter in zip(axes, letters, strict=True):
            for number, ((task, metric), name) in enumerate(MEASURES.items()):
                own = frame[(frame["letter"] == letter) & (frame["task"] == task)]
                own = own[own["metric"] == metric].sort_values("x")
                axis, x = row[number], own["x"].to_numpy(float)
                axis.plot(x, own["mean"], marker=MARKERS[number], color=PALETTE[number])
                axis.set(xlabel=SWEPT[letter], ylabel=name, xticks=x)
                axis.margins(y=0.25)
                if letter in defaults:
                    axis.axvline(defaults[letter], color="grey", ls=":", lw=1.2)
                    where = {"xy": (defaults[letter], 1.01), "xycoords": ("data", "axes fraction")}
                    axis.annotate("default", **where, ha="center", fontsize=8, color="dimgrey")
        return figure
