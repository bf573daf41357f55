"""Dots and sweeps hold what they were given, and mark what is the default."""

from __future__ import annotations

import numpy as np
import pandas as pd

from zsad_papers.anomalyclip import figures as anomalyclip_figures
from zsad_papers.common import plots


def test_dots_keep_labels_apart_and_missing_ones_missing():
    frame = pd.DataFrame(
        {
            "what": ["x", "y", "x", "y", "x"],
            "who": ["p", "p", "q", "q", "p"],
            "where": ["left"] * 4 + ["right"],
            "value": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )
    options = {"label": "what", "value": "value", "group": "who", "panel": "where", "xlabel": "points"}
    figure = plots.dots(frame, **options, reference=0)
    left, right = figure.axes
    p, q = left.lines[:2]
    np.testing.assert_allclose(p.get_xdata(), [1, 2])
    np.testing.assert_allclose(q.get_xdata(), [3, 4])
    assert (p.get_ydata() < q.get_ydata()).all() and p.get_marker() != q.get_marker()
    np.testing.assert_allclose(right.lines[0].get_xdata(), [5, np.nan])
    assert left.lines[2].get_xdata() == [0, 0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["p", "q"]


def test_sweeps_sort_by_number_and_mark_the_default():
    variants = ["E=12", "E=4", "E=8", "full", "N=1", "N=2"]
    frames = [
        pd.DataFrame({"variant": variants, "task": task, "metric": metric, "mean": [first, 50, 60, 0, 1, 2]})
        for task, metric, first in (("pixel", "pro", 70), ("image", "ap", 40), ("image", "auroc", 0))
    ]
    figure = anomalyclip_figures.sweeps(pd.concat(frames), {"E": 12})
    pro, ap, layers, _ = figure.axes
    np.testing.assert_allclose(pro.lines[0].get_xdata(), [4, 8, 12])
    np.testing.assert_allclose(pro.lines[0].get_ydata(), [50, 60, 70])
    np.testing.assert_allclose(ap.lines[0].get_ydata(), [50, 60, 40])
    assert [text.get_text() for text in ap.texts] == ["default"] and ap.lines[1].get_xdata() == [12, 12]
    assert not layers.texts and layers.get_xlabel() == "image layers N"
