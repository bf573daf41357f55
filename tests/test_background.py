"""The estimated background, and which share of the false alarms lies on it."""

import numpy as np
import pytest

from zsad_papers.anomalyclip import analysis as anomalyclip_analysis
from zsad_papers.anomalyclip.analysis import shares_above


def plate(hole=200):
    """A dark plate on white ground, with a spot of the ground's colour in it."""
    image = np.full((50, 60, 3), 200, np.uint8)
    image[10:40, 15:45] = 60
    image[20:25, 20:25] = hole
    return image


def test_the_background_is_what_is_joined_to_the_border():
    found, uniform = anomalyclip_analysis.background(plate())
    expected = np.ones((50, 60), bool)
    expected[10:40, 15:45] = False
    np.testing.assert_array_equal(found, expected)  # the spot inside does not belong to it
    assert uniform == 1.0


def test_shares_at_the_best_threshold():
    # ascending; at the two highest bins F1 is 2 * 8 / (8 + 2 + 10), and less at any other threshold
    anomalous, behind, other = [2, 0, 4, 4], [50, 3, 1, 0], [30, 20, 0, 1]
    assert shares_above(np.array([anomalous, behind, other])) == pytest.approx((0.5, 54 / 105))
    clean = shares_above(np.array([[0, 5], [4, 0], [6, 0]]))
    assert np.isnan(clean[0]) and clean[1] == 0.4
