"""zsad_core.pixel_metrics against the exact functions of zsad_core.metrics, and the bounds it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import roc_auc_score

from zsad_core import metrics, pixel_metrics
from zsad_core.pixel_metrics import PixelHistogram, _keys

ROUNDING = 1e-12

KINDS = {
    "ties": lambda rng, shape: rng.integers(-2, 3, shape) / 2,
    "constant": lambda rng, shape: np.full(shape, 0.3),
    "negative": lambda rng, shape: rng.normal(size=shape),
    "saturated": lambda rng, shape: 1 - 1e-7 * rng.integers(0, 30, shape),
    "wide": lambda rng, shape: 10.0 ** rng.uniform(-30, 0, shape),
    "distances": lambda rng, shape: rng.uniform(20, 30, shape),
    "clipped": lambda rng, shape: np.clip(rng.normal(0.5, 0.7, shape), 0, 1),
}


def random_pairs(seed: int, kind: str, n: int = 4, size: int = 8) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images of several sizes, one of them normal, whose anomalous pixels score higher or lower."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n):
        shape = tuple(rng.integers(2, size + 1, 2))
        mask = rng.random(shape) < rng.uniform(0, 0.6)
        mask[0, 0], mask[0, 1] = i > 0, False
        if i == 0:
            mask[:] = False
        maps = KINDS[kind](rng, shape)
        if rng.random() < 0.5:  # the anomalous pixels take the largest scores, in part
            maps = np.where(mask, np.maximum(maps, KINDS[kind](rng, shape)), maps)
        pairs.append((mask, maps.astype(np.float32)))
    return pairs


def exact(pairs, max_fpr: float = 0.3, connectivity: int = 2) -> tuple[float, float, float]:
    masks, maps = zip(*pairs)
    labels, scores = (np.concatenate([image.ravel() for image in images]) for images in (masks, maps))
    return (
        metrics.pixel_auroc(masks, maps),
        metrics.aupro(masks, maps, max_fpr, connectivity),
        metrics.f1_max(labels, scores),
    )


def histogram_of(pairs, **options) -> PixelHistogram:
    histogram = PixelHistogram(**options)
    for mask, maps in pairs:
        histogram.add(mask, maps)
    return histogram


def n_bins(histogram: PixelHistogram) -> int:
    histogram._flush()
    return histogram._low.size


def bounded(histogram: PixelHistogram, max_fpr: float = 0.3) -> list[pixel_metrics.Bounded]:
    return [histogram.pixel_auroc(), histogram.aupro(max_fpr), histogram.f1_max()]


def assert_same_state(one: PixelHistogram, other: PixelHistogram) -> None:
    for histogram in (one, other):
        histogram._flush()
    assert (one.images, one._shift) == (other.images, other._shift)
    np.testing.assert_array_equal(one._low, other._low)
    np.testing.assert_array_equal(one._high, other._high)
    np.testing.assert_allclose(one._sums, other._sums, rtol=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(sorted(KINDS)),
    max_bins=st.integers(2, 40),
    max_fpr=st.sampled_from([0.01, 0.05, 0.3, 0.77, 1.0]),
    connectivity=st.sampled_from([1, 2]),
)
def test_the_exact_value_is_within_the_error(seed, kind, max_bins, max_fpr, connectivity):
    pairs = random_pairs(seed, kind)
    histogram = histogram_of(pairs, connectivity=connectivity, max_bins=max_bins)
    for found, expected in zip(bounded(histogram, max_fpr), exact(pairs, max_fpr, connectivity)):
        assert abs(found.value - expected) <= found.error + ROUNDING
        assert 0 <= found.value <= 1 + ROUNDING
    assert histogram.f1_max().value <= exact(pairs)[2] + ROUNDING


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(KINDS)), st.sampled_from([0.05, 0.3, 1.0]))
def test_few_distinct_scores_are_exact(seed, kind, max_fpr):
    pairs = random_pairs(seed, kind)
    for found, expected in zip(bounded(histogram_of(pairs), max_fpr), exact(pairs, max_fpr)):
        assert found.error == 0
        assert found.value == pytest.approx(expected, abs=ROUNDING)


def test_the_bounds_are_reached():
    """One bin for three pixels, the anomalous one above or below the normal ones; a normal pixel far below.

    The bin is a box of width 2/3 and height 1 in the ROC curve, so no smaller bound would be true.
    """
    mask = [[True, False, False, False]]
    above, below = [[0.30000003, 0.3, 0.3, -5e30]], [[0.3, 0.30000003, 0.30000003, -5e30]]
    for maps, sign in ((above, 1), (below, -1)):
        histogram = histogram_of([(mask, maps)], max_bins=2)
        assert n_bins(histogram) == 2
        assert histogram.pixel_auroc() == pytest.approx((2 / 3, 1 / 3))
        assert histogram.aupro(1.0) == pytest.approx((2 / 3, 1 / 3))
        assert histogram.aupro(2 / 3) == pytest.approx((1 / 2, 1 / 2))
        assert metrics.pixel_auroc([mask], [maps]) == pytest.approx(2 / 3 + sign / 3)
        assert metrics.aupro([mask], [maps], 2 / 3) == pytest.approx(1 / 2 + sign / 2)
    histogram = histogram_of([(mask, above)], max_bins=2)
    assert histogram.aupro(1 / 3) == pytest.approx((1 / 4, 3 / 4))  # the box is cut halfway
    assert histogram.f1_max() == pytest.approx((1 / 2, 1 / 2))
    assert exact([(np.array(mask), np.array(above))], 1 / 3)[1:] == pytest.approx((1, 1))


def smooth_pairs(n: int, size: int, temperature: float, layers: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Smooth maps through a softmax of two logits and summed, with defects in every other image."""
    rng = np.random.default_rng(5)
    pairs = []
    for i in range(n):
        mask = np.zeros((size, size), dtype=bool)
        for row, column in rng.integers(0, size * 3 // 4, (3 * (i % 2), 2)):
            mask[row : row + size // 6, column : column + size // 8] = True
        noise = gaussian_filter(rng.normal(size=mask.shape), 3)
        logits = noise / noise.std() + 1.5 * mask + np.linspace(-2, 0, layers)[:, None, None]
        pairs.append((mask, (1 / (1 + np.exp(-logits / temperature))).sum(axis=0).astype(np.float32)))
    return pairs


@pytest.mark.parametrize(("temperature", "layers"), [(2.0, 1), (0.3, 1), (0.1, 1), (0.3, 4), (0.2, 4)])
def test_softmax_maps_of_a_category_have_small_errors(temperature, layers):
    pairs = smooth_pairs(20, 128, temperature, layers)
    for found, expected in zip(bounded(histogram_of(pairs)), exact(pairs)):
        assert abs(found.value - expected) <= found.error + ROUNDING
        assert 0 < found.error < 1e-4


@pytest.mark.parametrize("point", [0, 1, 2, 3, 4])
def test_scores_that_crowd_at_a_whole_number_keep_their_order(point):
    rng = np.random.default_rng(point)
    mask = rng.random((100, 200)) < 0.2
    crowded = point + (-1.0) ** (point > 0) * 10 ** rng.normal(-4 - 0.5 * mask, 0.5)
    maps = np.where(rng.random(mask.shape) < 0.5, crowded, 10 ** rng.uniform(-9, 0, mask.shape))
    auroc = histogram_of([(mask, maps)], max_bins=2**12).pixel_auroc()
    assert 0 < auroc.error < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_order_of_images_and_batches_does_not_matter(seed, monkeypatch):
    pairs = random_pairs(seed, "negative", n=12)
    whole = histogram_of(pairs, max_bins=50)
    assert whole.pixel_auroc().error > 0
    order = np.random.default_rng(seed).permutation(12)
    for pending in (1, 70, 10_000):
        monkeypatch.setattr(pixel_metrics, "PENDING_PIXELS", pending)
        assert_same_state(whole, histogram_of([pairs[i] for i in order], max_bins=50))


def test_bins_do_not_grow_with_the_number_of_images(monkeypatch):
    monkeypatch.setattr(pixel_metrics, "PENDING_PIXELS", 3000)
    rng = np.random.default_rng(0)
    histogram = PixelHistogram(max_bins=1000)
    for _ in range(200):
        shape = rng.integers(20, 40, 2)
        histogram.add(rng.random(shape) < 0.1, rng.normal(scale=10.0 ** rng.integers(-20, 20), size=shape))
        assert histogram._low.size <= 1000
        assert sum(keys.size for keys in histogram._normal + histogram._anomalous) < 3000
    histogram._flush()
    assert histogram._low.nbytes + histogram._high.nbytes + histogram._sums.nbytes <= 40 * 1000


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("max_bins", [2, 5, 20, 60])
def test_bins_are_joined_no_further_than_needed(kind, max_bins):
    pairs = random_pairs(6, kind)
    keys = np.concatenate([_keys(maps).ravel() for _, maps in pairs])
    sizes = (np.unique(keys >> bits).size for bits in range(64))
    assert n_bins(histogram_of(pairs, max_bins=max_bins)) == next(n for n in sizes if n <= max_bins)


def test_scores_with_a_bin_each_give_scikit_learns_value():
    rng = np.random.default_rng(1)
    mask = rng.random((200, 300)) < 0.2
    maps = (rng.permutation(mask.size).reshape(mask.shape) + 9000.0 * mask).astype(np.float32)
    auroc, pro, f1 = bounded(histogram_of([(mask, maps)]), max_fpr=1.0)
    assert auroc.error == pro.error == f1.error == 0
    assert auroc.value == pytest.approx(roc_auc_score(mask.ravel(), maps.ravel()), abs=ROUNDING)
    weights = metrics._region_weights(mask, 2)
    expected = roc_auc_score(mask.ravel(), maps.ravel(), sample_weight=weights.ravel())
    assert pro.value == pytest.approx(expected, abs=1e-10)


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NEAR_ONE = st.integers(-40, 40).map(lambda steps: float(np.float32(1) + np.float32(steps * 2.0**-24)))


@settings(max_examples=300, deadline=None)
@given(FINITE | NEAR_ONE, FINITE | NEAR_ONE)
def test_keys_are_in_the_order_of_the_scores(a, b):
    a, b = np.float32(a), np.float32(b)
    key_a, key_b = _keys(np.array([a, b]))
    assert (key_a < key_b) == (a < b)
    assert (key_a == key_b) == (a == b)


def test_zero_has_no_sign_and_the_ends_of_float32_have_keys():
    most = np.finfo(np.float32).max
    least = np.finfo(np.float32).smallest_subnormal
    keys = _keys(np.array([-most, -1, -least, -0.0, 0.0, least, 1, most], dtype=np.float32))
    np.testing.assert_array_equal(np.diff(keys) > 0, [True, True, True, False, True, True, True])
    assert keys[3] == keys[4]


@settings(max_examples=50, deadline=None)
@given(st.lists(FINITE, min_size=3, max_size=40, unique=True))
def test_two_bins_are_enough_for_any_scores(scores):
    scores = np.array([scores], dtype=np.float32)
    assume(np.unique(scores).size > 2)
    histogram = histogram_of([(np.arange(scores.size)[None] % 2, scores)], max_bins=2)
    assert n_bins(histogram) <= 2


@pytest.mark.parametrize(
    ("mask", "maps", "message"),
    [
        (np.zeros((3, 3)), np.zeros((3, 4)), r"mask 1 has shape \(3, 3\) and its map \(3, 4\).*resize"),
        (np.zeros((1, 3, 3)), np.zeros((1, 3, 3)), r"\(1, 3, 3\).*expected one \(H, W\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "mask 1: empty"),
        (np.full((3, 3), 255), np.zeros((3, 3)), r"mask 1: found \[255\].*mask > 0"),
        (np.eye(3), np.full((3, 3), np.nan), "map 1: 9 of 9 values are NaN or infinite"),
        (np.eye(3), np.where(np.eye(3), np.inf, 0), "map 1: 3 of 9 values"),
        (np.eye(3), np.full((3, 3), 1e39), "map 1: 9 of 9 values"),
    ],
)
def test_bad_images_are_errors_and_leave_the_histogram_alone(mask, maps, message):
    histogram = histogram_of([(np.eye(2, dtype=bool), np.eye(2))])
    with pytest.raises(ValueError, match=message):
        histogram.add(mask, maps)
    assert_same_state(histogram, histogram_of([(np.eye(2, dtype=bool), np.eye(2))]))


def test_bad_options_are_errors():
    with pytest.raises(ValueError, match="connectivity is 8; expected 1 or 2"):
        PixelHistogram(connectivity=8)
    with pytest.raises(ValueError, match="max_bins is 1; expected 2 or more"):
        PixelHistogram(max_bins=1)
    with pytest.raises(ValueError, match="max_fpr is 30; expected a number"):
        PixelHistogram().aupro(30)
    with pytest.raises(ValueError, match="max_fpr is 0; expected a number"):
        PixelHistogram().aupro(0)
    with pytest.raises(ValueError, match="no images"):
        PixelHistogram().pixel_auroc()


@pytest.mark.parametrize(("value", "present"), [(False, "normal"), (True, "anomalous")])
def test_one_class_alone_is_nan_with_a_warning(value, present):
    histogram = histogram_of([(np.full((3, 4), value), np.random.default_rng(0).random((3, 4)))] * 2)
    for metric in (histogram.pixel_auroc, histogram.aupro, histogram.f1_max):
        with pytest.warns(UndefinedMetricWarning, match=f"undefined: all 24 pixels are {present}"):
            assert np.isnan(metric()).all()


def test_an_image_with_an_empty_mask_counts_as_normal_pixels():
    pairs = random_pairs(4, "negative")
    empty = np.zeros((5, 5), dtype=bool), np.full((5, 5), 9.0, dtype=np.float32)
    found = bounded(histogram_of([*pairs, empty]))
    assert [metric.value for metric in found] == pytest.approx(exact([*pairs, empty]))
    assert found[0].value < histogram_of(pairs).pixel_auroc().value
