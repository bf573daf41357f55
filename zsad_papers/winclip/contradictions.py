"""WinCLIP's numbers against each other: every category is printed, so every mean can be computed again."""

from __future__ import annotations

import pandas as pd

from zsad_papers.common.contradictions import class_means
from zsad_papers.common.results import load_published


def checks() -> pd.DataFrame:
    """Every comparison of the paper's published numbers, agreeing or not."""
    return class_means(load_published("winclip"))
