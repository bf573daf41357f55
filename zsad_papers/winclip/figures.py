"""WinCLIP's figures: images chosen by rule, their maps, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from zsad_core.image_features import PART, Extractor, TileFeatures, compute_features
from zsad_core.maps import image_maps
from zsad_core.methods import Detector, detector, winclip
from zsad_core.prompts import object_name
from zsad_papers.baselines.backbones import Backbone
from zsad_papers.baselines.detectors import baseline_detector, baseline_extractor
from zsad_papers.common.experiment import Category
from zsad_papers.common.galleries import Example
from zsad_papers.common.plots import MARKERS, PALETTE, STYLE, new_figure, or_words
from zsad_papers.common.tables import mean_std
from zsad_papers.winclip.experiments import few_shot_detector

BASELINES = {"spade": "SPADE", "padim": "PaDiM", "patchcore": "PatchCore"}


def example(
    category: Category,
    image: int,
    shots: Sequence[int] = (),
    baselines: Sequence[str] = (),
    backbone: Backbone | None = None,
) -> Example:
    """Maps of test image number `image` by WinCLIP, by WinCLIP+ for each of `shots`, and by baselines with
    the first of `shots`. The references are the first seed's; the first of them is shown as `normal`
    (black where there are none)."""
    number, place = divmod(image, PART)
    language = detector(winclip, category.texts(), category.encoder.grid, category.temperature)
    maps = {"WinCLIP": _map(category, category.clip, language, "", number, place)}
    seed = category.settings.seed
    if shots:
        plus = few_shot_detector(category, shots)
        maps |= {
            f"WinCLIP+ ({k})": _map(category, category.clip, plus, f"P+Wm+Ws|{k}|{seed}", number, place)
            for k in shots
        }
    if baselines:
        others, extractor = (
            baseline_detector(category, shots[:1], backbone, baselines),
            baseline_extractor(category, backbone),
        )
        for method in baselines:
            name = f"{BASELINES[method]} ({shots[0]})"
            maps[name] = _map(category, extractor, others, f"{method}|{shots[0]}|{seed}", number, place)
    first = (
        category.train.image(int(category.draws([1])[1, seed][0]))
        if len(category.train)
        else Image.new("RGB", category.test.size(image))
    )
    defect = object_name(category.test.meta["defect"].iloc[image])
    return Example(
        f"{object_name(category.name)}\n{defect}",
        np.asarray(category.test.image(image)),
        category.test.mask(image),
        np.asarray(first),
        maps,
    )


def _map(
    category: Category, extractor: Extractor, detect: Detector, output: str, part: int, place: int
) -> np.ndarray:
    dense: TileFeatures = (
        compute_features(extractor, category.test, category.settings.cache_dir, whole=category.whole)[part]
        .load()
        .only(place)
    )
    return next(image_maps(dense, detect(dense)[output].maps))


@or_words
def slopes(
    frame: pd.DataFrame,
    methods: tuple[str, str] = ("winclip", "winclip_plus"),
    shots: tuple[int, int] = (0, 4),
) -> Figure:
    """One line a category from the first method and number of shots to the second; a panel a dataset."""
    with mpl.rc_context(STYLE):
        datasets = list(dict.fromkeys(frame["dataset"])) or ["no dataset"]
        figure, axes = new_figure(1, len(datasets), 4.2 * len(datasets), 4.6, sharey=True)
        for axis, dataset in zip(axes.flat, datasets, strict=True):
            own = frame[frame["dataset"] == dataset]
            sides = [
                own[(own["method"] == m) & (own["shots"] == k)].set_index("category")["mean"]
                for m, k in zip(methods, shots, strict=True)
            ]
            table = pd.concat(sides, axis=1, keys=("from", "to")).dropna().sort_values("to")
            heights = _spread(table["to"].to_numpy(), 1.3)
            for (category, (start, end)), height in zip(table.iterrows(), heights, strict=True):
                rises = end >= start
                axis.plot(
                    [0, 1], [start, end], "-" if rises else "--", marker="o", color=PALETTE[0 if rises else 1]
                )
                axis.annotate(category.replace("_", " "), (1, end), (1.06, height), fontsize=8, va="center")
            axis.set(title=dataset, xlim=(-0.15, 1.75), xticks=[0, 1])
            axis.set_xticklabels([f"{m.replace('_plus', '+')}\n{k}-shot" for m, k in zip(methods, shots)])
        axes[0, 0].set_ylabel("image AUROC (%)")
        return figure


def _spread(heights: np.ndarray, least: float) -> np.ndarray:
    """Ascending heights moved apart to at least `least`, the highest at most 100, so that labels do not
    overlap."""
    moved = np.minimum(heights.astype(float), 100.0)
    for i in range(len(moved) - 2, -1, -1):
        moved[i] = min(moved[i], moved[i + 1] - least)
    return moved


@or_words
def size_against_quality(images: pd.DataFrame) -> Figure:
    """Every anomalous image as a point, area against pixel AUROC, and the medians of ten equal groups.
    images: as in `winclip.tables.small_defects`."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(height=3.6)
        axis = axes[0, 0]
        for number, (dataset, own) in enumerate(images.groupby("dataset", sort=False)):
            axis.scatter(
                100 * own["area"],
                100 * own["auroc"],
                s=9,
                alpha=0.4,
                marker=MARKERS[number],
                label=dataset,
                lw=0,
            )
        groups = images.groupby(pd.qcut(images["area"], 10, duplicates="drop"), observed=True)
        medians = 100 * groups[["area", "auroc"]].median()
        axis.plot(medians["area"], medians["auroc"], "k-", marker="D", label="median of a tenth")
        axis.set(
            xscale="log", xlabel="defect's share of the image (%)", ylabel="pixel AUROC in the image (%)"
        )
        axis.legend()
        return figure


METRICS_OF_OPEN_CHOICES = (("image", "auroc"), ("pixel", "auroc"), ("pixel", "pro"), ("pixel", "f1max"))


def effects(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `winclip.tables.open_choice_rows`: the value of each metric, and its change from the
    default (the line whose option is "default"): columns dataset, method, option, and one a metric."""
    wide = []
    for (dataset, method), own in frame.groupby(["dataset", "method"], sort=False):
        base = own[own["variant"] == ""].set_index(["task", "metric"])["mean"]
        for variant, rows in own.groupby("variant", sort=False):
            values = rows.set_index(["task", "metric"])[["mean", "std"]]
            line = {"dataset": dataset, "method": method, "option": variant or "default"}
            for key in METRICS_OF_OPEN_CHOICES:
                if key in values.index:
                    mean, std = values.loc[key]
                    change = "" if variant == "" else f" ({mean - base[key]:+.1f})"
                    line[f"{key[0]} {key[1].upper()}"] = mean_std(mean, std) + change
            wide.append(line)
    names = ["dataset", "method", "option"]  # tables of no rows are empty
    table = pd.DataFrame(wide, columns=None if wide else names).fillna("-")
    return table.replace({"method": {"winclip": "WinCLIP", "winclip_plus": "WinCLIP+, 1-shot"}})


@or_words
def effect_bars(frame: pd.DataFrame) -> Figure:
    """Changes from the default by option, a panel a dataset and metric; marker and colour tell the method."""
    datasets = list(dict.fromkeys(frame["dataset"]))
    metrics = (("image", "auroc"), ("pixel", "auroc"), ("pixel", "f1max"))
    options = [v for v in dict.fromkeys(frame["variant"]) if v]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(
            len(datasets), len(metrics), 9.0, 0.3 * len(options) * len(datasets) + 1.4, sharey=True
        )
        for row, dataset in zip(axes, datasets, strict=True):
            for axis, (task, metric) in zip(row, metrics, strict=True):
                for number, method in enumerate(("winclip", "winclip_plus")):
                    own = frame[(frame["dataset"] == dataset) & (frame["method"] == method)]
                    own = own[(own["task"] == task) & (own["metric"] == metric)].set_index("variant")["mean"]
                    if "" in own:
                        change = (own - own[""]).reindex(options)
                        at = np.arange(len(options)) + (number - 0.5) * 0.24
                        name = ("WinCLIP", "WinCLIP+, 1-shot")[number]
                        axis.plot(change, at, MARKERS[number], color=PALETTE[number], label=name)
                axis.axvline(0, color="grey", lw=1)
                axis.set(title=f"{dataset}: {task} {metric.upper()}", yticks=range(len(options)))
                axis.set_yticklabels(options, fontsize=8)
                axis.title.set_fontsize(9)
        axes[0, 0].invert_yaxis()
        for axis in axes[-1]:
            axis.set_xlabel("change (points)")
        handles, labels = axes[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return figure
