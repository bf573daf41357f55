"""The figures' building blocks: each returns a figure, or a sentence where there is nothing to draw. Colours
are Okabe and Ito's, for colour-blind readers; marker, line style or text repeats the distinction."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "//", "..", "xx")
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 110,
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
}
PICTURES = {**STYLE, "axes.grid": False}


class _Drawing(Figure):
    """A figure that notebooks show without pyplot's global state, under any backend."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=STYLE["figure.dpi"], facecolor="white")
        return buffer.getvalue()


@dataclass(frozen=True)
class Placeholder:
    """What a notebook shows where there is no figure."""

    text: str = "No dataset for it in this run, so nothing is drawn here."

    def _repr_markdown_(self) -> str:
        return self.text


def or_placeholder(draw: Callable[..., Figure]) -> Callable[..., Figure | Placeholder]:
    """The function, made to return a `Placeholder` where its first argument is empty."""

    @wraps(draw)
    def drawn(content: pd.DataFrame | Mapping | Sequence, *arguments, **options) -> Figure | Placeholder:
        return draw(content, *arguments, **options) if len(content) else Placeholder()

    return drawn


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.0, **options
) -> tuple[Figure, np.ndarray]:
    """A figure outside pyplot's global list, and its axes (rows, columns)."""
    figure = _Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panels_of(
    titles: Collection[str], columns: int, size: tuple[float, float], margin: tuple[float, float], **options
) -> tuple[Figure, dict[str, Axes]]:
    """A figure and {title: axes}. size, margin: inches (width, height) of a panel, and beside all of them."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    extent = columns * size[0] + margin[0], rows * size[1] + margin[1]
    figure, axes = new_figure(rows, columns, *extent, **options)
    for axis in axes.flat[len(titles) :]:
        axis.set_axis_off()
    return figure, dict(zip(titles, axes.flat))


def tsne(groups: Mapping[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """t-SNE of all groups (n_i, d) together: columns x, y, group. PCA start, so a seed gives one picture."""
    from sklearn.manifold import TSNE  # here: most pages do without

    together = np.concatenate(list(groups.values())).astype(np.float32)
    perplexity = min(30.0, (len(together) - 1) / 3)
    xy = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(together)
    names = np.repeat(list(groups), [len(g) for g in groups.values()])
    return pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "group": names})


@mpl.rc_context(STYLE)
def scatter(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Point clouds, groups in colour and marker. panels: title -> frame with x, y, group."""
    figure, axes = panels_of(panels, 2, (3.4, 3.6), (0.4, 0.6))
    for title, axis in axes.items():
        for (name, own), colour, marker in zip(panels[title].groupby("group", sort=False), PALETTE, MARKERS):
            options = {"s": 14, "alpha": 0.6, "linewidths": 0, "label": name}
            axis.scatter(own["x"], own["y"], c=colour, marker=marker, **options)
        axis.set(title=title, xticks=[], yticks=[])
    handles, labels = axis.get_legend_handles_labels()
    beside = 2 if len(panels) > 1 and len(labels) == 2 else 1  # one panel is too narrow for two names
    figure.legend(handles, labels, loc="outside lower center", ncols=beside, markerscale=1.6)
    return figure


@or_placeholder
@mpl.rc_context(STYLE)
def lines(
    frame: pd.DataFrame,
    x: str,
    *,
    group: str | None = None,
    log_x: bool = False,
    labels: tuple[str, str] = ("", ""),
    mark: float | None = None,
) -> Figure:
    """Column `mean` over x with `std` as bars, one line a group. mark: a vertical line at this x."""
    figure, [[axis]] = new_figure(height=3.8)
    groups = [(None, frame)] if group is None else list(frame.groupby(group, sort=False))
    for number, (name, own) in enumerate(groups):
        own = own.sort_values(x)
        look = {"marker": MARKERS[number], "ls": DASHES[number % 4], "capsize": 3, "label": name}
        axis.errorbar(own[x], own["mean"], own["std"], **look)
    if mark is not None:
        axis.axvline(mark, color="grey", ls=":", lw=1)
        text = {"rotation": 90, "ha": "right", "fontsize": 8, "color": "dimgrey"}
        axis.annotate("default", (mark, 0.02), xycoords=("data", "axes fraction"), **text)
    if log_x:
        ticks = sorted(frame[x].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])
        axis.minorticks_off()
    elif pd.api.types.is_integer_dtype(frame[x]):
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axis.set(xlabel=labels[0], ylabel=labels[1])
    if group is not None:
        handles = axis.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=min(3, len(groups)))
    return figure


@mpl.rc_context(STYLE)
def histograms(groups: Mapping[str, np.ndarray], *, xlabel: str) -> Figure | Placeholder:
    """Outlines of distributions in different line styles and colours; an empty group is left out."""
    groups = {name: np.ravel(values) for name, values in groups.items() if np.size(values)}
    if not groups:
        return Placeholder()
    figure, [[axis]] = new_figure(height=3.2)
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), 30)
    for number, (name, values) in enumerate(groups.items()):
        look = {"histtype": "step", "lw": 1.8, "ls": DASHES[number % 4]}
        axis.hist(values, edges, density=True, label=name, **look)
    axis.set(xlabel=xlabel, ylabel="density")
    axis.legend()
    return figure


@or_placeholder
@mpl.rc_context(STYLE)
def bars(
    frame: pd.DataFrame,
    *,
    label: str,
    value: str,
    group: str,
    error: str | None = None,
    xlabel: str,
    reference: float | None = None,
) -> Figure:
    """Horizontal bars, one block for each label and one bar for each group, hatched for grey print."""
    names, groups = list(dict.fromkeys(frame[label])), list(dict.fromkeys(frame[group]))
    thick = 0.8 / len(groups)
    figure, [[axis]] = new_figure(height=1.0 + len(names) * (0.16 * len(groups) + 0.14))
    for number, name in enumerate(groups):
        own = frame[frame[group] == name].set_index(label).reindex(names)
        at = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * thick
        look = {"color": PALETTE[number], "hatch": HATCHES[number % 4], "edgecolor": "white"}
        look |= {"xerr": own[error] if error else None, "error_kw": {"capsize": 2, "lw": 1}}
        axis.barh(at, own[value], thick * 0.92, label=name, **look)
    if reference is not None:
        axis.axvline(reference, color="grey", ls=":", lw=1.2)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel)
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(groups))
    return figure


@or_placeholder
@mpl.rc_context(STYLE)
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
    line: float | None = None,
    error: str | None = None,
) -> Figure:
    """One line a label, one dot a group, a panel for each value of `panel`; no axis from 0, so that small
    differences stay visible. reference: a vertical line. line: inches a label. error: of bars both ways."""
    labels, groups, panels = (list(dict.fromkeys(frame[name])) for name in (label, group, panel))
    size = 2.7, 0.9 + len(labels) * (line or 0.12 * (1 + len(groups)))
    figure, axes = panels_of(panels, columns, size, (1.6, 0.4), sharey=True, sharex=share_x)
    for title, axis in axes.items():
        for number, name in enumerate(groups):
            own = frame[(frame[group] == name) & (frame[panel] == title)].set_index(label).reindex(labels)
            at = np.arange(len(labels)) + 0.5 * ((number + 0.5) / len(groups) - 0.5)
            axis.plot(own[value], at, MARKERS[number], color=PALETTE[number], label=name)
            if error:
                axis.errorbar(own[value], at, xerr=own[error], fmt="none", color=PALETTE[number], lw=1)
        if reference is not None:
            axis.axvline(reference, color="grey", lw=1)
        axis.set(title=title, xlabel=xlabel, yticks=range(len(labels)), yticklabels=labels)
        axis.title.set_fontsize(10)
    axis.invert_yaxis()
    if len(groups) > 1:
        handles = axis.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=min(3, len(groups)))
    return figure


@or_placeholder
@mpl.rc_context(PICTURES)
def grid_of_values(table: pd.DataFrame, *, colour_label: str) -> Figure:
    """A small table as a heat map with every value written in it."""
    from seaborn import heatmap  # here: no other figure needs it

    figure, [[axis]] = new_figure(width=1.6 + 1.15 * table.shape[1], height=1.1 + 0.55 * table.shape[0])
    options = {"annot": True, "fmt": ".1f", "cmap": "cividis", "cbar_kws": {"label": colour_label}}
    heatmap(table.astype(float), ax=axis, annot_kws={"fontsize": 9}, **options)
    axis.set(xlabel="", ylabel="")
    return figure


def show_image(
    axis: Axes, image: np.ndarray, mask: np.ndarray | None = None, width: float = 0.9, **options
) -> None:
    """An image (H, W, 3) or map (H, W), and the contour of a mask (H, W) bool. options: of `imshow`."""
    axis.imshow(image, **options)
    if mask is not None and mask.any():
        axis.contour(mask, [0.5], colors="black", linewidths=2.4 * width)
        axis.contour(mask, [0.5], colors="white", linewidths=width)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


@or_placeholder
@mpl.rc_context(PICTURES)
def gallery(
    images: Sequence[Sequence[np.ndarray]],
    *,
    row_labels: Sequence[str],
    outlines: Sequence[Sequence[np.ndarray | None]] | None = None,
    size: float = 1.0,
) -> Figure:
    """Rows of images (H, W, 3), with the contours of the masks in `outlines` (H, W) bool."""
    width, height = size * len(images[0]) + 1.1, size * len(images) + 0.3
    figure, axes = new_figure(len(images), len(images[0]), width, height)
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            show_image(axes[i, j], image, outlines[i][j] if outlines is not None else None)
        axes[i, 0].set_ylabel(row_labels[i], rotation=0, ha="right", va="center", fontsize=8)
    return figure


@mpl.rc_context(PICTURES)
def diagram(
    boxes: Mapping[str, tuple[float, float, str]],
    arrows: Sequence[tuple[str, ...]],
    *,
    width: float = 8.0,
    height: float = 3.4,
    titles: Sequence[tuple[float, float, str]] = (),
    emphasis: Sequence[str] = (),
) -> Figure:
    """Boxes and arrows. boxes: name -> (x, y, text), centres in [0, 1] x [0, 1]; arrows: (from, to) or (from,
    to, text). emphasis: boxes with a thick frame and a tint, the parts that are trained."""
    figure, [[axis]] = new_figure(width=width, height=height)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.set_axis_off()
    looks = {
        True: {"boxstyle": "round,pad=0.5", "fc": "#FFF3D6", "ec": "#D55E00", "lw": 2.2},
        False: {"boxstyle": "round,pad=0.5", "fc": "#EEF3F8", "ec": "#33506B", "lw": 1.1},
    }
    middle = {"ha": "center", "va": "center"}
    drawn = {
        name: axis.text(x, y, text, fontsize=9.5, bbox=looks[name in emphasis], **middle)
        for name, (x, y, text) in boxes.items()
    }
    figure.draw_without_rendering()
    patches = {name: text.get_bbox_patch() for name, text in drawn.items()}
    for start, stop, *label in arrows:
        ends = np.array([boxes[start][:2], boxes[stop][:2]])
        look = {"arrowstyle": "-|>", "color": "#33506B", "shrinkA": 2, "shrinkB": 3}
        look |= {"patchA": patches[start], "patchB": patches[stop]}
        axis.annotate("", xy=ends[1], xytext=ends[0], arrowprops=look)
        if label:
            clear = {"fc": "white", "ec": "none", "pad": 1.5}  # the arrow must not cross the word
            axis.text(*ends.mean(axis=0), label[0], fontsize=9, bbox=clear, **middle)
    for x, y, text in titles:
        axis.text(x, y, text, fontsize=10, fontweight="bold", ha="left", va="center")
    return figure


@or_placeholder
@mpl.rc_context(STYLE)
def against_cost(frame: pd.DataFrame, *, xlabel: str) -> Figure:
    """Points with names in the margin. frame: panel, name, group, x (cost), y (quality), low, high."""
    panels, groups = frame["panel"].unique(), frame["group"].unique()
    figure, axes = panels_of(panels, 1, (6.8, 0.9 + 0.19 * len(frame) / len(panels)), (0, 0))
    for title, axis in axes.items():
        own = frame[frame["panel"] == title].sort_values("y")
        axis.set(title=title, xlabel=xlabel, xscale="log")
        axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        for group, colour, marker in zip(groups, PALETTE, MARKERS):
            part = own[own["group"] == group]
            bars = np.abs(part[["low", "high"]].to_numpy() - part[["y"]].to_numpy()).T
            axis.errorbar(part["x"], part["y"], bars, fmt=marker, color=colour, elinewidth=0.6, label=group)
        bottom, top = axis.get_ylim()
        places, gap = own["y"].to_numpy(copy=True), (top - bottom) / (len(own) + 1)
        for i in range(1, len(own)):  # upwards where names would overlap, then down from the top
            places[i] = max(places[i], places[i - 1] + gap)
        places = np.minimum(places, top - gap * np.arange(len(own))[::-1])
        for point, place in zip(own.itertuples(), places):
            look = {"arrowstyle": "-", "color": "grey", "lw": 0.4, "relpos": (0, 0.5), "shrinkB": 4}
            text = {"textcoords": axis.get_yaxis_transform(), "va": "center", "fontsize": 8}
            axis.annotate(point.name, (point.x, point.y), (1.04, place), arrowprops=look, **text)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
