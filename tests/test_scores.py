import math

import numpy as np
import torch
from helpers import refused

from zsad_core.methods import clip
from zsad_core.scores import average_views, prompt_score

RNG = np.random.default_rng(0)


def test_prompt_score_is_the_softmax_of_section_3_1():
    images, normal, anomalous = RNG.normal(size=(20, 16)), RNG.normal(size=(5, 16)), RNG.normal(size=16)
    mean = np.mean([sentence / math.sqrt(sentence @ sentence) for sentence in normal], axis=0)

    def cosine(a, b):
        return a @ b / math.sqrt((a @ a) * (b @ b))

    for temperature, options in ((0.2, {"temperature": 0.2}), (0.01, {})):
        sides = [[math.exp(cosine(i, t) / temperature) for t in (mean, anomalous)] for i in images]
        expected = [a / (n + a) for n, a in sides]
        np.testing.assert_allclose(prompt_score(images, 9 * normal, anomalous / 7, **options), expected)
    np.testing.assert_allclose(clip(images[:, None], (normal, anomalous)).scores, expected)


def test_prompt_score_is_stable_and_keeps_close_images_apart():
    normal, anomalous = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    angles = np.linspace(np.pi / 4, np.pi / 4 + 0.2, 50)  # in float32 the last ones would all be 1.0
    scores = prompt_score(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32), normal, anomalous)
    assert np.all(np.diff(scores) > 0)
    extremes = prompt_score(np.array([[1.0, 0.0], [0.0, 1.0]]), normal, anomalous, temperature=1e-6)
    np.testing.assert_array_equal(extremes, [0.0, 1.0])


def test_views_kinds_and_agreement():
    views, normal, anomalous = (torch.randn(*shape) for shape in ((4, 6, 8), (8,), (8,)))
    scores = prompt_score(views, normal, anomalous)
    assert isinstance(scores, torch.Tensor) and scores.shape == (4, 6)
    torch.testing.assert_close(scores[:, 2], prompt_score(views[:, 2], normal, anomalous))
    assert isinstance(prompt_score(views.numpy(), normal, anomalous), np.ndarray)
    torch.testing.assert_close(average_views(scores), scores.sum(1) / 6)


def test_wrong_shapes():
    refused(r"\(3, 8\), normal \(9,\)", prompt_score, np.ones((3, 8)), np.ones(9), np.ones(9))
    refused("temperature=0", prompt_score, np.ones((3, 8)), np.ones(8), np.ones(8), temperature=0)
    refused("expected \\(n, v\\)", average_views, np.ones(3))
