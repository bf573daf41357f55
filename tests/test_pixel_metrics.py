import numpy as np
import pytest
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.exceptions import UndefinedMetricWarning

from zsad_core import metrics
from zsad_core.pixel_metrics import PixelHistogram


def histogram_of(pairs):
    histogram = PixelHistogram()
    for mask, maps in pairs:
        histogram.add(mask, maps)
    return histogram


def exact(pairs, max_fpr=0.3):
    masks, maps = zip(*pairs)
    labels, scores = (np.concatenate([image.ravel() for image in images]) for images in (masks, maps))
    pro = metrics.aupro(masks, maps, max_fpr)
    return metrics.auroc(labels, scores), pro, metrics.f1_max(labels, scores)


def smooth_pairs(temperature, layers):
    """Smooth maps through a softmax of two logits, the mean over layers; defects in every other one."""
    rng = np.random.default_rng(5)
    pairs = []
    for i in range(8):
        mask = np.zeros((128, 128), dtype=bool)
        for row, column in rng.integers(0, 96, (3 * (i % 2), 2)):
            mask[row : row + 21, column : column + 16] = True
        noise = gaussian_filter(rng.normal(size=mask.shape), 3)
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
    np.testing.assert_allclose(histogram.metrics(), exact(pairs), atol=1e-4)
    np.testing.assert_allclose(histogram.metrics(max_fpr=0.05).pro, exact(pairs, 0.05)[1], atol=1e-4)


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 1.0]))
def test_few_distinct_scores_are_exact_in_any_order_of_images(seed, max_fpr):
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(2, 9, 2)) for _ in range(4)]
    pairs = [(rng.random(shape) < 0.3, (rng.integers(-20, 30, shape) / 8)) for shape in shapes]
    pairs[0][0][:] = False
    pairs[1][0][0, :2] = True, False
    found = histogram_of(pairs).metrics(max_fpr)
    np.testing.assert_allclose(found, exact(pairs, max_fpr), atol=1e-12)
    np.testing.assert_allclose(histogram_of(pairs[::-1]).metrics(max_fpr), found, atol=1e-12)


def test_one_class_alone_is_nan_with_a_warning():
    histogram = histogram_of([(np.ones((3, 4), bool), np.random.default_rng(0).random((3, 4)))] * 2)
    with pytest.warns(UndefinedMetricWarning, match="undefined: all 24 labels are anomalous"):
        assert np.isnan(histogram.metrics()).all()


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
    assert histogram.images == 1 and histogram.metrics() == (1, 1, 1)
    refused("max_fpr is 30", histogram.metrics, 30)
