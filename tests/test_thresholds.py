"""Thresholds against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zsad_predict.thresholds import Rule, Sample, choose_threshold

FOLDER = Sample(np.arange(11) / 10, np.arange(11) / 20)  # 0, 0.1, ..., 1
REFERENCES = Sample(np.array([0.2, 0.5, 0.3, 0.4]), np.array([0.6, 0.7, 0.9, 0.8]))


def test_highest_reference_decides_by_default_and_is_normal_itself():
    found = choose_threshold(Rule(), FOLDER, REFERENCES)
    assert (found.value, found.map_value) == (0.5, 0.9)
    assert found.rule == "above the highest score of 4 normal references, 0.5"
    assert found.decide([0.5, 0.51, math.nan]).tolist() == [False, True, False]
    assert "rough" in found.warnings[0]


def test_quantiles_are_interpolated():
    found = choose_threshold(Rule(quantile=0.5), FOLDER, REFERENCES)
    assert found.value == pytest.approx(0.35)  # between 0.3 and 0.4
    assert found.rule == "above the 0.5-quantile of the scores of 4 normal references, 0.35"
    found = choose_threshold(Rule(), FOLDER)
    assert found.value == pytest.approx(0.9) and found.map_value == pytest.approx(0.45)
    assert "flags about 10 %" in found.warnings[0]
    found = choose_threshold(Rule("folder", 0.75), FOLDER, REFERENCES)
    assert found.value == pytest.approx(0.75) and "folder's own 11 scores" in found.rule


def test_a_number_decides_alone():
    found = choose_threshold(Rule(number=0.25), FOLDER)
    assert found.value == 0.25 and math.isnan(found.map_value) and not found.warnings
    assert found.rule == "above 0.25, a number that was given"
    assert choose_threshold(Rule(number=0.25), FOLDER, REFERENCES).map_value == 0.9


def test_an_only_reference_that_cannot_be_compared():
    alone = Sample(np.empty(0), np.empty(0), left_out=True)
    for options in ({}, {"source": "references", "quantile": 0.5}):
        found = choose_threshold(Rule(**options), FOLDER, alone)
        assert found.value == pytest.approx(0.9) and "one reference only" in found.warnings[0]


def test_without_maps_no_place_is_marked():
    none = Sample(FOLDER.scores, np.full(11, math.nan))
    assert math.isnan(choose_threshold(Rule(), none).map_value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "median"}, "expected auto, references or folder"),
        ({"quantile": 1.5}, "expected 0 to 1"),
        ({"number": math.inf}, "finite"),
        ({"number": 1.0, "quantile": 0.5}, "leave out either"),
        ({"number": 1.0, "source": "folder"}, "leave out either"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        Rule(**options)
