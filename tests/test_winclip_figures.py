"""WinCLIP's figures: images chosen by rule, and axes that hold what they were given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import QuadContourSet

from zsad_papers.common.galleries import Example, map_gallery
from zsad_papers.winclip import figures as winclip_figures
from zsad_papers.winclip.figures import (
    failures,
    typical,
)

NAN = float("nan")


# images by rule


def made_up(monkeypatch: pytest.MonkeyPatch, **frames: pd.DataFrame) -> list:
    """Categories by name, whose images are described by frames with kind, area, auroc, f1max, maximum."""
    own = {n: frame.assign(label=(frame["kind"] != "good").astype(int)) for n, frame in frames.items()}
    monkeypatch.setattr(winclip_figures, "within_images", lambda category: own[category.name])
    return [SimpleNamespace(name=name) for name in frames]


def described(*lines: tuple) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=["kind", "area", "auroc", "f1max", "maximum"])


def test_the_typical_image_is_the_one_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    normal = ("good", 0.0, NAN, NAN, 0.9)

    def scratch(auroc):
        return ("scratch", 0.1, auroc, 0.5, 0.5)

    four = [normal, *map(scratch, (0.9, 0.2, 0.7, 0.6))]
    frames = {"even": four, "odd": [*four, scratch(0.99)], "one": four[:2]}
    frames = {name: described(*own) for name, own in frames.items()}
    assert [typical(category) for category in made_up(monkeypatch, **frames)] == [3, 3, 1]


def test_failures_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
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


# maps of an image


# drawings


def made_example(seed: int, masked: bool = True) -> Example:
    rng = np.random.default_rng(seed)
    mask = np.zeros((12, 16), bool)
    mask[3:6, 4:9] = masked
    image, normal = rng.integers(0, 255, (2, 12, 16, 3), dtype=np.uint8)
    maps = {"WinCLIP": rng.random((12, 16)), "SPADE (1)": 1e4 * (seed + 1) * rng.random((12, 16))}
    return Example(f"nut\nbent {seed}", image, mask, normal, maps)


def test_a_gallery_of_maps() -> None:
    examples = [made_example(0), made_example(1), made_example(2, masked=False)]
    figure = map_gallery(examples, normal=True)
    FigureCanvasAgg(figure).draw()
    axes = np.array(figure.axes).reshape(4, 4)  # one row below for the colour bars
    assert [axis.get_title() for axis in axes[0]] == ["normal", "image, mask", "WinCLIP", "SPADE (1)"]
    assert [row[0].get_ylabel() for row in axes[:-1]] == [found.label for found in examples]
    outlined = [[any(isinstance(a, QuadContourSet) for a in x.collections) for x in row] for row in axes]
    own = [False, True, True, True]
    assert outlined == [own, own, [False] * 4, [False] * 4]
    for j, method in enumerate(("WinCLIP", "SPADE (1)"), start=2):
        values = np.stack([found.maps[method] for found in examples])
        for axis, expected in zip(axes[:3, j], values, strict=True):
            assert axis.images[0].get_clim() == pytest.approx((values.min(), values.max()))
            np.testing.assert_allclose(axis.images[0].get_array(), expected)
    for axis, expected in zip(axes[1, :2], (examples[1].normal, examples[1].image), strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), expected)
    plain = map_gallery(examples, normal=False).axes
    assert [axis.get_title() for axis in plain[:3]] == ["image, mask", "WinCLIP", "SPADE (1)"]
