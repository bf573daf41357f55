"""What AnomalyCLIP's pages explain: tokens, attention, the loss of one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
from zsad_papers.common.galleries import Example
from zsad_papers.common.settings import Settings


@pytest.fixture(scope="module")
def settings(settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(limit_images=2, prompt_epochs=1)


@pytest.fixture(scope="module")
def grid_category(settings: Settings, large: ClipEncoder) -> Category:
    return next(
        category
        for category in anomalyclip_experiments.squashed(settings, large, "mvtec")
        if category.name == "grid"
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


def test_learned_numbers(large: ClipEncoder) -> None:
    width = large.text_tower.token_embedding.embedding_dim
    assert anomalyclip_analysis.learned_numbers(large, PromptDesign(depth=3)) == {
        "words": 2 * 12 * width,
        "deep tokens": 2 * 4 * width,
    }


def test_presets_differ_in_named_options(large: ClipEncoder) -> None:
    table = anomalyclip_analysis.preset_differences(large).set_index("option")
    assert table.loc["deep"].tolist() == ["overwrite", "concatenate"]
    assert table.loc["layers"].tolist() == ["6", "2, 3, 5, 6"]
    assert table.loc["ending"].tolist() == [".", "(nothing)"] and table.loc["final_norm"].tolist() == [
        "no",
        "yes",
    ]
    assert "temperature" not in table.index


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


def test_large_matrices_keep_their_largest_weights() -> None:
    matrix = np.zeros((7, 7))
    matrix[6, 2], matrix[0, 0] = 5, -1
    np.testing.assert_array_equal(anomalyclip_figures._coarse(matrix, 4), [[0, 0, 0, 0]] * 3 + [[0, 5, 0, 0]])
    np.testing.assert_array_equal(anomalyclip_figures._coarse(matrix, 7), matrix)


def test_the_attention_figure() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((9, 9), bool)
    mask[3:5, 3:5] = True
    found = Example("nut\nbent", rng.integers(0, 255, (9, 9, 3), dtype=np.uint8), mask, mask, {})
    matrices = {kind: rng.random((16, 16)) * (n + 1) for n, kind in enumerate(KINDS)}
    maps = {row: {kind: rng.random((9, 9)) for kind in KINDS} for row in ("CLIP's prompts", "learned")}
    figure = anomalyclip_figures.attention_figure(found, matrices, maps)
    FigureCanvasAgg(figure).draw()
    axes = np.array(figure.axes[:15]).reshape(3, 5)
    assert [axis.get_title() for axis in axes[0, 1:]] == list(anomalyclip_analysis.KIND_LABELS.values())
    for n, axis in enumerate(axes[0, 1:]):
        np.testing.assert_allclose(axis.images[0].get_array(), matrices[KINDS[n]])
    for row, name in zip(axes[1:], maps, strict=True):
        assert row[0].get_ylabel() == name
        assert len({axis.images[0].get_clim() for axis in row[1:]}) == 1  # columns can be compared
    labels = [(axis.get_xlabel() or axis.get_ylabel()) for axis in figure.axes[15:]]
    assert labels == ["weight"] * 4 + ["score"] * 2


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


def test_before_and_after(grid_category: Category, prompts: LearnedPrompts) -> None:
    other = replace(prompts, parameters={k: -v for k, v in prompts.parameters.items()})
    found, table = anomalyclip_figures.before_and_after(grid_category, 3, prompts, other)
    assert list(found.maps) == ["before training", "after training"] == table.columns.tolist()
    assert not np.allclose(*found.maps.values())
    assert table.index.tolist() == ["image", "focal", "dice_anomalous", "dice_normal"]
    assert (
        table.loc["focal", "before training"]
        == anomalyclip_analysis.loss_parts(grid_category, prompts, 3)["focal"]
    )
