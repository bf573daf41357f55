"""WinCLIP's figures: images chosen by rule, and axes that hold what they were given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import QuadContourSet

from zsad_core import image_features
from zsad_core.encoders import ClipEncoder
from zsad_core.prompts import zero_shot_prompts
from zsad_core.windows import upsample, zero_shot_map
from zsad_papers.common import experiment
from zsad_papers.common.experiment import Category
from zsad_papers.common.galleries import Example, labelled, map_gallery
from zsad_papers.common.settings import Settings
from zsad_papers.winclip import figures as winclip_figures
from zsad_papers.winclip.figures import (
    effect_bars,
    effects,
    example,
    failures,
    size_against_quality,
    slopes,
    typical,
)

NAN = float("nan")


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(reference_seeds=1, seed=3)


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

    odd, even = (
        described(normal, *map(scratch, values), normal)
        for values in ((0.9, 0.2, 0.7, 0.6, 0.99), (0.9, 0.2, 0.7, 0.6))
    )
    frames = made_up(monkeypatch, odd=odd, even=even)
    assert [typical(category) for category in frames] == [3, 3]  # of five 0.7, of four 0.7, the upper middle
    assert typical(made_up(monkeypatch, one=described(normal, scratch(0.3)))[0]) == 1


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
    found = {
        group: [(category.name, image) for category, image in chosen]
        for group, chosen in failures(named, 3).items()
    }
    assert found == {
        "(a) arrangement": [("first", 3), ("second", 1)],
        "(b) tiny defects": [("second", 2), ("first", 4)],  # two of the eleven are that small
        "(c) no defect": [("second", 0), ("first", 1), ("third", 0)],
        "(d) around the defect": [("first", 7), ("second", 3)],
    }
    assert all(len(chosen) == 1 for chosen in failures(named, 1).values())


def test_failures_of_a_run(square: Category, oblong: Category) -> None:
    for group, chosen in failures([square, oblong]).items():
        assert len({id(category) for category, _ in chosen}) == len(chosen), group
        for category, image in chosen:
            assert (category.test.labels[image] == 0) == (group == "(c) no defect")
            if group == "(a) arrangement":
                assert category.test.meta["defect"].iloc[image] in ("bent", "missing")
    assert len(failures([square, oblong])["(c) no defect"]) == 2


def test_without_categories_nothing_fails() -> None:
    assert failures([]) == {}


# maps of an image


def test_an_example_has_maps_of_its_images_size(oblong: Category, settings: Settings) -> None:
    found = example(oblong, 5, [1, 2], ["spade", "padim", "patchcore"])
    names = ["WinCLIP", "WinCLIP+ (1)", "WinCLIP+ (2)", "SPADE (1)", "PaDiM (1)", "PatchCore (1)"]
    assert list(found.maps) == names
    size = np.asarray(oblong.test.image(5)).shape[:2]
    assert size == (112, 192) == found.mask.shape == found.image.shape[:2] == found.normal.shape[:2]
    assert all(values.shape == size and np.isfinite(values).all() for values in found.maps.values())
    assert len({values.tobytes() for values in found.maps.values()}) == 6
    np.testing.assert_array_equal(found.image, np.asarray(oblong.test.image(5)))
    np.testing.assert_array_equal(found.mask, oblong.test.mask(5))
    first = oblong.draws([1])[1, settings.seed][0]
    np.testing.assert_array_equal(found.normal, np.asarray(oblong.train.image(int(first))))
    assert found.label == f"fuse\n{oblong.test.meta['defect'].iloc[5]}"
    assert labelled(found, "why").label == f"why\n{found.label}" and labelled(found, "").maps is found.maps


def test_the_map_of_an_example_is_winclips(square: Category, encoder: ClipEncoder) -> None:
    found = example(square, 6)
    assert list(found.maps) == ["WinCLIP"] and found.label.startswith("bottle top\n")
    texts = [encoder.embed_text(sentences).mean(0) for sentences in zero_shot_prompts("bottle top")]
    embedded = encoder.embed_scales(encoder.preprocess(square.test.image(6))[None])
    maps = zero_shot_map(
        embedded.image, embedded.windows, encoder.grid, *texts, temperature=square.temperature
    )
    np.testing.assert_allclose(found.maps["WinCLIP"], upsample(maps, (144, 144))[0], atol=2e-3)


def test_an_example_of_a_later_part(square: Category, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [example(square, i, [1]).maps for i in (2, 7)]
    monkeypatch.setattr(image_features, "PART", 3)
    monkeypatch.setattr(experiment, "PART", 3)
    for i, maps in zip((2, 7), whole, strict=True):
        for name, values in example(square, i, [1]).maps.items():
            np.testing.assert_allclose(values, maps[name], rtol=1e-3, atol=1e-5)


def test_an_example_without_training_images(square: Category) -> None:
    meta = square.dataset.meta.query("split == 'test'").reset_index(drop=True)
    without = replace(square, dataset=replace(square.dataset, meta=meta))
    found = example(without, 0)
    assert found.normal.shape == found.image.shape and not found.normal.any()


# drawings


def made_example(seed: int, masked: bool = True) -> Example:
    rng = np.random.default_rng(seed)
    mask = np.zeros((12, 16), bool)
    mask[3:6, 4:9] = masked
    image, normal = rng.integers(0, 255, (2, 12, 16, 3), dtype=np.uint8)
    maps = {"WinCLIP": rng.random((12, 16)), "SPADE (1)": 1e4 * (seed + 1) * rng.random((12, 16))}
    return Example(f"nut\nbent {seed}", image, mask, normal, maps)


@pytest.mark.parametrize("normal", [False, True])
def test_a_gallery_of_maps(normal: bool) -> None:
    examples = [made_example(0), made_example(1), made_example(2, masked=False)]
    figure = map_gallery(examples, normal=normal)
    FigureCanvasAgg(figure).draw()
    columns = ["normal"] * normal + ["image, mask", "WinCLIP", "SPADE (1)"]
    assert len(figure.axes) == 4 * len(columns)  # one row below for the colour bars
    axes = np.array(figure.axes).reshape(4, len(columns))
    assert [axis.get_title() for axis in axes[0]] == columns
    assert [axis.get_xlabel() for axis in axes[-1]] == ["", *[""] * normal, "score", "score"]
    assert [row[0].get_ylabel() for row in axes[:-1]] == [found.label for found in examples]
    outlined = [
        [any(isinstance(a, QuadContourSet) for a in axis.collections) for axis in row] for row in axes
    ]
    own = [False] * normal + [True] * 3
    assert outlined == [own, own, [False] * len(columns), [False] * len(columns)]
    for j, method in enumerate(("WinCLIP", "SPADE (1)"), start=1 + normal):
        values = np.stack([found.maps[method] for found in examples])
        limits = values.min(), values.max()
        for i in range(3):
            (drawn,) = axes[i, j].images
            assert drawn.get_clim() == pytest.approx(limits)
            np.testing.assert_allclose(drawn.get_array(), values[i])
        texts = [text.get_text() for text in axes[-1, j].get_xticklabels()]
        assert float(texts[1].replace(",", "")) == pytest.approx(limits[1], rel=0.06)
    if normal:
        np.testing.assert_array_equal(axes[1, 0].images[0].get_array(), examples[1].normal)
    np.testing.assert_array_equal(axes[1, int(normal)].images[0].get_array(), examples[1].image)
    assert not axes[-1, 0].axison


def rows_of(**means: float) -> pd.DataFrame:
    """Rows of one dataset: of each category the means of WinCLIP and of WinCLIP+ with 4 shots."""
    lines = [
        {"dataset": "toys", "category": category, "method": method, "shots": k, "mean": mean}
        for category, pair in means.items()
        for (method, k), mean in zip((("winclip", 0), ("winclip_plus", 4)), pair, strict=True)
    ]
    return pd.DataFrame(lines)


def test_slopes_go_from_one_method_to_the_other() -> None:
    frame = rows_of(metal_nut=(70.0, 90.0), bolt=(95.0, 90.5), only_zero=(50.0, NAN))
    both = pd.concat([frame, frame.assign(dataset="tools", mean=frame["mean"] - 10)])
    figure = slopes(both)
    FigureCanvasAgg(figure).draw()
    assert [axis.get_title() for axis in figure.axes] == ["toys", "tools"]
    assert figure.axes[0].get_ylabel() == "image AUROC (%)"
    left = figure.axes[0]
    drawn = {tuple(line.get_ydata()): line.get_linestyle() for line in left.lines}
    assert drawn == {(70, 90): "-", (95, 90.5): "--"}
    assert [text.get_text() for text in left.texts] == ["metal nut", "bolt"]
    heights = [text.get_position()[1] for text in left.texts]
    assert heights[1] - heights[0] >= 1.3 - 1e-9
    assert [t.get_text() for t in left.get_xticklabels()] == ["winclip\n0-shot", "winclip+\n4-shot"]


def test_slopes_of_many_good_categories_do_not_overlap_or_leave_the_axis() -> None:
    figure = slopes(rows_of(**{f"c{i}": (80.0, 100.0) for i in range(12)}))
    heights = [text.get_position()[1] for text in figure.axes[0].texts]
    assert np.diff(heights).min() >= 1.3 - 1e-9 and max(heights) <= 102 + 1e-9


def test_slopes_without_a_dataset() -> None:
    assert (
        "No dataset" in slopes(pd.DataFrame(columns=["dataset", "category", "method", "shots", "mean"])).text
    )


def test_size_against_quality() -> None:
    rng = np.random.default_rng(0)
    area = np.exp(rng.uniform(-8, -1, 100))
    images = pd.DataFrame({"area": area, "auroc": rng.uniform(0.4, 1, 100)})
    images["dataset"] = np.where(np.arange(100) < 60, "toys", "tools")
    axis = size_against_quality(images).axes[0]
    points = [np.asarray(path.get_offsets()) for path in axis.collections]
    assert [len(p) for p in points] == [60, 40]
    np.testing.assert_allclose(points[0], 100 * images[["area", "auroc"]].to_numpy()[:60])
    (line,) = axis.lines
    order = np.argsort(area).reshape(10, 10)
    expected = [
        [100 * np.median(images[name].to_numpy()[own]) for own in order] for name in ("area", "auroc")
    ]
    np.testing.assert_allclose(line.get_xydata().T, expected)
    assert axis.get_xscale() == "log" and "%" in axis.get_xlabel() and "AUROC" in axis.get_ylabel()
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["toys", "tools", "median of a tenth"]


@pytest.fixture
def open_rows() -> pd.DataFrame:
    lines = [
        ("toys", "winclip", "", "image", "auroc", 80.0, NAN),
        ("toys", "winclip", "", "pixel", "f1max", 30.0, NAN),
        ("toys", "winclip", "temperature=0.07", "image", "auroc", 82.5, NAN),
        ("toys", "winclip", "temperature=0.07", "pixel", "f1max", 29.0, NAN),
        ("toys", "winclip", "", "pixel", "auroc", 85.0, NAN),
        ("toys", "winclip_plus", "", "pixel", "auroc", 95.0, 0.2),
        ("toys", "winclip_plus", "", "image", "auroc", 90.0, 1.0),
        ("toys", "winclip_plus", "temperature=0.07", "image", "auroc", 88.0, 0.5),
        ("toys", "winclip_plus", "fuse=none", "image", "auroc", 90.0, 1.0),
        ("toys", "winclip_plus", "fuse=none", "image", "aupr", 99.0, 1.0),
        ("tools", "winclip", "", "image", "auroc", 60.0, NAN),
        ("tools", "winclip", "temperature=0.07", "image", "auroc", 50.0, NAN),
    ]
    return pd.DataFrame(lines, columns=["dataset", "method", "variant", "task", "metric", "mean", "std"])


def test_effects_are_changes_from_the_default(open_rows: pd.DataFrame) -> None:
    table = effects(open_rows).set_index(["dataset", "method", "option"])
    assert table.columns.tolist() == ["image AUROC", "pixel AUROC", "pixel F1MAX"]
    image, pixel = table["image AUROC"], table["pixel F1MAX"]
    assert image["toys", "WinCLIP", "default"] == "80.0" and pixel["toys", "WinCLIP", "default"] == "30.0"
    assert image["toys", "WinCLIP", "temperature=0.07"] == "82.5 (+2.5)"
    assert pixel["toys", "WinCLIP", "temperature=0.07"] == "29.0 (-1.0)"
    assert image["toys", "WinCLIP+, 1-shot", "default"] == "90.0 ± 1.0"
    assert image["toys", "WinCLIP+, 1-shot", "temperature=0.07"] == "88.0 ± 0.5 (-2.0)"
    assert image["toys", "WinCLIP+, 1-shot", "fuse=none"] == "90.0 ± 1.0 (+0.0)"
    assert pixel["toys", "WinCLIP+, 1-shot", "fuse=none"] == "-"
    assert image["tools", "WinCLIP", "temperature=0.07"] == "50.0 (-10.0)"


def test_effects_of_no_rows(open_rows: pd.DataFrame) -> None:
    table = effects(open_rows.head(0))
    assert table.empty and not [*table.groupby("dataset")]


def test_bars_of_effects(open_rows: pd.DataFrame) -> None:
    figure = effect_bars(open_rows)
    FigureCanvasAgg(figure).draw()
    axes = [axis for axis in figure.axes if axis.axison]
    titles = ["toys: image AUROC", "toys: pixel F1MAX", "tools: image AUROC"]
    assert [axis.get_title() for axis in axes] == titles
    assert {axis.get_xlabel() for axis in axes} == {"change (points)"}
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names == ["temperature=0.07", "fuse=none"]
    drawn = {line.get_label(): line for line in axes[0].lines if not line.get_label().startswith("_")}
    assert [*drawn] == ["WinCLIP", "WinCLIP+, 1-shot"]
    np.testing.assert_allclose(drawn["WinCLIP"].get_xdata(), [2.5, NAN])
    np.testing.assert_allclose(drawn["WinCLIP+, 1-shot"].get_xdata(), [-2.0, 0.0])
    assert drawn["WinCLIP"].get_marker() != drawn["WinCLIP+, 1-shot"].get_marker()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*drawn]
