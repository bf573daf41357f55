"""WinCLIP's figures: images chosen by rule, and axes that hold what they were given."""

from types import SimpleNamespace

import pandas as pd

from zsad_papers.winclip import figures as winclip_figures
from zsad_papers.winclip.figures import failures

NAN = float("nan")


def made_up(monkeypatch, **frames):
    """Categories by name, whose images are described by frames with kind, area, auroc, f1max, maximum."""
    own = {n: frame.assign(label=(frame["kind"] != "good").astype(int)) for n, frame in frames.items()}
    monkeypatch.setattr(winclip_figures, "within_images", lambda category: own[category.name])
    return [SimpleNamespace(name=name) for name in frames]


def described(*lines):
    return pd.DataFrame(lines, columns=["kind", "area", "auroc", "f1max", "maximum"])


def test_failures_by_rule(monkeypatch):
    first = described(
        ("good", 0.0, NAN, NAN, 0.2),
        ("good", 0.0, NAN, NAN, 0.8),
        ("bent_wire", 0.20, 0.6, 0.5, 0.3),
        ("missing part", 0.20, 0.5, 0.5, 0.3),
        ("hole", 0.001, 0.9, 0.6, 0.3),
        ("scratch", 0.20, 0.1, 0.5, 0.3),
        ("scratch", 0.20, 0.95, 0.3, 0.99),
        ("scratch", 0.20, 0.96, 0.2, 0.3),
    )
    second = described(
        ("good", 0.0, NAN, NAN, 0.9),
        ("misplaced", 0.20, 0.7, 0.5, 0.3),
        ("hole", 0.002, 0.3, 0.5, 0.3),
        ("hole", 0.20, 0.97, 0.25, 1.0),
        ("hole", 0.20, 0.98, 0.9, 0.3),
    )
    third = described(("good", 0.0, NAN, NAN, 0.5), ("scratch", 0.20, 0.4, 0.5, 0.3))
    named = made_up(monkeypatch, first=first, second=second, third=third)
    chosen = failures(named, 3)
    assert {group: [(category.name, image) for category, image in own] for group, own in chosen.items()} == {
        "(a) arrangement": [("first", 3), ("second", 1)],
        "(b) tiny defects": [("second", 2), ("first", 4)],  # two of the eleven are that small
        "(c) no defect": [("second", 0), ("first", 1), ("third", 0)],
        "(d) around the defect": [("first", 7), ("second", 3)],
    }
    assert all(len(chosen) == 1 for chosen in failures(named, 1).values())
