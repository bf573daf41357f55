"""SPADE, PaDiM and PatchCore against loops in float64, SciPy and scikit-learn on tiny grids."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import EmpiricalCovariance
from torch.testing import assert_close

from zsad_papers.baselines.few_shot import (
    Prediction,
    default_sigma,
    k_center_greedy,
    padim,
    padim_memory,
    patchcore,
    patchcore_memory,
    spade,
    spade_memory,
)

SHAPES = {"shallow": (3, 3, 4), "deep": (3, 3, 6)}
METHODS = {
    "SPADE": (spade_memory, spade),
    "PaDiM": (padim_memory, padim),
    "PatchCore": (patchcore_memory, patchcore),
}
methods = pytest.mark.parametrize(("fit", "score"), METHODS.values(), ids=METHODS)


def feature_maps(
    n: int, seed: int, shapes: dict[str, tuple[int, int, int]] = SHAPES
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, *shape, generator=generator) for name, shape in shapes.items()}


def joined(maps: dict[str, torch.Tensor]) -> np.ndarray:
    """(n, rows * columns, channels) in float64, for layers of one grid."""
    return torch.cat(list(maps.values()), 3).flatten(1, 2).double().numpy()


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


QUERY, REFERENCES = feature_maps(4, seed=1), feature_maps(5, seed=2)


# SPADE


@pytest.mark.parametrize("neighbours", [2, 3, 50])
def test_spade_against_loops(neighbours: int) -> None:
    scores, maps = [], []
    pooled, memory = (x["deep"].double().mean((1, 2)).numpy() for x in (QUERY, REFERENCES))
    query, references = joined(QUERY), joined(REFERENCES)
    for i in range(4):
        distances = cdist(pooled[i : i + 1], memory)[0]
        nearest = np.argsort(distances)[:neighbours]
        scores.append((distances[nearest] ** 2).mean())
        gallery = references[nearest].reshape(-1, references.shape[2])
        maps.append((cdist(query[i], gallery).min(1) ** 2).reshape(3, 3))
    found = spade(QUERY, spade_memory(REFERENCES), (3, 3), sigma=0, neighbours=neighbours)
    assert_close(found, Prediction(tensor(scores), tensor(maps)))


def test_spade_concatenates_on_the_largest_grid() -> None:
    """A layer with a grid of 1 x 1 is the same vector everywhere."""
    shapes = {"wide": (2, 3, 4), "single": (1, 1, 2)}
    query, references = feature_maps(2, 3, shapes), feature_maps(3, 4, shapes)
    spread = [{"wide": x["wide"], "single": x["single"].expand(-1, 2, 3, -1)} for x in (query, references)]
    expected = spade(spread[0], spade_memory(spread[1]), (2, 3), sigma=0)
    assert_close(spade(query, spade_memory(references), (2, 3), sigma=0), expected)


def test_spade_scores_images_by_the_deepest_layer_unless_told() -> None:
    only_shallow = spade_memory(REFERENCES, layers=["shallow"])
    assert list(only_shallow.maps) == ["shallow"]
    assert_close(only_shallow.vectors, REFERENCES["deep"].mean((1, 2)))
    told = spade_memory(REFERENCES, global_layer="shallow")
    assert list(told.maps) == ["shallow", "deep"]
    assert_close(told.vectors, REFERENCES["shallow"].mean((1, 2)))
    scores = spade(QUERY, only_shallow, (3, 3)).image_scores
    assert_close(scores, spade(QUERY, spade_memory(REFERENCES), (3, 3)).image_scores)


# PaDiM


@pytest.mark.parametrize("m", [1, 2, 5, 40])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_padim_against_an_explicit_inverse(m: int, offset: float) -> None:
    """Many references, few and one; with an offset that would cancel in a careless formula."""
    references = {name: x + offset for name, x in feature_maps(m, 5).items()}
    query = {name: x + offset for name, x in QUERY.items()}
    expected = np.empty((4, 9))
    for p, i in itertools.product(range(9), range(4)):
        at = joined(references)[:, p]
        sample = EmpiricalCovariance().fit(at).covariance_ * m / (m - 1) if m > 1 else 0  # it divides by m
        covariance = sample + 0.01 * np.eye(10)
        expected[i, p] = mahalanobis(joined(query)[i, p], at.mean(0), np.linalg.inv(covariance))
    found = padim(query, padim_memory(references), (3, 3), sigma=0)
    maps = tensor(expected.reshape(4, 3, 3))
    assert_close(found, Prediction(maps.amax((1, 2)), maps), rtol=1e-4, atol=1e-4)


def test_padim_draws_channels_of_all_layers() -> None:
    memory = padim_memory(REFERENCES, dimensions=6, seed=3)
    assert memory.kept.shape == (10,) and int(memory.kept.sum()) == 6
    assert memory.mean.shape == (9, 6) and memory.axes.shape == (9, 5, 6)
    assert_close(memory.mean, tensor(joined(REFERENCES).mean(0)[:, memory.kept.numpy()]))
    reduced = [{"all": torch.cat(list(x.values()), 3)[..., memory.kept]} for x in (QUERY, REFERENCES)]
    assert_close(padim(QUERY, memory, (6, 6)), padim(reduced[0], padim_memory(reduced[1]), (6, 6)))
    assert len({tuple(padim_memory(REFERENCES, dimensions=6, seed=s).kept.tolist()) for s in range(9)}) > 1


def test_padim_repeats_coarse_layers() -> None:
    coarse = feature_maps(3, 6, {"fine": (4, 6, 2), "coarse": (2, 3, 3)})
    repeated = {
        "fine": coarse["fine"],
        "coarse": coarse["coarse"].repeat_interleave(2, 1).repeat_interleave(2, 2),
    }
    assert_close(padim_memory(coarse).mean, padim_memory(repeated).mean)


def test_padim_of_images_is_the_maximum_after_smoothing() -> None:
    found = padim(QUERY, padim_memory(REFERENCES), (30, 30))
    assert_close(found.image_scores, found.maps.amax((1, 2)))


# PatchCore


def patch_features(maps: dict[str, torch.Tensor], channels: int | None) -> np.ndarray:
    """The official order: windows of 3 x 3, resized to the first grid, averaged to `channels`, twice."""

    def average(values: np.ndarray, bins: int) -> np.ndarray:  # (..., d) -> (..., bins)
        d = values.shape[-1]
        ends = [(i * d // bins, -(-(i + 1) * d // bins)) for i in range(bins)]
        return np.stack([values[..., start:stop].mean(-1) for start, stop in ends], -1)

    layers, first = [], next(iter(maps.values())).shape[1:3]
    for x in maps.values():
        n, rows, columns, c = x.shape
        padded = np.pad(x.double().numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.empty((n, rows, columns, c, 9))
        for r, s in itertools.product(range(rows), range(columns)):
            windows[:, r, s] = padded[:, r : r + 3, s : s + 3].reshape(n, 9, c).transpose(0, 2, 1)
        flat = torch.tensor(windows.reshape(n, rows, columns, c * 9)).permute(0, 3, 1, 2)
        flat = F.interpolate(flat, first, mode="bilinear").permute(0, 2, 3, 1).numpy()
        layers.append(
            flat.reshape(*flat.shape[:3], c, 9).mean(-1) if channels is None else average(flat, channels)
        )
    together = np.concatenate(layers, -1)  # (n, *first, d)
    return together if channels is None else average(together, channels)


@pytest.mark.parametrize("channels", [None, 1, 5, 8, 1024])
def test_patch_features_of_the_official_code(channels: int | None) -> None:
    maps = feature_maps(2, 7, {"first": (4, 6, 5), "second": (2, 3, 7)})
    memory = patchcore_memory(maps, coreset=1, channels=channels)
    assert_close(memory.entries, tensor(patch_features(maps, channels)).flatten(0, 2))


def test_512_channels_become_windows_that_count_the_centre_twice() -> None:
    maps = feature_maps(1, 8, {"first": (3, 3, 512), "second": (3, 3, 1024)})
    entries = patchcore_memory(maps, coreset=1).entries  # (9, 1024)
    window = maps["first"][0]
    expected = (window.sum((0, 1)) + window[1, 1]) / 10  # around the centre of the grid
    assert_close(entries[4, :512], expected)
    assert_close(entries[4, 512:], maps["second"][0].mean((0, 1)).unflatten(0, (512, 2)).mean(1))


def test_patchcore_against_loops() -> None:
    memory = patchcore_memory(REFERENCES, coreset=0.5, channels=None)
    assert len(memory.entries) == 22
    features = patch_features(QUERY, None).reshape(4, 9, 10)
    nearest = np.stack([cdist(image, memory.entries.double().numpy()).min(1) for image in features])
    expected = tensor(nearest**2)
    found = patchcore(QUERY, memory, (3, 3), sigma=0)
    assert_close(found, Prediction(expected.amax(1), expected.reshape(4, 3, 3)))
    smoothed = patchcore(QUERY, memory, (30, 30), sigma=9)
    assert_close(smoothed.image_scores, found.image_scores)


@pytest.mark.parametrize("seed", range(5))
def test_coreset_against_an_exhaustive_search(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(12, 3))
    chosen = k_center_greedy(points, 7, seed).tolist()
    expected = chosen[:1]
    while len(expected) < 7:
        rest = [i for i in range(12) if i not in expected]
        expected.append(max(rest, key=lambda i: min(np.linalg.norm(points[i] - points[j]) for j in expected)))
    assert chosen == expected
    assert chosen[:4] == k_center_greedy(points, 4, seed).tolist()


def test_coreset_of_copies_stays_distinct() -> None:
    assert sorted(k_center_greedy(np.ones((6, 2)), 6).tolist()) == list(range(6))
    with pytest.raises(ValueError, match="count=7: expected 1 to 6"):
        k_center_greedy(np.ones((6, 2)), 7)


def test_coreset_is_chosen_in_a_projection_and_keeps_whole_entries() -> None:
    maps = feature_maps(6, 9, {"layer": (5, 5, 200)})
    everything = patchcore_memory(maps, coreset=1, channels=None).entries
    projected, plain = (
        patchcore_memory(maps, coreset=0.3, channels=None, projection=p).entries for p in (3, None)
    )
    for entries in (projected, plain):
        assert entries.shape == (45, 200)
        assert torch.cdist(entries, everything).amin(1).max() < 1e-2
    assert not projected.equal(plain)
    assert plain.equal(everything[k_center_greedy(everything.numpy(), 45)])


# All three


def planted(place: tuple[int, int]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """References, and three queries like them of which the second is odd at one place of a grid of 5 x 8."""
    shapes = {"shallow": (5, 8, 16), "deep": (5, 8, 24)}
    background = feature_maps(1, 10, shapes)
    references, query = (
        {name: background[name] + 0.1 * noise for name, noise in feature_maps(n, seed, shapes).items()}
        for n, seed in ((6, 11), (3, 12))
    )
    for x in query.values():
        x[1, place[0], place[1]] += 6
    return references, query


@methods
@pytest.mark.parametrize("place", [(0, 7), (4, 1), (2, 5)])
@pytest.mark.parametrize("shots", [1, 6])
def test_an_odd_patch_is_found_where_it_is(
    fit: Callable, score: Callable, place: tuple[int, int], shots: int
) -> None:
    references, query = planted(place)
    memory = fit({name: x[:shots] for name, x in references.items()})
    grid = score(query, memory, (5, 8), sigma=0)
    found = divmod(int(grid.maps[1].argmax()), 8)
    window = 1 if score is patchcore else 0  # whose patches stand for their neighbours as well
    assert max(abs(found[0] - place[0]), abs(found[1] - place[1])) <= window
    large = score(query, memory, (50, 80), sigma=1)
    found = divmod(int(large.maps[1].argmax()), 80)
    centre = 10 * place[0] + 4.5, 10 * place[1] + 4.5
    assert max(abs(found[0] - centre[0]), abs(found[1] - centre[1])) < 5 + 10 * window
    assert int(grid.image_scores.argmax()) == int(large.image_scores.argmax()) == 1


@methods
def test_a_query_does_not_depend_on_its_batch(fit: Callable, score: Callable) -> None:
    references, query = planted((1, 2))
    memory = fit(references)
    together = score(query, memory, (20, 32))
    for i in range(3):
        alone = score({name: x[i : i + 1] for name, x in query.items()}, memory, (20, 32))
        assert alone.image_scores.equal(together.image_scores[i : i + 1]) and alone.maps.equal(
            together.maps[i : i + 1]
        )
    none = score({name: x[:0] for name, x in query.items()}, memory, (20, 32))
    assert none.image_scores.shape == (0,) and none.maps.shape == (0, 20, 32)


@methods
def test_a_reference_is_normal(fit: Callable, score: Callable) -> None:
    one = {name: x[:1] for name, x in REFERENCES.items()}
    found = score(one, fit(one, **({"coreset": 1} if score is patchcore else {})), (12, 12))
    assert_close(found, Prediction(torch.zeros(1), torch.zeros(1, 12, 12)), rtol=0, atol=1e-5)


@methods
def test_seeded_without_touching_the_global_state(fit: Callable, score: Callable) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    runs = [score(QUERY, fit(REFERENCES), (9, 9)) for _ in range(2)]
    assert torch.get_rng_state().equal(before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert runs[0].maps.equal(runs[1].maps) and runs[0].image_scores.equal(runs[1].image_scores)


@methods
def test_maps_are_upsampled_then_smoothed(fit: Callable, score: Callable) -> None:
    memory = fit(REFERENCES)
    grid, large, smooth = (
        score(QUERY, memory, size, sigma=sigma).maps
        for size, sigma in (((3, 3), 0), ((28, 40), 0), ((28, 40), None))
    )
    assert_close(large, F.interpolate(grid[:, None], (28, 40), mode="bilinear", align_corners=False)[:, 0])
    assert default_sigma((28, 40)) == 0.5
    assert_close(smooth, torch.stack([tensor(gaussian_filter(x.numpy(), 0.5)) for x in large]))
    assert smooth.dtype == torch.float32 and score(QUERY, memory, (7, 5)).maps.shape == (4, 7, 5)


@methods
def test_only_named_layers_count(fit: Callable, score: Callable) -> None:
    memory = fit(REFERENCES, layers=["deep"])
    other = QUERY | {"shallow": QUERY["shallow"] * 100, "more": torch.zeros(4, 1, 1, 1)}
    assert_close(score(QUERY, memory, (6, 6)), score(other, memory, (6, 6)))
    assert_close(score(QUERY, memory, (6, 6)), score({"deep": QUERY["deep"]}, memory, (6, 6)))


@methods
def test_other_precisions_and_gradients_are_taken(fit: Callable, score: Callable) -> None:
    expected = score(QUERY, fit(REFERENCES), (6, 6))
    double = {name: x.double().requires_grad_() for name, x in QUERY.items()}
    assert_close(score(double, fit(REFERENCES), (6, 6)), expected)


@methods
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {}, "layers none; expected at least one"),
        (lambda m: {name: x[:0] for name, x in m.items()}, "expected one number, at least 1"),
        (lambda m: m | {"deep": m["deep"][:2]}, "expected one number, at least 1"),
        (
            lambda m: m | {"deep": m["deep"][..., 0]},
            r"deep is \(5, 3, 3\); expected \(n, rows, columns, channels\)",
        ),
        (lambda m: m | {"deep": m["deep"] * torch.nan}, "deep holds NaN or infinite"),
    ],
)
def test_bad_references(fit: Callable, score: Callable, change: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^references: .*{message}"):
        fit(change(REFERENCES))


@methods
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"shallow": m["shallow"]}, "layers shallow; expected deep"),
        (
            lambda m: m | {"deep": m["deep"][..., :5]},
            r"\(3, 3, 5\), in the references \(3, 3, 6\); take both",
        ),
        (lambda m: m | {"deep": m["deep"][:, :2]}, r"\(2, 3, 6\), in the references \(3, 3, 6\); take both"),
        (lambda m: m | {"deep": m["deep"][:1]}, "expected one number"),
        (lambda m: m | {"deep": m["deep"] / 0}, "deep holds NaN or infinite"),
    ],
)
def test_bad_queries(fit: Callable, score: Callable, change: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"^queries: .*{message}"):
        score(change(QUERY), fit(REFERENCES), (6, 6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: padim_memory(REFERENCES, epsilon=0), "epsilon=0: expected a number above 0"),
        (lambda: padim_memory(REFERENCES, dimensions=0), "dimensions=0: expected 1 or more"),
        (lambda: padim_memory(REFERENCES, layers=["layer9"]), "layers shallow, deep; expected layer9"),
        (lambda: spade_memory(REFERENCES, global_layer="layer4"), "layers shallow, deep; expected layer4"),
        (lambda: spade(QUERY, spade_memory(REFERENCES), (6, 0)), "width=0: expected 1 or more"),
        (lambda: padim(QUERY, padim_memory(REFERENCES), (6, 6), sigma=-1), "sigma=-1: expected 0 or more"),
        (lambda: patchcore_memory(REFERENCES, coreset=0), "coreset=0: expected a fraction"),
        (lambda: patchcore_memory(REFERENCES, coreset=10), "coreset=10: expected a fraction"),
        (lambda: patchcore_memory(REFERENCES, neighbourhood=2), "neighbourhood=2: expected an odd number"),
        (lambda: patchcore_memory(REFERENCES, channels=0), "channels=0: expected 1 or more"),
    ],
)
def test_bad_arguments(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
