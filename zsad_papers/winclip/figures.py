"""WinCLIP's figures: images chosen by rule, their maps, and how they are drawn."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from zsad_papers.baselines.backbones import Backbone
from zsad_papers.baselines.detectors import as_baselines_see, baseline_detector
from zsad_papers.common import galleries
from zsad_papers.common.experiment import ARRANGEMENT, Category
from zsad_papers.common.galleries import Example, image_map
from zsad_papers.common.plots import MARKERS, PALETTE, STYLE, dots, new_figure, or_placeholder
from zsad_papers.common.tables import LABELS, mean_std
from zsad_papers.winclip.experiments import few_shot_detector, winclip_detector, within_images


def example(
    category: Category,
    image: int,
    shots: Sequence[int] = (),
    baselines: Sequence[str] = (),
    backbone: Backbone | None = None,
) -> Example:
    """Maps of test image number `image` by WinCLIP, by WinCLIP+ for each of `shots`, and by baselines with
    the first of `shots`. The references are the first seed's; the first of them is shown as `normal`."""
    seed = category.settings.seed
    maps = {"WinCLIP": image_map(category, category.clip, winclip_detector(category), image)}
    if shots:
        plus = few_shot_detector(category, shots)
    for k in shots:
        maps[f"WinCLIP+ ({k})"] = image_map(category, category.clip, plus, image, f"P+Wm+Ws|{k}|{seed}")
    if baselines:
        seen, extractor = as_baselines_see(category, backbone)
        others = baseline_detector(seen, shots[:1], backbone, baselines)
    for method in baselines:
        found = image_map(seen, extractor, others, image, f"{method}|{shots[0]}|{seed}")
        maps[f"{LABELS['method'][method]} ({shots[0]})"] = found
    reference = int(category.draws([1])[1, seed][0]) if len(category.train) else None
    return galleries.example(category, image, maps, reference)


def typical(category: Category) -> int:
    """The anomalous test image in the middle by WinCLIP's pixel AUROC: neither the best nor the worst."""
    ranked = within_images(category)["auroc"].dropna().sort_values(kind="stable")
    return int(ranked.index[len(ranked) // 2])


def failures(categories: Sequence[Category], number: int = 3) -> dict[str, list[tuple[Category, int]]]:
    """Failure cases of zero-shot WinCLIP in the paper's four groups (Figure 11), chosen by rule: at most one
    image a category in each, those with the lowest scores. Without categories no groups."""
    if not categories:
        return {}
    images = galleries.together(map(within_images, categories))
    found, normal = images.dropna(), images[images["label"] == 0]
    auroc = found["auroc"]
    groups = {
        "(a) arrangement": auroc[found["kind"].str.contains("|".join(ARRANGEMENT))],
        "(b) tiny defects": auroc[found["area"] <= found["area"].quantile(0.1)],
        "(c) no defect": -normal["maximum"],
        "(d) around the defect": found["f1max"][auroc > auroc.median()],
    }
    return {name: galleries.lowest(images, scores, categories, number) for name, scores in groups.items()}


@or_placeholder
@mpl.rc_context(STYLE)
def slopes(frame: pd.DataFrame, shots: int) -> Figure:
    """One line for each category from WinCLIP to WinCLIP+ with so many shots; a panel for each dataset."""
    datasets = list(dict.fromkeys(frame["dataset"]))
    figure, axes = new_figure(1, len(datasets), 4.2 * len(datasets), 4.6, sharey=True)
    leader = {"arrowstyle": "-", "lw": 0.5, "color": "grey", "relpos": (0, 0.5)}
    label = {"fontsize": 8, "va": "center", "arrowprops": leader}
    for axis, dataset in zip(axes.flat, datasets, strict=True):
        own = frame[frame["dataset"] == dataset]
        means = own.pivot(index="category", columns=["method", "shots"], values="mean")
        ends = {"from": means["winclip", 0], "to": means["winclip_plus", shots]}
        table = pd.DataFrame(ends).dropna().sort_values("to")
        heights = _spread(table["to"].to_numpy(), 1.3)
        for (category, (start, end)), height in zip(table.iterrows(), heights, strict=True):
            style, colour = ("-", PALETTE[0]) if end >= start else ("--", PALETTE[1])
            axis.plot([0, 1], [start, end], style, marker="o", color=colour)
            axis.annotate(category.replace("_", " "), (1, end), (1.2, height), **label)
        axis.set(title=dataset, xlim=(-0.15, 1.9), xticks=[0, 1])
        axis.set_xticklabels(["WinCLIP", f"WinCLIP+\n{shots}-shot"])
    axes[0, 0].set_ylabel("image AUROC (%)")
    return figure


def _spread(heights: np.ndarray, least: float) -> np.ndarray:
    """Ascending heights moved down to be at least `least` apart, so that labels do not overlap."""
    steps = least * np.arange(len(heights))
    return np.minimum.accumulate((heights - steps)[::-1])[::-1] + steps


@or_placeholder
@mpl.rc_context(STYLE)
def size_against_quality(images: pd.DataFrame) -> Figure:
    """Area against pixel AUROC of the images of `tables.failure_rows`, and medians of ten equal groups."""
    figure, [[axis]] = new_figure(height=3.6)
    shares = images.assign(area=100 * images["area"], auroc=100 * images["auroc"])
    for (dataset, own), marker in zip(shares.groupby("dataset", sort=False), MARKERS):
        axis.scatter(own["area"], own["auroc"], s=9, alpha=0.4, marker=marker, label=dataset, lw=0)
    groups = shares.groupby(pd.qcut(shares["area"], 10, duplicates="drop"), observed=True)
    medians = groups[["area", "auroc"]].median()
    axis.plot(medians["area"], medians["auroc"], "k-", marker="D", label="median of a tenth")
    axis.set(xscale="log", xlabel="defect's share of the image (%)", ylabel="pixel AUROC in the image (%)")
    for handle in axis.legend(markerscale=2).legend_handles:
        handle.set_alpha(1)
    return figure


METRICS_OF_OPEN_CHOICES = ("image AUROC", "pixel AUROC", "pixel PRO", "pixel PRO200", "pixel F1-max")


def _changes(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with `measure`, `change` from the default, and readable names of methods."""
    keys = ["dataset", "method", "task", "metric"]
    default = frame[frame["variant"] == ""].set_index(keys)["mean"].rename("default")
    metrics = frame["metric"].str.upper().replace({"F1MAX": "F1-max"})
    frame = frame.join(default, on=keys).assign(measure=frame["task"] + " " + metrics)
    methods = ("winclip_plus", "spade", "padim", "patchcore")
    names = {"winclip": "WinCLIP"} | {name: f"{LABELS['method'][name]}, 1-shot" for name in methods}
    return frame.assign(change=frame["mean"] - frame["default"]).replace({"method": names})


def effects(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `winclip.tables.open_choice_rows`: the value of each metric, and its change from the
    default (the line whose option is "default"): columns dataset, method, option, and one a metric."""
    found = _changes(frame).query("measure in @METRICS_OF_OPEN_CHOICES")
    changes = found["change"].where(found["variant"] != "").map(" ({:+.1f})".format, na_action="ignore")
    texts = [mean_std(*row) for row in zip(found["mean"], found["std"])] + changes.fillna("")
    found = found.assign(text=texts, option=found["variant"].replace({"": "default"}))
    names = ["dataset", "method", "option"]
    table = found.pivot_table("text", names, "measure", aggfunc="first", sort=False).fillna("-")
    shown = [*names, *(name for name in METRICS_OF_OPEN_CHOICES if name in table)]
    return table.reset_index().rename_axis(columns=None)[shown]


@or_placeholder
def effect_bars(frame: pd.DataFrame) -> Figure:
    """Changes from the default by option, a panel for each dataset and metric; markers by method."""
    found = _changes(frame).query("variant != ''").sort_values(["dataset", "measure"], kind="stable")
    found = found[found["measure"].isin(["image AUROC", "pixel AUROC", "pixel F1-max"])]
    shown = found.assign(panel=found["dataset"] + ": " + found["measure"])
    options = {"label": "variant", "value": "change", "group": "method", "panel": "panel", "line": 0.4}
    figure = dots(shown, **options, xlabel="change (points)", reference=0, columns=3)
    for axis in figure.axes:
        axis.locator_params(axis="x", nbins=5)
    return figure
