"""What AnomalyCLIP's pages explain: tokens, attention, the loss of one image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from zsad_core import methods
from zsad_core.auxiliary import auxiliary_of
from zsad_core.dpam import KINDS, attention_weights, quarter_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import PromptDesign, freeze
from zsad_core.prompt_learning import LearnedPrompts, glocal_loss
from zsad_papers.anomalyclip import analysis as anomalyclip_analysis
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip import figures as anomalyclip_figures
from zsad_papers.common.experiment import Category
from zsad_papers.common.settings import Settings


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(limit_images=2, prompt_epochs=1)


@pytest.fixture(scope="module")
def grid_category(settings: Settings, large: ClipEncoder) -> Category:
    return next(
        category
        for category in anomalyclip_experiments.squashed(settings, large, "mvtec")
        if category.name == "carpet"
    )


@pytest.fixture(scope="module")
def prompts(settings: Settings, large: ClipEncoder) -> LearnedPrompts:
    return anomalyclip_experiments.learned_prompts(settings, large, "mvtec")


def test_tokens_of_the_templates(large: ClipEncoder) -> None:
    table = anomalyclip_analysis.token_table(large, PromptDesign(2, length=2))
    assert table["position"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert table["normal"].tolist()[1:] == ["[V_1]", "[V_2]", "object", ".", "<end_of_text>", ""]
    assert table["anomalous"].tolist()[1:6] == ["[W_1]", "[W_2]", "damaged", "object", "."]
    assert table["normal: from"].tolist() == ["fixed", "learned", "learned", "fixed", "fixed", "fixed", ""]
    named = anomalyclip_analysis.token_table(large, PromptDesign(2, length=2, object_word=None), "metal nut")
    assert named["normal"].tolist()[3:5] == ["metal", "nut"]


def test_self_attention_is_the_mean_of_the_diagonal(large: ClipEncoder, grid_category: Category) -> None:
    first = quarter_blocks(6)[0]
    records = anomalyclip_analysis.self_attention_records(large, [grid_category], 2)
    found = anomalyclip_analysis.self_attention_rows(records, "toys", first)
    pixels = torch.stack([large.preprocess(grid_category.test.image(i)) for i in range(2)])
    blocks = list(attention_weights(large.model.visual, pixels, KINDS))[first - 1 :]
    weights = {k: torch.stack([w[k].diagonal(dim1=-2, dim2=-1)[..., 1:] for w in blocks]) for k in KINDS}
    mean = found[found["category"] == "mean"].set_index("variant")["mean"]
    expected = {f"attention={k}": v.mean().item() for k, v in weights.items()}
    assert mean.to_dict() == pytest.approx(expected, rel=1e-5)
    figure = anomalyclip_figures.self_attention_lines(records, first, 1 / 145)
    FigureCanvasAgg(figure).draw()
    (axis,) = figure.axes
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(
        anomalyclip_analysis.KIND_LABELS.values()
    )
    own = records[(records["kind"] == "vv") & (records["block"] == 6)]["weight"].iloc[0]
    assert axis.lines[3].get_ydata()[-1] == pytest.approx(own) and axis.get_yscale() == "log"
    assert anomalyclip_analysis.self_attention_rows(records.head(0), "toys", first).empty


def test_attention_matrices_of_a_block(large: ClipEncoder, grid_category: Category) -> None:
    pixels = large.preprocess(grid_category.test.image(0))[None]
    found = anomalyclip_analysis.attention_matrices(large, pixels, 3)
    assert list(found) == list(KINDS) and all(m.shape == (144, 144) for m in found.values())
    assert all((m.sum(1) <= 1 + 1e-5).all() for m in found.values())  # the class token takes the rest
    records = anomalyclip_analysis.self_attention_records(large, [grid_category], 1).query("block == 3")
    expected = dict(zip(records["kind"], records["weight"], strict=True))
    assert {k: m.diagonal().mean() for k, m in found.items()} == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="1 to 6"):
        anomalyclip_analysis.attention_matrices(large, pixels, 7)


def test_the_loss_of_one_image_is_that_of_training(
    settings: Settings, large: ClipEncoder, grid_category: Category, prompts: LearnedPrompts
) -> None:
    parts = anomalyclip_analysis.loss_parts(grid_category, prompts, 3)
    config = prompts.config
    extractor = methods.extractor_of(large, config)
    material = auxiliary_of(grid_category.test, extractor, settings.cache_dir)
    batch = material.batch(np.array([3]), config.layers)
    frozen = freeze(large, config.design)
    expected = glocal_loss(large, config, prompts.parameters, frozen, batch)
    total = parts["image"] + config.local_weight * sum(v for n, v in parts.items() if n != "image")
    assert total == pytest.approx(expected.item(), rel=1e-4)
