"""AnomalyCLIP's figures of images and scores: the images that a rule chooses, and what the axes hold."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from zsad_core.encoders import ClipEncoder
from zsad_core.methods import extractor_of
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.windows import upsample
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip import figures as anomalyclip_figures
from zsad_papers.common.experiment import Category
from zsad_papers.common.settings import Settings

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


def test_training_images_are_refused(settings: Settings, large: ClipEncoder, prompts: LearnedPrompts) -> None:
    trained = anomalyclip_experiments.squashed(settings, large, "visa")[0]
    with pytest.raises(ValueError, match="not zero-shot"):
        anomalyclip_figures.map_examples(trained, {"AnomalyCLIP": prompts}, [0])
    assert len(anomalyclip_figures.map_examples(trained, {"": prompts}, [0], allow_training_images=True)) == 1


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


# drawings
