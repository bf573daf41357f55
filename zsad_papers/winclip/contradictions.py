"""WinCLIP's numbers against each other: means of categories, quotes in the text, one model in two tables."""

import pandas as pd

from zsad_papers.common import contradictions as common
from zsad_papers.common.results import load_published


def checks() -> pd.DataFrame:
    """Every comparison of the paper's published numbers, agreeing or not."""
    frame = load_published("winclip")
    parts = [common.class_means(frame), common.repeated_columns(frame), text(frame)]
    return pd.concat(parts, ignore_index=True)


def text(frame: pd.DataFrame) -> pd.DataFrame:
    """Sentences of the text against the tables and each other, and the numbers of one model in two tables."""
    checks = common.statements(frame) + common.same_models(frame) + common.stated_twice("winclip")
    quoted = frame[frame["method"].isin(["differnet", "tdg"])]
    for method, shots in zip(quoted["method"], quoted["shots"]):
        checks.append(common.larger(f"5.3 against T2: images that {method} learns from", 10, shots, ""))
    return common.as_checks(frame, checks)
