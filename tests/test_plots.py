"""Figures hold their data, and never show it by colour alone."""

import numpy as np
import pandas as pd

from zsad_papers.common import plots


def texts(found):
    return [text.get_text() for text in found]


def test_lines_bars_and_dots_draw_what_there_is():
    frame = pd.DataFrame({"n": [10, 100, 1000], "mean": [1.0, 3.0, 2.0], "std": [0.1, 0.2, 0.3]})
    (axis,) = plots.lines(frame, "n", log_x=True, labels=("pairs", "AUROC (%)"), mark=100).axes
    np.testing.assert_allclose(np.asarray(axis.containers[0][0].get_ydata(), float), [1, 3, 2])
    assert axis.get_xlabel() == "pairs" and texts(axis.get_xticklabels()) == ["10", "100", "1,000"]
    frame = pd.DataFrame({"what": ["x", "y", "x"], "value": [1.0, 2.0, 3.0], "who": ["p", "p", "q"]})
    options = {"label": "what", "value": "value", "group": "who"}
    axis = plots.bars(frame, **options, xlabel="points").axes[0]
    widths = [[bar.get_width() for bar in block] for block in axis.containers]
    np.testing.assert_allclose(widths, [[1, 2], [3, np.nan]])
    assert len({block[0].get_hatch() for block in axis.containers}) == 2
    both = pd.concat([frame.assign(where="left"), frame[:1].assign(where="right", value=5.0)])
    figure = plots.dots(both, **options, panel="where", xlabel="points", reference=0)
    left, right = figure.axes
    p, q = left.lines[:2]
    np.testing.assert_allclose([p.get_xdata(), q.get_xdata()], [[1, 2], [3, np.nan]])
    assert (p.get_ydata() < q.get_ydata()).all() and p.get_marker() != q.get_marker()
    np.testing.assert_allclose(right.lines[0].get_xdata(), [5, np.nan])
    assert left.lines[2].get_xdata() == [0, 0] and texts(figure.legends[0].get_texts()) == ["p", "q"]


def test_without_anything_to_draw_a_sentence_says_so():
    nothing = pd.DataFrame(columns=["label", "value", "group"])
    shown = [plots.bars(nothing, label="label", value="value", group="group", xlabel="")]
    shown += [plots.histograms({"normal": np.empty(0), "anomalous": np.empty(0)}, xlabel="")]
    shown += [plots.gallery([], row_labels=[])]
    assert all("nothing is drawn" in words._repr_markdown_() for words in shown)
    drawn = plots.histograms({"texts": np.arange(3.0), "pictures": np.empty(0)}, xlabel="")
    assert texts(drawn.axes[0].get_legend().get_texts()) == ["texts"]
