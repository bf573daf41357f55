from __future__ import annotations

import numpy as np
import pytest
import torch

from zsad_core.references import association, image_similarity_score, sample_references

RNG = np.random.default_rng(0)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return (1 - a @ b / np.sqrt((a @ a) * (b @ b))) / 2


def test_association_is_the_nearest_of_all() -> None:
    query, memory = RNG.normal(size=(3, 5, 8)), RNG.normal(size=(11, 8))
    expected = [[min(distance(q, m) for m in memory) for q in image] for image in query]
    for chunk in (8192, 4, 1):
        np.testing.assert_allclose(association(query, memory, chunk=chunk), expected, atol=1e-6)


def test_association_range_and_kinds() -> None:
    one = np.array([[1.0, 0.0]])
    np.testing.assert_allclose(
        association(np.array([[[2.0, 0], [0, 1], [-3, 0]]]), one), [[0, 0.5, 1]], atol=1e-7
    )
    query = torch.randn(4, 6, 8)
    itself = association(query, query.flatten(0, 1))
    assert isinstance(itself, torch.Tensor) and bool((itself >= 0).all())
    torch.testing.assert_close(itself, torch.zeros(4, 6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("same_view", [False, True])
def test_image_similarity_against_loops(same_view: bool) -> None:
    query, references = RNG.normal(size=(4, 6, 8)), RNG.normal(size=(3, 6, 8))
    expected = []
    for image in query:
        nearest = []
        for v, view in enumerate(image):
            candidates = references[:, v] if same_view else references.reshape(-1, 8)
            nearest.append(min(distance(view, r) for r in candidates))
        expected.append(np.mean(nearest))
    np.testing.assert_allclose(image_similarity_score(query, references, same_view=same_view), expected)


def test_reference_scores_0_and_does_not_depend_on_scale() -> None:
    references = RNG.normal(size=(3, 6, 8))
    np.testing.assert_allclose(image_similarity_score(references, references), np.zeros(3), atol=1e-12)
    query = RNG.normal(size=(2, 6, 8))
    np.testing.assert_allclose(
        image_similarity_score(query * 9, references / 7), image_similarity_score(query, references)
    )
    more = np.concatenate([references, RNG.normal(size=(5, 6, 8))])
    assert np.all(image_similarity_score(query, more) <= image_similarity_score(query, references))


def test_sampling_without_replacement_nested_and_seeded() -> None:
    drawn = sample_references(50, 50, seed=2)
    assert sorted(drawn.tolist()) == list(range(50))
    assert sample_references(50, 4, seed=2).tolist() == drawn[:4].tolist()
    assert len({tuple(sample_references(50, 4, seed=seed)) for seed in range(10)}) == 10
    with pytest.raises(ValueError, match="shots=5: expected 1 to 4"):
        sample_references(4, 5)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"memory \(0, 8\).*m >= 1"):
        association(np.ones((1, 2, 8)), np.ones((0, 8)))
    with pytest.raises(ValueError, match=r"query \(2, 8\)"):
        image_similarity_score(np.ones((2, 8)), np.ones((3, 6, 8)))
    with pytest.raises(ValueError, match="as many views"):
        image_similarity_score(np.ones((2, 1, 8)), np.ones((3, 6, 8)), same_view=True)
