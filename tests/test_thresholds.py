import math

import numpy as np
import pandas as pd
import pytest
from helpers import refused

from zsad_predict.thresholds import check_rule, choose_threshold

FOLDER = pd.DataFrame({"score": np.arange(11) / 10, "map_maximum": np.arange(11) / 20})  # 0, 0.1, ..., 1
REFERENCES = pd.DataFrame({"score": [0.2, 0.5, 0.3, 0.4], "map_maximum": [0.6, 0.7, 0.9, 0.8]})


def test_highest_reference_decides_by_default():
    found = choose_threshold(FOLDER, REFERENCES)
    assert (found.value, found.map_value) == (0.5, 0.9)
    assert found.rule == "above the highest score of 4 normal references, 0.5"
    assert "rough" in found.warnings[0]


def test_quantiles_are_interpolated():
    found = choose_threshold(FOLDER, REFERENCES, threshold_quantile=0.5)
    assert found.value == pytest.approx(0.35)  # between 0.3 and 0.4
    assert found.rule == "above the 0.5-quantile of the scores of 4 normal references, 0.35"
    found = choose_threshold(FOLDER)
    assert found.value == pytest.approx(0.9) and found.map_value == pytest.approx(0.45)
    assert "flags about 10 %" in found.warnings[0]
    found = choose_threshold(FOLDER, REFERENCES, threshold_from="folder", threshold_quantile=0.75)
    assert found.value == pytest.approx(0.75) and "folder's own 11 scores" in found.rule


def test_a_number_decides_alone():
    found = choose_threshold(FOLDER, threshold=0.25)
    assert found.value == 0.25 and math.isnan(found.map_value) and not found.warnings
    assert found.rule == "above 0.25, a number that was given"
    assert choose_threshold(FOLDER, REFERENCES, threshold=0.25).map_value == 0.9


def test_options_that_contradict_each_other():
    refused("there are none", check_rule, None, "references", None, has_references=False)
    refused("expected auto, references or folder", check_rule, None, "median", None, has_references=False)
    refused("expected 0 to 1", check_rule, None, "auto", 1.5, has_references=False)
    refused("finite", check_rule, math.inf, "auto", None, has_references=False)
    refused("leave out it, or", check_rule, 1.0, "auto", 0.5, has_references=False)
