"""SPADE, PaDiM and PatchCore against loops in float64, SciPy and scikit-learn on tiny grids."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import EmpiricalCovariance
from torch.testing import assert_close

from zsad_core.methods import Output
from zsad_papers.baselines import few_shot
from zsad_papers.baselines.few_shot import padim, padim_memory, patchcore, patchcore_memory, spade_distances

SHAPES = {"shallow": (3, 3, 4), "deep": (3, 3, 6)}
LAYERS = list(SHAPES)


def spade(query, references, layers, global_layer, size):
    return few_shot.spade(*spade_distances(query, references, layers, global_layer), size)


METHODS = {
    "SPADE": lambda query, normal, size: spade(query, normal, LAYERS, "deep", size),
    "PaDiM": lambda query, normal, size: padim(query, padim_memory(normal, LAYERS), size),
    "PatchCore": lambda query, normal, size: patchcore(query["deep"], patchcore_memory(normal["deep"]), size),
}
methods = pytest.mark.parametrize("score", METHODS.values(), ids=METHODS)


def feature_maps(n, seed, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, *shape, generator=generator) for name, shape in shapes.items()}


def joined(maps):
    """(n, rows * columns, channels) in float64, for layers of one grid."""
    return torch.cat(list(maps.values()), 3).flatten(1, 2).double().numpy()


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float32)


QUERY, REFERENCES = feature_maps(4, seed=1), feature_maps(5, seed=2)


@pytest.mark.parametrize("neighbours", [2, 3, 50])
def test_spade_against_loops(neighbours, monkeypatch):
    scores, maps = [], []
    pooled, memory = (x["deep"].double().mean((1, 2)).numpy() for x in (QUERY, REFERENCES))
    query, references = joined(QUERY), joined(REFERENCES)
    for i in range(4):
        distances = cdist(pooled[i : i + 1], memory)[0]
        nearest = np.argsort(distances)[:neighbours]
        scores.append((distances[nearest] ** 2).mean())
        gallery = references[nearest].reshape(-1, references.shape[2])
        maps.append((cdist(query[i], gallery).min(1) ** 2).reshape(3, 3))
    monkeypatch.setattr(few_shot, "NEIGHBOURS", neighbours)
    found = spade(QUERY, REFERENCES, LAYERS, "deep", (3, 3))
    assert_close(found, Output(tensor(scores), tensor(maps)))
    alone = spade(QUERY, REFERENCES, ["shallow"], "deep", (3, 3))
    assert_close(alone.scores, found.scores)
    assert not torch.equal(alone.maps, found.maps)


def test_coarse_layers_are_repeated_on_the_largest_grid():
    shapes = {"shallow": (4, 6, 2), "deep": (2, 3, 3)}
    coarse = feature_maps(3, 6, shapes)
    fine = coarse | {"deep": coarse["deep"].repeat_interleave(2, 1).repeat_interleave(2, 2)}
    assert_close(padim_memory(coarse, LAYERS).mean, padim_memory(fine, LAYERS).mean)
    shapes = {"shallow": (2, 3, 4), "deep": (1, 1, 2)}
    few, query = feature_maps(3, 4, shapes), feature_maps(2, 3, shapes)
    spread = [x | {"deep": x["deep"].expand(-1, 2, 3, -1)} for x in (query, few)]
    assert_close(METHODS["SPADE"](query, few, (2, 3)), METHODS["SPADE"](*spread, (2, 3)))


@pytest.mark.parametrize("m", [1, 2, 40])
def test_padim_against_an_explicit_inverse(m):
    """Many references, few and one; with an offset that would cancel in a careless formula."""
    references = {name: x + 100 for name, x in feature_maps(m, 5).items()}
    query = {name: x + 100 for name, x in QUERY.items()}
    expected = np.empty((4, 9))
    for p, i in itertools.product(range(9), range(4)):
        at = joined(references)[:, p]
        sample = EmpiricalCovariance().fit(at).covariance_ * m / (m - 1) if m > 1 else 0  # it divides by m
        covariance = sample + 0.01 * np.eye(10)
        expected[i, p] = mahalanobis(joined(query)[i, p], at.mean(0), np.linalg.inv(covariance))
    found = padim(query, padim_memory(references, LAYERS), (3, 3))
    maps = tensor(expected.reshape(4, 3, 3))
    assert_close(found, Output(maps.amax((1, 2)), maps), rtol=1e-4, atol=1e-4)


def test_padim_draws_channels_of_all_layers(monkeypatch):
    monkeypatch.setattr(few_shot, "DIMENSIONS", 6)
    memory = padim_memory(REFERENCES, LAYERS, seed=3)
    assert memory.channels.shape == (10,) and int(memory.channels.sum()) == 6
    assert memory.mean.shape == (9, 6) and memory.axes.shape == (9, 5, 6)
    assert_close(memory.mean, tensor(joined(REFERENCES).mean(0)[:, memory.channels.numpy()]))
    reduced = [{"all": torch.cat(list(x.values()), 3)[..., memory.channels]} for x in (QUERY, REFERENCES)]
    expected = padim(reduced[0], padim_memory(reduced[1], ["all"]), (6, 6))
    assert_close(padim(QUERY, memory, (6, 6)), expected)
    assert len({tuple(padim_memory(REFERENCES, LAYERS, s).channels.tolist()) for s in range(9)}) > 1


def patch_features(maps, channels):
    """The official order: windows of 3 x 3, resized to the first grid, averaged to `channels`, twice."""

    def average(values):  # (..., d) -> (..., channels)
        d = values.shape[-1]
        ends = [(i * d // channels, -(-(i + 1) * d // channels)) for i in range(channels)]
        return np.stack([values[..., start:stop].mean(-1) for start, stop in ends], -1)

    layers, first = [], next(iter(maps.values())).shape[1:3]
    for x in maps.values():
        n, rows, columns, c = x.shape
        padded = np.pad(x.double().numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.empty((n, rows, columns, c, 9))
        for r, s in itertools.product(range(rows), range(columns)):
            windows[:, r, s] = padded[:, r : r + 3, s : s + 3].reshape(n, 9, c).transpose(0, 2, 1)
        flat = torch.tensor(windows.reshape(n, rows, columns, c * 9)).permute(0, 3, 1, 2)
        layers.append(average(F.interpolate(flat, first, mode="bilinear").permute(0, 2, 3, 1).numpy()))
    return average(np.concatenate(layers, -1))  # (n, *first, channels)


@pytest.mark.parametrize("channels", [1, 5, 8, 1024])
def test_patch_features_of_the_official_code(channels, monkeypatch):
    monkeypatch.setattr(few_shot, "CHANNELS", channels)
    maps = feature_maps(2, 7, {"first": (4, 6, 5), "second": (2, 3, 7)})
    assert_close(few_shot.locally_aware(maps), tensor(patch_features(maps, min(channels, 12))))


def test_patchcore_against_loops(monkeypatch):
    assert len(patchcore_memory(REFERENCES["deep"])) == 4  # a tenth of 45, rounded down
    assert (few_shot.NEIGHBOURS, few_shot.DIMENSIONS, few_shot.PROJECTION) == (50, 550, 128)
    monkeypatch.setattr(few_shot, "CORESET", 0.5)
    entries = patchcore_memory(REFERENCES["deep"])
    assert len(entries) == 22
    features = QUERY["deep"].flatten(1, 2).double().numpy()
    nearest = tensor(np.stack([cdist(image, entries.double().numpy()).min(1) for image in features]) ** 2)
    found = patchcore(QUERY["deep"], entries, (3, 3))
    assert_close(found, Output(nearest.amax(1), nearest.reshape(4, 3, 3)))
    assert_close(patchcore(QUERY["deep"], entries, (300, 300)).scores, found.scores)  # before smoothing


@pytest.mark.parametrize("seed", range(2))
def test_coreset_against_an_exhaustive_search(seed):
    points = np.random.default_rng(seed).normal(size=(12, 3))
    chosen = few_shot.k_center_greedy(points, 7, seed).tolist()
    expected = chosen[:1]
    while len(expected) < 7:
        rest = [i for i in range(12) if i not in expected]
        expected.append(max(rest, key=lambda i: min(np.linalg.norm(points[i] - points[j]) for j in expected)))
    assert chosen == expected
    copies = few_shot.k_center_greedy(np.ones((6, 2)), 6).tolist()
    assert sorted(copies) == list(range(6)), "copies stay distinct"


@methods
def test_maps_are_upsampled_then_smoothed(score):
    """By 4 pixels at a height of 224, in proportion at others: at 3 pixels the filter has no width."""
    grid, found = (score(QUERY, REFERENCES, size).maps for size in ((3, 3), (56, 40)))
    large = F.interpolate(grid[:, None], (56, 40), mode="bilinear", align_corners=False)[:, 0]
    assert_close(found, torch.stack([tensor(gaussian_filter(x.numpy(), 1.0)) for x in large]))


@methods
def test_seeded_and_batch_by_batch(score):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = score(QUERY, REFERENCES, (9, 9))
    assert torch.get_rng_state().equal(before)
    for i in range(4):
        alone = score({name: x[i : i + 1] for name, x in QUERY.items()}, REFERENCES, (9, 9))
        assert alone.scores.equal(together.scores[i : i + 1]) and alone.maps.equal(together.maps[i : i + 1])


@methods
def test_bad_features(score):
    few, deep = QUERY["deep"], REFERENCES["deep"]
    for query, references, message in (
        (few, deep[:0], "references: .*(the same n >= 1|expected)"),
        (few, deep[..., 0], r"references: .*\(5, 3, 3\); expected \(n, rows"),
        (few, deep * torch.nan, "references: .*holds NaN or infinite"),
        (few / 0, deep, "queries: .*holds NaN or infinite"),
        (few[..., :5], deep, r"queries: .*\(3, 3, 5\), in the references \(3, 3, 6\)"),
    ):
        refused(message, score, QUERY | {"deep": query}, REFERENCES | {"deep": references}, (6, 6))


def test_layers_that_are_missing_or_of_another_number():
    memory, fewer = padim_memory(REFERENCES, LAYERS), REFERENCES | {"deep": REFERENCES["deep"][:2]}
    without = "references: layers shallow, deep; expected layer4"
    refused(without, spade, QUERY, REFERENCES, LAYERS, "layer4", (6, 6))
    refused("queries: layers shallow; expected deep", padim, {"shallow": QUERY["shallow"]}, memory, (6, 6))
    refused("the same n >= 1 for all layers", padim_memory, fewer, LAYERS)
