"""AnomalyCLIP's figures: maps of images chosen by rule, scores, attention, and the sweeps of Figure 8."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from skimage.measure import block_reduce

from zsad_core.encoders import ClipEncoder
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import object_name
from zsad_core.training import Learned
from zsad_papers.anomalyclip import experiments, learning
from zsad_papers.anomalyclip.analysis import KIND_LABELS, loss_parts
from zsad_papers.baselines.vand import Adapters
from zsad_papers.common import galleries, plots
from zsad_papers.common.data import has_masks, missing
from zsad_papers.common.experiment import Category
from zsad_papers.common.galleries import Example, one_scale, short
from zsad_papers.common.results import read_table
from zsad_papers.common.settings import Settings
from zsad_papers.winclip.figures import example as winclip_example

PromptSource = LearnedPrompts | Adapters | ClipEncoder | None
"""Learned prompts, VAND's layers, WinCLIP's encoder, or None: CLIP's own words."""


def prompt_sources(
    settings: Settings,
    encoder: ClipEncoder,
    dataset: str,
    methods: Sequence[str] = ("AnomalyCLIP",),
    windows: ClipEncoder | None = None,
) -> dict[str, PromptSource]:
    """By method, learned on the auxiliary set, without which it is left out. windows: WinCLIP's encoder."""
    options = (settings, encoder, learning.auxiliary_dataset(dataset))
    learners = {
        "CoOp": partial(learning.learned_prompts, *options, "coop"),
        "VAND": partial(learning.learned_adapters, *options),
        "AnomalyCLIP": partial(learning.learned_prompts, *options),
    }
    given = {"CLIP": None} | ({"WinCLIP": windows} if windows else {})
    learns = not missing(settings, [options[-1]])
    return {own: given[own] if own in given else learners[own]() for own in methods if learns or own in given}


def image_map(category: Category, method: experiments.Method, image: int) -> np.ndarray:
    """(H, W) in [0, 1]: the map as it is measured, at the model's input size, scaled to the image's size."""
    options = {"map_size": category.encoder.image_size, "sigma": method.sigma}
    return galleries.image_map(category, method.extractor, method.detect, image, **options)


def map_examples(
    category: Category,
    sources: Mapping[str, PromptSource],
    images: Sequence[int],
    *,
    allow_training_images: bool = False,
) -> list[Example]:
    """Maps of some test images, for `galleries.map_gallery` or `strip`. sources: of `prompt_sources`."""
    make = partial(experiments.method_of, category, allow_training_images=allow_training_images)
    makes = {name: make(own) for name, own in sources.items() if own is None or isinstance(own, Learned)}
    found = []
    for image in images:
        maps = {}
        for name, own in sources.items():
            if name in makes:
                maps[name] = image_map(category, makes[name], image)
            else:
                maps |= winclip_example(replace(category, encoder=own, whole="tiles"), image).maps
        found.append(galleries.example(category, image, maps))
    return found


def before_and_after(
    category: Category, image: int, drawn: LearnedPrompts, learned: LearnedPrompts
) -> tuple[Example, pd.DataFrame]:
    """Maps and losses of one image, a training image or not, by prompts as drawn and as learned."""
    sides = {"before training": drawn, "after training": learned}
    (found,) = map_examples(category, sides, [image], allow_training_images=True)
    table = pd.DataFrame({name: loss_parts(category, own, image) for name, own in sides.items()})
    return found, table.rename_axis("part")


def spread_out(category: Category, number: int) -> list[int]:
    """At most `number` anomalous test images, evenly spaced in the dataset's list."""
    anomalous = np.flatnonzero(category.test.labels == 1)
    places = np.linspace(0, len(anomalous) - 1, min(number, len(anomalous))).round().astype(int)
    return anomalous[places].tolist()


def within_images(category: Category, prompts: LearnedPrompts) -> pd.DataFrame:
    """`galleries.within_images` of AnomalyCLIP's maps."""
    each = experiments.measured(category, experiments.method_of(category, prompts), each=("",))["/each"]
    return galleries.within_images(category, each)


def successes_and_failures(
    chosen: Sequence[tuple[Category, LearnedPrompts]], number: int = 3
) -> dict[str, list[tuple[Category, int]]]:
    """The images with the highest and the lowest pixel AUROC within the image, and the normal images with the
    highest maximum of a map (Figure 7): at most one a category in each group, none of one without masks."""
    masked = [(category, prompts) for category, prompts in chosen if has_masks(category.test)]
    if not masked:
        return {}
    images = galleries.together(within_images(category, prompts) for category, prompts in masked)
    auroc, maximum = images["auroc"].dropna(), images.loc[images["label"] == 0, "maximum"]
    groups = {"success": -auroc, "failure": auroc, "false alarm": -maximum}
    own = [category for category, _ in masked]
    return {name: galleries.lowest(images, scores, own, number) for name, scores in groups.items()}


@mpl.rc_context({**plots.PICTURES, "font.size": 8})
def strip(examples: Sequence[Example]) -> Figure:
    """As in Figures 14 to 37, a column an image: itself, with its mask, and its map; one colour scale."""
    height, width = examples[0].mask.shape
    size = 1.35 * len(examples) + 2.0, 1.35 * 3 * min(1.3, height / width) + 0.5
    figure, axes = plots.new_figure(3, len(examples), *size)
    scale = one_scale([found.maps["AnomalyCLIP"] for found in examples])
    for column, found in zip(axes.T, examples, strict=True):
        plots.show_image(column[0], found.image)
        plots.show_image(column[1], found.image, found.mask, 0.8)
        plots.show_image(column[2], found.maps["AnomalyCLIP"], cmap="inferno", **scale)
        column[0].set_title(found.label.split("\n")[-1], fontsize=8)
    name, masked = examples[0].label.split("\n")[0], any(found.mask.any() for found in examples)
    for axis, label in zip(axes[:, 0], (name, "mask" if masked else "no mask", "map"), strict=True):
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    place = {"ax": axes.ravel().tolist(), "fraction": 0.06, "shrink": 0.3, "anchor": (0.0, 0.0)}
    bar = figure.colorbar(axes[2, 0].images[0], label="score", **place)
    figure.get_layout_engine().set(rect=(0.05, 0, 0.95, 1))  # else long names are cut at the left
    bar.set_ticks(list(scale.values()), labels=[short(v, scale["vmax"]) for v in scale.values()])
    return figure


SHOWN = read_table("anomalyclip", "figure_maps.csv").set_index("figure")
"""For Figures 14 to 37: the category, its dataset, and what can show it, in order: dataset and category, or
a dataset for its first category. The paper does not name the circuit board or the bracket: our choice."""


def shown_category(settings: Settings, encoder: ClipEncoder, artifact: str) -> tuple[str, Category] | None:
    """The dataset and the category that show one of `SHOWN`; None if there is none."""
    for place in SHOWN.loc[artifact, "shown_by"].split(" | "):
        dataset, _, name = place.partition(" ")
        for category in experiments.squashed(settings, encoder, dataset):
            if name in ("", category.name):
                return dataset, category
    return None


def shown_table(settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    """What each of Figures 14 to 37 shows in the paper and in this run."""
    lines = []
    for artifact, shown in SHOWN.iterrows():
        here, masks, learned_on = "nothing: no such data", "", ""
        if found := shown_category(settings, encoder, artifact):
            dataset, category = found
            here = f"{object_name(category.name)}, {category.dataset.name}"
            masks = "yes" if has_masks(category.test) else "none"
            learned_on = settings.datasets[learning.auxiliary_dataset(dataset)] or "nothing"
        lines.append((artifact[1:], f"{shown['category']}, {shown['dataset']}", here, masks, learned_on))
    return pd.DataFrame(lines, columns=["figure", "in the paper", "here", "masks", "prompts learned on"])


def shown_maps(settings: Settings, encoder: ClipEncoder, artifact: str) -> Figure | plots.Placeholder:
    """One of Figures 14 to 37; a `Placeholder` without data."""
    found = shown_category(settings, encoder, artifact)
    if found is None:
        words = f"Neither {SHOWN.loc[artifact, 'category']} nor a stand-in for it is among this run's data."
        return plots.Placeholder(words)
    dataset, category = found
    sources = prompt_sources(settings, encoder, dataset)
    if not sources:
        return plots.Placeholder("No auxiliary set to learn prompts on is among this run's data.")
    return strip(map_examples(category, sources, spread_out(category, 5)))


def image_scores(category: Category, prompts: LearnedPrompts | None) -> np.ndarray:
    """(n,) anomalous probabilities of the test images; prompts None: CLIP's own words."""
    return experiments.measured(category, experiments.method_of(category, prompts))["/scores"]


@plots.or_placeholder
@mpl.rc_context({**plots.STYLE, "font.size": 8})
def score_histograms(scores: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One panel for each category (Figures 10 to 13): histograms of the normal and, dashed and hatched, of
    the anomalous scores. scores: {title: (scores (n,) in [0, 1], labels (n,))}."""
    columns, n_rows = 4, -(-len(scores) // 4)
    figure, axes = plots.new_figure(n_rows, columns, 2.1 * columns, 1.45 * n_rows + 0.7, sharex=True)
    for axis, (title, (values, labels)) in zip(axes.flat, scores.items(), strict=False):
        for label, name, style in ((0, "normal", "-"), (1, "anomalous", "--")):
            own = values[np.asarray(labels) == label]
            look = {"histtype": "stepfilled", "ls": style, "lw": 1.4, "hatch": ("", "////")[label]}
            look |= {"edgecolor": plots.PALETTE[label], "facecolor": (plots.PALETTE[label], 0.15)}
            shares = np.full(len(own), 1 / max(1, len(own)))
            axis.hist(own, 40, range=(0, 1), weights=shares, label=name, **look)
        axis.set_title(title, fontsize=8.5)
        axis.set_xlim(0, 1)
    for axis in axes.flat[len(scores) :]:
        axis.set_axis_off()
    for below, axis in enumerate(axes.flat):
        axis.xaxis.set_tick_params(labelbottom=below + columns >= len(scores))
    figure.supxlabel("image score (probability of anomalous)", fontsize=8.5)
    figure.supylabel("share of images", fontsize=8.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@plots.or_placeholder
@mpl.rc_context(plots.STYLE)
def self_attention_lines(records: pd.DataFrame, first: int, uniform: float) -> Figure:
    """The weight that a patch gives itself by block and kind. uniform: if it took the same from all."""
    means = records.groupby(["kind", "block"], sort=False)["weight"].mean().rename("mean").reset_index()
    means = means.replace({"kind": KIND_LABELS}).assign(std=float("nan"))
    labels = ("block of the image tower", "weight of a patch on itself")
    figure = plots.lines(means, "block", group="kind", labels=labels)
    axis = figure.axes[0]
    axis.axhline(uniform, color="grey", lw=1)
    above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "fontsize": 8}
    axis.annotate("evenly spread", (records["block"].max(), uniform), **above)
    axis.axvline(first - 0.5, color="grey", ls=":", lw=1)
    axis.annotate("DPAM from here", (first - 0.45, 0.97), xycoords=("data", "axes fraction"), fontsize=8)
    axis.set_yscale("log")
    return figure


@mpl.rc_context({**plots.PICTURES, "font.size": 8})
def attention_figure(
    found: Example, matrices: Mapping[str, np.ndarray], maps: Mapping[str, Mapping[str, np.ndarray]]
) -> Figure:
    """Figure 3: a column a kind of attention; above its matrix (p, p), below maps {row: {kind: (H, W)}}, one
    scale a row. Large matrices are drawn in at most 144 cells a side, each the largest weight in it."""
    kinds, n_rows = list(matrices), 1 + len(maps)
    figure, axes = plots.new_figure(n_rows, 1 + len(kinds), 9.0, 2.2 * n_rows - 0.2)
    axes[0, 0].set_axis_off()
    for axis, kind in zip(axes[0, 1:], kinds, strict=True):
        cells = (-(-len(matrices[kind]) // 144),) * 2
        coarse = block_reduce(matrices[kind], cells, np.max, cval=-np.inf)
        drawn = axis.imshow(coarse, cmap="viridis", norm=mpl.colors.PowerNorm(0.5, 0))
        axis.set_title(KIND_LABELS[kind], fontsize=9)
        axis.set(xticks=[], yticks=[], xlabel="patch looked at")
        bar = figure.colorbar(drawn, ax=axis, location="bottom", fraction=0.07, label="weight")
        top = float(drawn.norm.vmax)
        bar.set_ticks([0, top / 4, top], labels=[short(v, top) for v in (0, top / 4, top)])
    axes[0, 1].set_ylabel("patch that looks")
    for row, (name, own) in zip(axes[1:], maps.items(), strict=True):
        plots.show_image(row[0], found.image, found.mask, 0.7)
        row[0].set_title(found.label.replace("\n", ", "), fontsize=8)
        for axis, kind in zip(row[1:], kinds, strict=True):
            plots.show_image(axis, own[kind], found.mask, 0.7, cmap="inferno", **one_scale(own.values()))
        row[0].set_ylabel(name, fontsize=9)
        figure.colorbar(row[1].images[0], ax=row.tolist(), fraction=0.05, pad=0.01, label="score")
    return figure


SWEPT = {"E": "learned words E", "M": "text blocks M", "L": "tokens in each L", "N": "image layers N"}
MEASURES = {("pixel", "pro200"): "pixel PRO (%)", ("image", "ap"): "image AP (%)"}


@plots.or_placeholder
@mpl.rc_context(plots.STYLE)
def sweeps(frame: pd.DataFrame, defaults: Mapping[str, int]) -> Figure:
    """Figure 8: a row of panels for each hyperparameter, pixel PRO left and image AP right. frame: rows
    whose variants are `E=12` and the like. defaults: by letter, marked by a line."""
    parts = frame["variant"].str.extract(r"^([EMLN])=(\d+)$")
    frame = frame.assign(letter=parts[0], x=parts[1].astype("Int64")).dropna(subset="letter")
    letters = [letter for letter in SWEPT if (frame["letter"] == letter).any()]
    figure, axes = plots.new_figure(len(letters), 2, 6.4, 1.9 * len(letters) + 0.3)
    for row, letter in zip(axes, letters, strict=True):
        for number, ((task, metric), name) in enumerate(MEASURES.items()):
            chosen = (frame["letter"] == letter) & (frame["task"] == task) & (frame["metric"] == metric)
            own = frame[chosen].sort_values("x")
            axis, x = row[number], own["x"].to_numpy(float)
            axis.plot(x, own["mean"], marker=plots.MARKERS[number], color=plots.PALETTE[number])
            axis.set(xlabel=SWEPT[letter], ylabel=name, xticks=x)
            axis.margins(y=0.25)
            if letter in defaults:
                axis.axvline(defaults[letter], color="grey", ls=":", lw=1.2)
                where = {"xy": (defaults[letter], 1.01), "xycoords": ("data", "axes fraction")}
                axis.annotate("default", **where, ha="center", fontsize=8, color="dimgrey")
    return figure
