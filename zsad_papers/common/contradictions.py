"""Rows of the report on contradictions: two sides that should agree, and whether they do."""

from __future__ import annotations

import math

import pandas as pd

COLUMNS = ["paper", "where", "printed", "computed", "difference", "kind", "explanation", "agrees"]
SETTING = ["dataset", "task", "shots", "method", "variant", "metric"]
HALF_UNIT = 0.05  # every table of percentages prints one decimal
Check = dict[str, str | float | bool]


def equal_numbers(
    where: str, printed: float, computed: float, tolerance: float, kind: str, digits: int = 1
) -> Check:
    """Two numbers that should be equal up to a tolerance; the first is printed with so many digits."""
    return {
        "where": where,
        "printed": f"{printed:.{digits}f}",
        "computed": f"{computed:.{digits + 2}f}",
        "difference": round(computed - printed, 6),
        "kind": kind,
        "agrees": bool(abs(computed - printed) <= tolerance + 1e-9),
    }


def larger(where: str, lower: float, higher: float, explanation: str) -> Check:
    """A statement that the second number is the larger one."""
    check = equal_numbers(where, lower, higher, 0, "text")
    return check | {
        "printed": f"more than {lower:.1f}",
        "computed": f"{higher:.1f}",
        "explanation": explanation,
        "agrees": higher > lower + 1e-9,
    }


def same_words(where: str, printed: str, computed: str, kind: str = "text", explanation: str = "") -> Check:
    """Two sides in words."""
    sides = {"printed": printed, "computed": computed, "agrees": printed == computed}
    return {"where": where, "kind": kind, "explanation": explanation} | sides


def setting_name(setting: tuple) -> str:
    """A setting in words: 'visa, 1-shot clip_rwda, auroc'."""
    dataset, task, shots, method, variant, metric = setting
    pixel = "pixel " if task == "pixel" else ""
    return ", ".join(filter(None, [dataset, f"{shots}-shot {method}", variant, pixel + metric]))


def as_checks(frame: pd.DataFrame, checks: list[Check]) -> pd.DataFrame:
    """The checks as a table with `COLUMNS`; the frame tells the paper."""
    defaults = {"paper": frame["paper"].iloc[0], "difference": math.nan, "explanation": "", "agrees": False}
    table = pd.DataFrame([defaults | check for check in checks], columns=COLUMNS)
    return table.astype({"difference": "float64", "agrees": "bool"})
