import math
import re

import numpy as np
import pandas as pd
import pytest

from zsad_papers.common import plots
from zsad_papers.common.results import compare, load_published
from zsad_papers.common.tables import as_table, comparison_table

STAND_INS = {"mvtec": "mini_mvtec", "visa": "mini_visa"}


@pytest.fixture
def comparison():
    """Table 1, zero-shot; CLIP measured on stand-ins, undefined on one."""
    published = load_published("rwda").query("artifact == 'T1' and shots == 0 and metric != 'aupr'")
    measured = published[published["method"] == "clip"].assign(mean=90.25, std=0.5)
    measured["dataset"] = measured["dataset"].map(STAND_INS)
    measured.loc[measured["dataset"] == "mini_visa", "mean"] = math.nan
    return compare(published, measured, stand_ins=STAND_INS)


def test_a_comparison_says_in_words_what_was_not_run(comparison):
    table = comparison_table(comparison, caption="Table 1, zero-shot", columns=("dataset", "metric"))
    lines = table.text.splitlines()
    assert lines[0] == "Table 1, zero-shot"
    clip = next(line for line in lines if "object unknown" in line and "CLIP" in line)
    cells = clip.split("CLIP")[1].split()
    assert cells[:8] == ["91.5", "90.2", "±", "0.5", "-1.2", "92.0", "90.2", "±"]
    assert cells[10:] == ["76.5", "undefined", "78.1", "undefined"]
    winclip = next(line for line in lines if "WinCLIP" in line)
    assert winclip.count("not yet run") == 4
    assert "MVTec-AD (measured: mini_mvtec)" in table.text
    assert "VisA (measured: mini_visa)" in table.html


def test_every_header_cell_has_a_scope_and_the_caption_is_the_tables(comparison):
    table = comparison_table(comparison, caption="Scores < 100 & more", columns=("dataset", "metric"))
    assert "<caption><span>Scores &lt; 100 &amp; more</span></caption>" in table.html
    headers = re.findall(r"<th\b([^>]*)>([^<]*)", table.html)
    assert headers and all('scope="' in attributes and text.strip() for attributes, text in headers)
    assert table.html.count('scope="colgroup"') == 2 + 4  # datasets; metrics
    assert 'role="region"' in table.html and 'tabindex="0"' in table.html
    assert "color" not in table.html


def test_links_are_put_on_whole_cells_only():
    frame = pd.DataFrame({"place": ["4.3 <a>", "see 4.3 <a>"]})
    table = as_table(frame, "Places", links={"4.3 <a>": "rwda/43.html"})
    assert table.html.count("<a href=") == 1
    assert '<a href="rwda/43.html">4.3 &lt;a&gt;</a></td>' in table.html


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
