"""zsad_papers.common.costs against the paper's Table 3, open_clip's module and torch's operation counter."""

from __future__ import annotations

import open_clip
import pytest

from zsad_papers.common.costs import VisionTower, multiply_accumulates, parameters, window_sequences
from zsad_papers.common.results import load_published
from zsad_papers.rwda.costs import complexity_table


def test_counts_of_the_papers_backbone():
    tower = VisionTower()
    windows = multiply_accumulates(tower, window_sequences(tower), counted="profiler")
    assert round(windows / 1e9, 3) == 205.933
    assert round(multiply_accumulates(tower) / 1e9, 2) == 27.38


def test_counts_are_those_of_a_model_that_runs():
    model = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=8, width=64, layers=2, heads=4, mlp_ratio=3.0, output_dim=24
    )
    tower = VisionTower((32, 32), (8, 8), width=64, layers=2, mlp_width=192, dim=24)
    assert parameters(tower) == sum(p.numel() for p in model.parameters())
    width, tokens = 64, 17
    block = tokens * (4 * width**2 + 2 * tokens * width + 2 * width * 192)  # by hand
    expected = 16 * 3 * 8 * 8 * width + 2 * block + width * 24
    assert multiply_accumulates(tower) == expected
    assert multiply_accumulates(tower, 3 * [(1, tokens)], patch_embeddings=3) == 3 * expected


def test_table_3_is_reproduced_by_the_profilers_way_of_counting():
    printed = load_published("rwda").query("artifact == 'T3'").set_index(["method", "metric"])["mean"]
    counted = complexity_table().set_index(["method", "metric"])
    assert len(counted) == 8
    for key, row in counted.iterrows():
        digits = 2 if key[1] == "params_M" else 1
        assert round(row["profiler"], digits) == printed[key], key
        assert row["all"] > 1.4 * printed[key], key


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="window sizes .16,. on a grid of .15, 15."):
        window_sequences(VisionTower(), (16,))
