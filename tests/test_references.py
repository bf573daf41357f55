import numpy as np
import pytest
import torch
from helpers import by_patch, refused

from zsad_core import references
from zsad_core.references import Memory, association, image_similarity_score, reference_maps, winclip_plus
from zsad_core.windows import window_indices

RNG = np.random.default_rng(0)
GRID = (3, 4)


def distance(a, b):
    return (1 - a @ b / np.sqrt((a @ a) * (b @ b))) / 2


def test_association_is_the_nearest_of_all():
    query, memory = RNG.normal(size=(3, 5, 8)), RNG.normal(size=(11, 8))
    expected = [[min(distance(q, m) for m in memory) for q in image] for image in query]
    for chunk in (8192, 4, 1):
        np.testing.assert_allclose(association(query, memory, chunk=chunk), expected, atol=1e-6)


def features(n, seed):
    """Patch tokens (n, 12, 5) and windows (n, n_windows, 8) of n images."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((12, 5), (6, 8), (2, 8))
    patches, small, large = (torch.randn(n, *shape, generator=generator) for shape in shapes)
    return patches, {2: small, 3: large}


@pytest.mark.parametrize("aggregate", ["harmonic", "arithmetic"])
def test_reference_maps_against_loops(aggregate):
    patches, windows = features(2, seed=0)
    kept_patches, kept_windows = features(3, seed=1)
    memory = Memory(kept_patches.flatten(0, 1), {n: x.flatten(0, 1) for n, x in kept_windows.items()})
    maps = reference_maps(patches, windows, memory, GRID, aggregate)
    assert list(maps) == ["P", "W2", "W3"]

    def nearest(vector, references):
        return min(distance(vector.numpy(), r) for image in references.numpy() for r in image)

    for i in range(2):
        tokens = np.reshape([nearest(v, kept_patches) for v in patches[i]], GRID)
        np.testing.assert_allclose(maps["P"][i], tokens, atol=1e-6)
        for size in (2, 3):
            distances = [nearest(v, kept_windows[size]) for v in windows[size][i]]
            expected = by_patch(distances, window_indices(GRID, size).tolist(), GRID, aggregate)
            np.testing.assert_allclose(maps[f"W{size}"][i], expected, rtol=1e-4)


def test_parts_of_winclip_plus():
    language = torch.tensor([0.6, 0.1])
    zero_shot = torch.tensor([[[0.5, 0.25]], [[1.0, 0.0]]])
    maps = [torch.tensor([[[0.1, 0.3]], [[0.2, 0.0]]]), torch.tensor([[[0.3, 0.1]], [[0.4, 0.2]]])]
    visual = [[[0.2, 0.2]], [[0.3, 0.1]]]  # their maximum is not the mean of maxima: 0.2, not 0.3
    np.testing.assert_allclose(winclip_plus(None, zero_shot, maps)[0], [0.2, 0.3], rtol=1e-6)
    harmonic = [[[2 / 7, 2 / 9]], [[6 / 13, 0]]]
    means = {"mean": [[[0.35, 0.225]], [[0.65, 0.05]]], "harmonic": harmonic, "none": visual}
    for fuse, expected in means.items():
        scores, fused = winclip_plus(language, zero_shot, maps, fuse=fuse)
        np.testing.assert_allclose(fused, expected, rtol=1e-6)
        np.testing.assert_allclose(scores, [0.4, 0.2], rtol=1e-6)  # of M^W alone, whatever the map


def test_image_similarity_against_loops():
    query, references = RNG.normal(size=(4, 6, 8)), RNG.normal(size=(3, 6, 8))
    entries = references.reshape(-1, 8)
    expected = [np.mean([min(distance(v, r) for r in entries) for v in image]) for image in query]
    np.testing.assert_allclose(image_similarity_score(query, references), expected)
    places = references.swapaxes(0, 1)  # (v, m, d)
    placed = [np.mean([min(map(distance, 3 * [v], r)) for v, r in zip(image, places)]) for image in query]
    np.testing.assert_allclose(image_similarity_score(query, references, same_view=True), placed)


def test_sampling_without_replacement_nested_and_seeded():
    drawn = references.sample_references(50, 50, seed=2)
    assert sorted(drawn.tolist()) == list(range(50))
    assert references.sample_references(50, 4, seed=2).tolist() == drawn[:4].tolist()
    assert len({tuple(references.sample_references(50, 4, seed=seed)) for seed in range(10)}) == 10


def test_bad_arguments():
    score, maps = torch.zeros(1), torch.zeros(1, *GRID)
    refused("fuse='sum'", winclip_plus, score, maps, [maps], fuse="sum")
    refused("shots=5", references.sample_references, 4, 5)
    refused(r"memory \(0, 8\)", association, np.ones((1, 2, 8)), np.ones((0, 8)))
    refused(r"query \(2, 8\)", image_similarity_score, np.ones((2, 8)), np.ones((3, 6, 8)))
