"""metrics against scikit-learn and definitions written out; pixel_metrics against metrics, maps by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label, regionprops
from sklearn.metrics import auc, f1_score

from zsad_core.image_features import TileFeatures
from zsad_core.images import boxes_of
from zsad_core.metrics import UndefinedMetricWarning, aupr, aupro, auroc, f1_max, ranked_metrics
from zsad_core.pixel_metrics import PixelHistogram, image_maps


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


@given(labelled_scores(), st.integers(0, 99))
def test_samples_have_the_metrics_of_their_images(data, seed):
    counts = np.random.default_rng(seed).integers(0, 3, (3, len(data[0]))) + (np.arange(len(data[0])) < 2)
    alone = [[values.repeat(own) for values in data] for own in counts]
    for name, metric in {"auroc": auroc, "aupr": aupr, "f1max": f1_max}.items():
        np.testing.assert_allclose(ranked_metrics(*data, counts)[name], [metric(*own) for own in alone])


def test_bad_scores_and_maps_are_errors():
    for metric in (auroc, aupr, f1_max):
        refused("1 of 2 values are NaN or infinite", metric, [0, 1], [0.1, np.inf])
        refused(r"found \[2\]; expected only 0", metric, [0, 2], [0.1, 0.2])
        refused(r"shape \(3,\), scores: shape \(2,\)", metric, [0, 1, 1], [0.1, 0.2])
        refused("at least one value", metric, [], [])
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
    with pytest.warns(UndefinedMetricWarning, match="undefined: all 18 labels are"):
        assert np.isnan(histogram_of(zip(masks, maps)).metrics()).all()


def histogram_of(pairs):
    histogram = PixelHistogram()
    for mask, maps in pairs:
        histogram.add(mask, maps)
    return histogram


def exact(pairs, max_fpr=0.3):
    masks, maps = zip(*pairs)
    labels, scores = (np.concatenate([image.ravel() for image in images]) for images in (masks, maps))
    pro = aupro(masks, maps, max_fpr)
    return auroc(labels, scores), pro, f1_max(labels, scores)


def published_pro(pairs, max_fpr=0.3):
    """The loops of AnomalyCLIP's code, in numbers of pixels."""
    low, high = (float(end([end(x) for _, x in pairs])) for end in (np.min, np.max))
    regions = [(x, part.coords.T) for mask, x in pairs for part in regionprops(label(mask))]
    normal = np.concatenate([x[~mask] for mask, x in pairs])
    fpr, pro = [], []
    for threshold in np.arange(low, high, (high - low) / 200):
        pro.append(np.mean([(x[tuple(at)] > threshold).sum() / at.shape[1] for x, at in regions]))
        fpr.append((normal > threshold).sum() / len(normal))
    kept = np.array(fpr) < max_fpr
    fpr = np.array(fpr)[kept]
    if len(set(fpr)) < 2:
        return np.nan  # it divides by zero
    return auc((fpr - fpr.min()) / (fpr.max() - fpr.min()), np.array(pro)[kept])


def smooth_pairs(temperature, layers):
    """Smooth maps through a softmax of two logits, the mean over layers; defects in every other one."""
    rng = np.random.default_rng(5)
    pairs = []
    for i in range(8):
        mask = np.zeros((128, 128), dtype=bool)
        for row, column in rng.integers(0, 96, (3 * (i % 2), 2)):
            mask[row : row + 21, column : column + 16] = True
        noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), 3)
        logits = noise / noise.std() + 1.5 * mask + np.linspace(-2, 0, layers)[:, None, None]
        pairs.append((mask, (1 / (1 + np.exp(-logits / temperature))).mean(axis=0).astype(np.float32)))
    return pairs


def noisy_pairs(scores):
    """`scores` of a random generator and a mask; an image has few anomalous pixels."""
    rng = np.random.default_rng(0)
    masks = rng.random((8, 60, 80)) < 0.1
    return [(mask, scores(rng, mask).astype(np.float32)) for mask in masks]


@pytest.mark.parametrize(
    "pairs",
    [
        *(smooth_pairs(temperature, layers) for layers, temperature in ((1, 2.0), (1, 0.05), (4, 0.07))),
        noisy_pairs(lambda rng, mask: rng.random(mask.shape)),
        noisy_pairs(lambda rng, mask: rng.integers(0, 3, mask.shape) / 2 + rng.integers(0, 2) * mask),  # ties
        noisy_pairs(lambda rng, mask: np.clip(rng.normal(0.5 + 0.3 * mask, 0.7), 0, 1)),  # half at 0 and 1
        noisy_pairs(lambda rng, mask: 1 - 1e-7 * rng.integers(0, 30, mask.shape)),  # neighbours of 1
        noisy_pairs(lambda rng, mask: 10.0 ** rng.uniform(-30, 0, mask.shape) * (1 + mask)),
        noisy_pairs(lambda rng, mask: rng.normal(mask)),  # of both signs
        noisy_pairs(lambda rng, mask: rng.uniform(20, 30 + 3 * mask)),  # distances
    ],
)
def test_metrics_are_the_exact_ones_within_the_stated_error(pairs):
    histogram = histogram_of(pairs)
    *found, pro200 = histogram.metrics()
    np.testing.assert_allclose(found, exact(pairs), atol=1e-4)
    np.testing.assert_allclose(pro200, published_pro(pairs), atol=1e-3)
    np.testing.assert_allclose(histogram.metrics(max_fpr=0.05).pro, exact(pairs, 0.05)[1], atol=1e-4)


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 1.0]))
def test_few_distinct_scores_are_exact_in_any_order_of_images(seed, max_fpr):
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(2, 9, 2)) for _ in range(4)]
    pairs = [(rng.random(shape) < 0.3, (rng.integers(-20, 30, shape) / 8)) for shape in shapes]
    pairs[0][0][:] = False
    pairs[1][0][0, :2] = True, False
    found = histogram_of(pairs).metrics(max_fpr)
    np.testing.assert_allclose(found[:3], exact(pairs, max_fpr), atol=1e-12)
    np.testing.assert_allclose(histogram_of(pairs[::-1]).metrics(max_fpr), found, atol=1e-12)


def test_memory_does_not_grow_with_the_number_of_images():
    rng = np.random.default_rng(0)
    histogram = histogram_of([(rng.random((20, 30)) < 0.1, rng.random((20, 30)) ** 3) for _ in range(50)])
    before = histogram._sums.nbytes
    for _ in range(50):
        histogram.add(rng.random((20, 30)) < 0.1, 0.1 + 0.8 * rng.random((20, 30)))
    assert histogram._sums.nbytes == before < 10 * 2**20


def test_bad_images_are_errors_and_leave_the_histogram_alone():
    histogram, zeros = histogram_of([(np.eye(2, dtype=bool), np.eye(2))]), np.zeros((3, 3))
    refused(r"mask 1: shape \(3, 3\), map 1: shape \(3, 4\)", histogram.add, zeros, np.zeros((3, 4)))
    refused("mask 1: empty", histogram.add, zeros[:0], zeros[:0])
    refused(r"mask 1: found \[255\]", histogram.add, np.full((3, 3), 255), zeros)
    refused("map 1: 9 of 9 values", histogram.add, np.eye(3), zeros + np.nan)
    refused("map 1: 9 of 9 values", histogram.add, np.eye(3), zeros + 1e39)
    assert histogram.images == 1 and histogram.metrics()[:3] == (1, 1, 1)
    refused("max_fpr is 30", histogram.metrics, 30)


def tiled(width, height, boxes):
    owner = np.zeros(len(boxes), int)
    return TileFeatures(pd.DataFrame(index=[0]), np.array([[height, width]]), owner, np.array(boxes), {})


def test_overlapping_tiles_are_averaged():
    maps = torch.tensor([1.0, 3.0])[:, None, None].expand(2, 5, 5)
    row = [1, 1, 2, 2, 3, 3]
    (wide,) = image_maps(tiled(6, 4, boxes_of(6, 4, "tiles")), maps)
    np.testing.assert_allclose(wide, [row] * 4)
    (tall,) = image_maps(tiled(4, 6, boxes_of(4, 6, "tiles")), maps)
    np.testing.assert_allclose(tall, np.transpose([row] * 4))
    (cut,) = image_maps(tiled(6, 4, [(1, 0, 5, 4)]), maps[:1])
    np.testing.assert_allclose(cut, [[np.nan, 1, 1, 1, 1, np.nan]] * 4)  # the ends are not known
    grid = torch.arange(4.0).reshape(1, 1, 2, 2)
    (smooth,) = image_maps(tiled(8, 6, [(0, 0, 8, 6)]), grid[0], sigma=1.5)
    expected = ndimage.gaussian_filter(F.interpolate(grid, (6, 8), mode="bilinear")[0, 0], 1.5)
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)
