"""zsad_papers.common.costs against the paper's Table 3, open_clip's module and torch's operation counter."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from zsad_papers.common.costs import (
    VisionTower,
    complexity_table,
    fnn_multiply_accumulates,
    fnn_parameters,
    multiply_accumulates,
    parameters,
    vision_tower,
    window_sequences,
)
from zsad_papers.common.results import load_published


def test_counts_of_the_papers_backbone():
    tower = vision_tower(open_clip.get_model_config("ViT-B-16-plus-240"))
    assert tower == VisionTower()
    assert parameters(tower, "profiler") == 77_812_224
    assert parameters(tower) == 117_213_824
    assert multiply_accumulates(tower, counted="profiler") == 17_572_724_736
    windows = window_sequences(tower)
    assert windows == [(196, 5), (169, 10)]
    assert round(multiply_accumulates(tower, windows, counted="profiler") / 1e9, 3) == 205.933
    assert round(6 * multiply_accumulates(tower, counted="profiler") / 1e9, 3) == 105.436
    assert round(multiply_accumulates(tower) / 1e9, 2) == 27.38


@pytest.mark.parametrize(
    ("hidden", "number"), [((256, 256, 256), 297_473), ((384, 128, 32), 300_673), ((512, 256, 128), 494_337)]
)
def test_fnn_parameters_are_those_of_the_layers(hidden, number):
    widths = (640, *hidden)
    layers = [torch.nn.Linear(*pair) for pair in zip((*widths,), (*hidden, 1), strict=True)]
    layers += [torch.nn.BatchNorm1d(width) for width in hidden]
    assert (
        fnn_parameters(640, hidden)
        == number
        == sum(p.numel() for layer in layers for p in layer.parameters())
    )
    assert fnn_multiply_accumulates(640, hidden) == sum(
        layer.weight.numel() for layer in layers[: len(widths)]
    )


def test_counts_are_those_of_an_open_clip_model():
    config = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16, "mlp_ratio": 3.0}
    tower = vision_tower({"embed_dim": 24, "vision_cfg": config})
    model = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=8, width=64, layers=2, heads=4, mlp_ratio=3.0, output_dim=24
    )
    assert parameters(tower) == sum(p.numel() for p in model.parameters())
    model.train()  # in eval mode attention may take a fused path that the counter does not see
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 3, 32, 32))
    assert 2 * multiply_accumulates(tower, 3 * [(1, 17)], patch_embeddings=3) == counter.get_total_flops()


def test_table_3_is_reproduced_by_the_profilers_way_of_counting():
    printed = load_published("rwda").query("artifact == 'T3'").set_index(["method", "metric"])["mean"]
    counted = complexity_table().set_index(["method", "metric"])
    assert len(counted) == 8
    for key, row in counted.iterrows():
        digits = 2 if key[1] == "params_M" else 1
        assert round(row["profiler"], digits) == printed[key], key
        assert row["all"] > 1.4 * printed[key], key


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="counted is 'full'; expected 'all' or 'profiler'"):
        parameters(VisionTower(), "full")
    with pytest.raises(ValueError, match="window sizes .16,. on a grid of .15, 15."):
        window_sequences(VisionTower(), (16,))
    with pytest.raises(ValueError, match="no 'vision_cfg'"):
        vision_tower({"embed_dim": 640})
    with pytest.raises(ValueError, match="as for a ResNet"):
        vision_tower(open_clip.get_model_config("RN50"))
