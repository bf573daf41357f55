"""AnomalyCLIP's figures of numbers: dots side by side, and the four sweeps of Figure 8."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from zsad_core.plots import MARKERS, PALETTE, STYLE, new_figure, or_words

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
