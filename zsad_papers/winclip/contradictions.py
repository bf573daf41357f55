"""The supplement prints every category, so every mean of Tables 1 and 4 can be computed again.

The text quotes some of the tables, and several tables print the numbers of one model.
"""

from __future__ import annotations

import pandas as pd

from zsad_papers.common.contradictions import (
    as_checks,
    class_means,
    larger,
    repeated_columns,
    same_models,
    stated_twice,
    statements,
)
from zsad_papers.common.results import load_published


def checks() -> pd.DataFrame:
    """Every comparison of the paper's published numbers, agreeing or not."""
    frame = load_published("winclip")
    return pd.concat([class_means(frame), repeated_columns(frame), text(frame)], ignore_index=True)


def text(frame: pd.DataFrame) -> pd.DataFrame:
    """Sentences of the text against the tables and each other, and the numbers of one model in two tables."""
    checks = statements(frame) + same_models(frame) + stated_twice("winclip")
    quoted = frame[frame["method"].isin(["differnet", "tdg"])]
    for method, shots in zip(quoted["method"], quoted["shots"]):
        checks.append(larger(f"5.3 against T2: images that {method} learns from", 10, shots, ""))
    return as_checks(frame, checks)
