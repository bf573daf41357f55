"""AnomalyCLIP's figures of images and scores: the images that a rule chooses, and what the axes hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import QuadContourSet
from scipy.ndimage import gaussian_filter

from zsad_core.encoders import ClipEncoder
from zsad_core.methods import extractor_of
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.windows import upsample
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip import figures as anomalyclip_figures
from zsad_papers.anomalyclip.experiments import measured, method_of
from zsad_papers.common.experiment import Category
from zsad_papers.common.galleries import Example
from zsad_papers.common.settings import Settings
from zsad_papers.winclip.figures import example

NAN = float("nan")


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(limit_images=2, prompt_epochs=1)


@pytest.fixture(scope="module")
def prompts(settings: Settings, large: ClipEncoder) -> LearnedPrompts:
    return anomalyclip_figures.prompt_sources(settings, large, "mvtec")["AnomalyCLIP"]


@pytest.fixture(scope="module")
def nut(settings: Settings, large: ClipEncoder) -> Category:
    return next(
        category
        for category in anomalyclip_experiments.squashed(settings, large, "mvtec")
        if category.name == "hex_nut"
    )


# maps


def test_a_map_is_the_measured_one_at_the_images_size(nut: Category, prompts: LearnedPrompts) -> None:
    (found,) = anomalyclip_figures.map_examples(nut, {"AnomalyCLIP": prompts}, [3])
    image = nut.test.image(3)
    config = prompts.config
    _, local = extractor_of(nut.encoder, config).features(nut.encoder.preprocess(image)[None]).values()
    texts = prompts.texts(nut.encoder)[0]
    anomalous = (local @ texts.T / config.temperature).softmax(-1)[..., 1].unflatten(1, nut.encoder.grid)
    smooth = gaussian_filter(upsample(anomalous, nut.encoder.image_size)[0], 4 * 144 / 518)
    expected = upsample(torch.from_numpy(smooth)[None], image.size[::-1])[0]
    np.testing.assert_allclose(found.maps["AnomalyCLIP"], expected, atol=2e-3)
    assert found.label == f"hex nut\n{nut.test.meta['defect'].iloc[3]}"
    np.testing.assert_array_equal(found.mask, nut.test.mask(3))


def test_each_method_has_its_own_map(
    nut: Category, settings: Settings, large: ClipEncoder, encoder: ClipEncoder
) -> None:
    asks = anomalyclip_figures.prompt_sources(settings, large, "mvtec", anomalyclip_figures.METHODS, encoder)
    assert list(asks) == list(anomalyclip_figures.METHODS)
    (found,) = anomalyclip_figures.map_examples(nut, asks, [2])
    assert list(found.maps) == list(anomalyclip_figures.METHODS)
    assert all(m.shape == found.image.shape[:2] and np.isfinite(m).all() for m in found.maps.values())
    assert len({m.tobytes() for m in found.maps.values()}) == len(anomalyclip_figures.METHODS)
    own = example(replace(nut, encoder=encoder, whole="tiles"), 2).maps["WinCLIP"]
    np.testing.assert_array_equal(found.maps["WinCLIP"], own)


def test_training_images_are_refused(settings: Settings, large: ClipEncoder, prompts: LearnedPrompts) -> None:
    trained = anomalyclip_experiments.squashed(settings, large, "visa")[0]
    with pytest.raises(ValueError, match="not zero-shot"):
        anomalyclip_figures.map_examples(trained, {"AnomalyCLIP": prompts}, [0])
    assert len(anomalyclip_figures.map_examples(trained, {"": prompts}, [0], allow_training_images=True)) == 1


def test_unknown_methods_and_winclip_without_its_encoder(settings: Settings, large: ClipEncoder) -> None:
    for methods in (["WinClip"], ["WinCLIP"]):
        with pytest.raises(ValueError, match="encoder_of"):
            anomalyclip_figures.prompt_sources(settings, large, "mvtec", methods)


def test_without_datasets_there_is_nothing_and_no_warning(
    settings_of: Callable[..., Settings], large: ClipEncoder, recwarn: pytest.WarningsRecorder
) -> None:
    none = settings_of(datasets={"mvtec": "elsewhere"})
    assert (
        anomalyclip_experiments.squashed(none, large, "mvtec")
        == []
        == anomalyclip_experiments.squashed(none, large, "visa")
    )
    assert anomalyclip_figures.prompt_sources(none, large, "mvtec", ["CLIP", "CoOp", "VAND"]) == {
        "CLIP": None
    }
    assert set(anomalyclip_figures.shown_table(none, large)["here"]) == {"nothing: no such data"}
    words, category = anomalyclip_figures.shown_maps(none, large, "F14")
    assert category is None and "hazelnut" in words.text
    assert not len(recwarn)


# images by rule


def test_anomalous_images_are_evenly_spaced() -> None:
    category = SimpleNamespace(test=SimpleNamespace(labels=np.array([0, 1, 1, 1, 0, 1, 1])))
    assert anomalyclip_figures.spread_out(category, 3) == [1, 3, 6]
    assert anomalyclip_figures.spread_out(category, 9) == [1, 2, 3, 5, 6]


def test_successes_and_failures_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = {
        "a": [(0, NAN, 0.2), (1, 0.9, 0.5), (1, 0.1, 0.5), (0, NAN, 0.7)],
        "b": [(0, NAN, 0.9), (1, 0.95, 0.5), (1, 0.3, 1.0)],
    }
    names = ["label", "auroc", "maximum"]
    monkeypatch.setattr(
        anomalyclip_figures,
        "within_images",
        lambda category, _: pd.DataFrame(frames[category.name], columns=names),
    )
    monkeypatch.setattr(anomalyclip_figures, "has_masks", lambda test: test)
    made = [(SimpleNamespace(name=name, test=name != "c"), None) for name in "abc"]
    found = anomalyclip_figures.successes_and_failures(made, 2)
    assert {group: [(category.name, i) for category, i in own] for group, own in found.items()} == {
        "success": [("b", 1), ("a", 1)],
        "failure": [("a", 2), ("b", 2)],
        "false alarm": [("b", 0), ("a", 3)],
    }
    assert anomalyclip_figures.successes_and_failures(made[2:]) == {}


def test_within_images(nut: Category, prompts: LearnedPrompts) -> None:
    found = anomalyclip_figures.within_images(nut, prompts)
    assert (
        found["label"].tolist() == [0, 0, 1, 1] and found["auroc"].isna().tolist() == [True] * 2 + [False] * 2
    )
    assert found["area"].iloc[2] == nut.test.mask(2).mean() and found["area"].iloc[0] == 0


def test_what_figures_14_to_37_show(settings: Settings, large: ClipEncoder) -> None:
    assert list(anomalyclip_figures.SHOWN) == [f"F{n}" for n in range(14, 38)]
    role, category = anomalyclip_figures.shown_category(settings, large, "F16")
    assert (role, category.name, category.whole) == ("mvtec", "hex_nut", "squash")
    role, category = anomalyclip_figures.shown_category(settings, large, "F25")  # no MPDD on the mini profile
    assert (role, category.name) == ("visa", "gear")
    table = anomalyclip_figures.shown_table(settings, large).set_index("figure")
    assert table.loc["25"].tolist() == ["bracket, MPDD", "gear, mini_visa", "yes", "mini_mvtec"]
    assert table.loc["18", "prompts learned on"] == "mini_visa"


# drawings


def made_example(seed: int, masked: bool = True) -> Example:
    rng = np.random.default_rng(seed)
    mask = np.zeros((12, 16), bool)
    mask[3:6, 4:9] = masked
    image = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Example(f"nut\nbent {seed}", image, mask, image, {"AnomalyCLIP": rng.random((12, 16)) + seed})


def test_a_strip_of_maps() -> None:
    examples = [made_example(0), made_example(1, masked=False)]
    figure = anomalyclip_figures.strip(examples)
    FigureCanvasAgg(figure).draw()
    axes = np.array(figure.axes[:6]).reshape(3, 2)
    assert [axis.get_title() for axis in axes[0]] == ["bent 0", "bent 1"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["nut", "mask", "map"]
    outlined = [
        [any(isinstance(a, QuadContourSet) for a in axis.collections) for axis in row] for row in axes
    ]
    assert outlined == [[False, False], [True, False], [False, False]]
    values = np.stack([found.maps["AnomalyCLIP"] for found in examples])
    for axis in axes[2]:
        assert axis.images[0].get_clim() == pytest.approx((values.min(), values.max()))
    assert figure.axes[-1].get_ylabel() == "score"


def test_histograms_hold_shares(nut: Category, prompts: LearnedPrompts) -> None:
    scores = {"nut": (np.array([0.1, 0.1, 0.2, 0.9]), np.array([0, 0, 0, 1])), "b": (np.ones(1), np.ones(1))}
    figure = anomalyclip_figures.score_histograms(scores, bins=10)
    FigureCanvasAgg(figure).draw()
    assert [axis.get_title() for axis in figure.axes[:2]] == ["nut", "b"] and not figure.axes[2].axison
    normal, anomalous = figure.axes[0].patches
    assert normal.get_xy()[:, 1].max() == pytest.approx(2 / 3) and anomalous.get_xy()[:, 1].max() == 1
    assert normal.get_linestyle() != anomalous.get_linestyle() and anomalous.get_hatch()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["normal", "anomalous"]
    assert "No dataset" in anomalyclip_figures.score_histograms({}).text
    np.testing.assert_array_equal(
        anomalyclip_figures.image_scores(nut, prompts), measured(nut, method_of(nut, prompts))["/scores"]
    )
    assert not np.allclose(
        anomalyclip_figures.image_scores(nut, None), anomalyclip_figures.image_scores(nut, prompts)
    )
