import math
import re

import pandas as pd
import pytest

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
