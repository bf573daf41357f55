"""The supplement prints every category, so every mean of Tables 1 and 4 can be computed again."""

from __future__ import annotations

import pandas as pd

from zsad_papers.common.contradictions import class_means
from zsad_papers.common.results import load_published


def checks() -> pd.DataFrame:
    """Every comparison of the paper's published numbers, agreeing or not."""
    return class_means(load_published("winclip"))
