from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad_core.methods import clip
from zsad_core.scores import average_views, prompt_score

RNG = np.random.default_rng(0)


def test_prompt_score_is_the_softmax_of_section_3_1() -> None:
    images, normal, anomalous = RNG.normal(size=(20, 16)), RNG.normal(size=16), RNG.normal(size=16)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return a @ b / np.sqrt((a @ a) * (b @ b))

    expected = []
    for image in images:
        e_n, e_a = np.exp(cosine(image, normal) / 0.2), np.exp(cosine(image, anomalous) / 0.2)
        expected.append(e_a / (e_n + e_a))
    np.testing.assert_allclose(prompt_score(images, normal, anomalous, temperature=0.2), expected)


@settings(max_examples=25, deadline=None)
@given(scales=st.tuples(*[st.floats(1e-3, 1e3)] * 3))
def test_prompt_score_ignores_scale(scales: tuple[float, float, float]) -> None:
    images, normal, anomalous = RNG.normal(size=(5, 8)), RNG.normal(size=8), RNG.normal(size=8)
    scaled = prompt_score(images * scales[0], normal * scales[1], anomalous * scales[2])
    np.testing.assert_allclose(scaled, prompt_score(images, normal, anomalous), rtol=1e-7)


def test_prompt_score_is_stable_and_keeps_close_images_apart() -> None:
    normal, anomalous = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    angles = np.linspace(np.pi / 4, np.pi / 4 + 0.2, 50)  # in float32 the last ones would all be 1.0
    scores = prompt_score(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32), normal, anomalous)
    assert np.all(np.diff(scores) > 0)
    extremes = prompt_score(np.array([[1.0, 0.0], [0.0, 1.0]]), normal, anomalous, temperature=1e-6)
    np.testing.assert_array_equal(extremes, [0.0, 1.0])


def test_views_kinds_and_agreement() -> None:
    views, normal, anomalous = (torch.randn(*shape) for shape in ((4, 6, 8), (8,), (8,)))
    scores = prompt_score(views, normal, anomalous)
    assert isinstance(scores, torch.Tensor) and scores.shape == (4, 6)
    torch.testing.assert_close(scores[:, 2], prompt_score(views[:, 2], normal, anomalous))
    assert isinstance(prompt_score(views.numpy(), normal, anomalous), np.ndarray)
    torch.testing.assert_close(average_views(scores), scores.sum(1) / 6)
    same = views[:, :1].expand(-1, 6, -1)
    torch.testing.assert_close(
        average_views(prompt_score(same, normal, anomalous)), prompt_score(views[:, 0], normal, anomalous)
    )


def test_text_ensemble_is_the_mean_of_normalised_sentences() -> None:
    images, normal, anomalous = RNG.normal(size=(6, 8)), RNG.normal(size=(5, 8)), RNG.normal(size=(3, 8))
    means = [(t / np.linalg.norm(t, axis=1, keepdims=True)).mean(0) for t in (normal, anomalous)]
    np.testing.assert_allclose(prompt_score(images, normal, anomalous), prompt_score(images, *means))


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"image embeddings \(3, 8\), normal \(9,\)"):
        prompt_score(np.ones((3, 8)), np.ones(9), np.ones(9))
    with pytest.raises(ValueError, match="temperature=0"):
        prompt_score(np.ones((3, 8)), np.ones(8), np.ones(8), temperature=0)
    with pytest.raises(ValueError, match="expected \\(n, v\\)"):
        average_views(np.ones(3))


def test_temperature_0_01_of_section_3_1_is_the_default() -> None:
    images, texts = RNG.normal(size=(4, 1, 8)), tuple(RNG.normal(size=(2, 8)))
    expected = prompt_score(images, *texts, temperature=0.01)
    np.testing.assert_array_equal(prompt_score(images, *texts), expected)
    np.testing.assert_array_equal(clip(images, texts).scores, expected[:, 0])
