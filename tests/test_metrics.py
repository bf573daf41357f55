"""zsad_core.metrics against scikit-learn, definitions written out, and its error cases."""

import numpy as np
import pytest
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import f1_score

from zsad_core.metrics import aupr, aupro, auroc, f1_max


@st.composite
def labelled_scores(draw):
    """Both classes present, scores on a coarse grid so that ties occur."""
    n = draw(st.integers(2, 30))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    labels[:2] = 0, 1
    scores = np.array(draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    return labels, scores


@given(labelled_scores())
def test_auroc_is_the_share_of_ordered_pairs(data):
    labels, scores = data
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    differences = anomalous[:, None] - normal[None]
    pairs = np.mean((differences > 0) + 0.5 * (differences == 0))
    np.testing.assert_allclose(auroc(labels, scores), pairs, rtol=1e-12)
    np.testing.assert_allclose(auroc(labels, -scores), 1 - pairs, atol=1e-12)


@given(labelled_scores())
def test_f1_max_is_the_best_over_all_thresholds(data):
    labels, scores = data
    best = max(f1_score(labels, scores >= t, zero_division=0) for t in np.unique(scores))
    np.testing.assert_allclose(f1_max(labels, scores), best, rtol=1e-12)


@given(labelled_scores())
def test_aupr_steps_are_precision_weighted_by_recall_gains(data):
    labels, scores = data
    area, recall_before = 0.0, 0.0
    for t in np.unique(scores)[::-1]:
        above = scores >= t
        recall = labels[above].sum() / labels.sum()
        area += (recall - recall_before) * labels[above].mean()
        recall_before = recall
    np.testing.assert_allclose(aupr(labels, scores), area, rtol=1e-12)


def test_bad_image_scores_are_errors():
    for metric in (auroc, aupr, f1_max):
        refused("1 of 2 values are NaN or infinite", metric, [0, 1], [0.1, np.inf])
        refused(r"found \[2\]; expected only 0", metric, [0, 2], [0.1, 0.2])
        refused(r"shape \(3,\), scores: shape \(2,\)", metric, [0, 1, 1], [0.1, 0.2])
        refused("at least one value", metric, [], [])


def test_bad_maps_are_errors():
    refused("2 masks and 1 maps", aupro, np.zeros((2, 3, 3)), np.zeros((1, 3, 3)))
    refused(r"mask 0: shape \(3, 3\), map 0: shape \(3, 4\)", aupro, np.zeros((1, 3, 3)), np.zeros((1, 3, 4)))
    refused("mask > 0", aupro, np.full((1, 3, 3), 255), np.zeros((1, 3, 3)))


def brute_force_aupro(masks, maps, max_fpr):
    """Overlap and false-positive rate at every threshold, by region; trapezoid up to max_fpr."""
    regions = []  # (image, pixels of one region)
    for i, mask in enumerate(masks):
        labelled, n = ndimage.label(mask, np.ones((3, 3)))
        regions += [(i, labelled == k) for k in range(1, n + 1)]
    points = [(0.0, 0.0)]
    for t in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        overlap = np.mean([(maps[i][r] >= t).mean() for i, r in regions])
        false = sum(((m >= t) & ~k).sum() for m, k in zip(maps, masks, strict=True))
        points.append((false / sum((~k).sum() for k in masks), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            x1, y1 = max_fpr, y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 1.0, None]))
def test_aupro_is_the_brute_force_sum(seed, max_fpr):
    """Images of different sizes are pooled, regions touch by corners, and 0.3 is the limit unless told."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < 0.3 for shape in ((5, 6), (4, 7), (6, 6))]
    masks[0][:] = False  # a normal image
    masks[1][0, 0], masks[1][3, 4] = True, False
    maps = [np.round(rng.random(mask.shape) + 0.5 * mask, 1) for mask in masks]  # ties
    expected = brute_force_aupro(masks, maps, max_fpr or 0.3)
    found = aupro(masks, maps, *([max_fpr] if max_fpr else []))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    refused("max_fpr is 0", aupro, masks, maps, max_fpr=0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_is_nan_with_a_warning(label):
    masks, maps = np.full((2, 3, 3), label), np.random.default_rng(0).random((2, 3, 3))
    for metric in (auroc, aupr, f1_max, aupro):
        with pytest.warns(UndefinedMetricWarning, match="undefined"):
            given = (masks, maps) if metric is aupro else (3 * [label], [0.1, 0.2, 0.3])
            assert np.isnan(metric(*given))
