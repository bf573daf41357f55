"""Figures hold their data, and never show it by colour alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from zsad_papers.common import plots


def drawn(figure) -> bytes:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())


def test_scatter_tells_groups_by_marker_and_names_them():
    points = pd.DataFrame({"x": [0, 1, 2, 3], "y": [0, 1, 0, 1], "group": ["a", "a", "b", "b"]})
    figure = plots.scatter({"left": points, "right": points})
    axes = figure.axes
    assert [axis.get_title() for axis in axes[:2]] == ["left", "right"]
    shapes = {tuple(map(tuple, c.get_paths()[0].vertices)) for c in axes[0].collections}
    assert len(shapes) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    np.testing.assert_allclose(axes[0].collections[1].get_offsets(), [[2, 0], [3, 1]])


def test_tsne_is_a_function_of_its_seed():
    rng = np.random.default_rng(0)
    groups = {"a": rng.normal(size=(20, 5)), "b": rng.normal(size=(15, 5)) + 9}
    one, same = plots.tsne(groups, 1), plots.tsne(groups, 1)
    pd.testing.assert_frame_equal(one, same)
    assert one["group"].value_counts().to_dict() == {"a": 20, "b": 15}


def test_lines_draw_means_and_errors():
    frame = pd.DataFrame({"n": [10, 100, 1000], "mean": [1.0, 3.0, 2.0], "std": [0.1, 0.2, 0.3]})
    figure = plots.lines(frame, "n", log_x=True, labels=("pairs", "AUROC (%)"), mark=100)
    axis = figure.axes[0]
    np.testing.assert_allclose(np.asarray(axis.containers[0][0].get_ydata(), float), [1, 3, 2])
    assert axis.get_xlabel() == "pairs" and [t.get_text() for t in axis.get_xticklabels()] == [
        "10",
        "100",
        "1,000",
    ]


def test_bars_keep_missing_values_missing():
    frame = pd.DataFrame({"what": ["x", "y", "x"], "value": [1.0, 2.0, 3.0], "who": ["p", "p", "q"]})
    axis = plots.bars(frame, label="what", value="value", group="who", xlabel="points").axes[0]
    widths = [[bar.get_width() for bar in block] for block in axis.containers]
    np.testing.assert_allclose(widths, [[1, 2], [3, np.nan]])
    assert len({block[0].get_hatch() for block in axis.containers}) == 2


def test_grid_writes_every_value_and_labels_its_colours():
    table = pd.DataFrame([[1.0, 2.0], [3.0, 4.5]], index=["r", "s"], columns=["c", "d"])
    figure = plots.grid_of_values(table, colour_label="AUROC (%)")
    assert [t.get_text() for t in figure.axes[0].texts] == ["1.0", "2.0", "3.0", "4.5"]
    assert figure.axes[1].get_ylabel() == "AUROC (%)"


def test_gallery_outlines_the_mask():
    image, mask = np.full((8, 8, 3), 128, np.uint8), np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    with_outline = plots.gallery([[image, image]], row_labels=["nut"], outlines=[[mask, None]])
    assert drawn(with_outline) != drawn(plots.gallery([[image, image]], row_labels=["nut"]))
    assert len(with_outline.axes[0].collections) == 2 and not with_outline.axes[1].collections


def test_without_anything_to_draw_a_sentence_says_so():
    nothing = pd.DataFrame(columns=["label", "value", "group"])
    for words in (
        plots.bars(nothing, label="label", value="value", group="group", xlabel=""),
        plots.histograms({"normal": np.empty(0), "anomalous": np.empty(0)}, xlabel=""),
        plots.gallery([], row_labels=[]),
    ):
        assert "nothing is drawn" in words._repr_markdown_()
    drawn = plots.histograms({"texts": np.arange(3.0), "pictures": np.empty(0)}, xlabel="")
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["texts"]
