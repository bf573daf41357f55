import math

import numpy as np
import pytest
import torch
from helpers import by_patch, mean, refused
from hypothesis import given
from hypothesis import strategies as st

from zsad_core.methods import clip
from zsad_core.scores import average_views, prompt_score
from zsad_core.windows import aggregate_windows, combine_scales, upsample, window_indices, zero_shot_map


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), data=st.data())
def test_windows_are_all_valid_blocks_in_row_major_order(rows, columns, data):
    size = data.draw(st.integers(1, min(rows, columns)))
    expected = [
        [(top + i) * columns + left + j for i in range(size) for j in range(size)]
        for top in range(rows - size + 1)
        for left in range(columns - size + 1)
    ]
    np.testing.assert_array_equal(window_indices((rows, columns), size), expected)
    assert [window_indices(15, size).shape for size in (2, 3)] == [(196, 4), (169, 9)]  # ViT-B/16+


@given(grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), data=st.data())
def test_patches_get_the_mean_of_the_windows_that_cover_them(grid, data):
    size = data.draw(st.integers(1, min(grid)))
    shape = 2, (grid[0] - size + 1) * (grid[1] - size + 1)  # two images
    probabilities = st.floats(1e-12, 1) | st.sampled_from([0.0, 1e-300, 1e-40])
    values = data.draw(st.lists(probabilities, min_size=math.prod(shape), max_size=math.prod(shape)))
    scores = torch.tensor(values, dtype=torch.float64).reshape(shape)
    windows = window_indices(grid, size).tolist()
    for average, given_average in (("harmonic", []), ("arithmetic", ["arithmetic"])):
        expected = [by_patch(image, windows, grid, average) for image in scores.tolist()]
        found = aggregate_windows(scores, grid, size, *given_average)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("average", ["harmonic", "arithmetic"])
def test_mean_over_scales_patch_by_patch(average):
    maps = [torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    maps[1][0] = maps[2][0] = 0
    expected = np.apply_along_axis(lambda x: mean(x.tolist(), average), 0, np.stack(maps))
    np.testing.assert_allclose(combine_scales(maps, average), expected, rtol=1e-6)


def test_what_is_refused():
    refused("4 x 4 patches does not fit a grid of 3 x 4", window_indices, (3, 4), 4)
    refused(r"\(1, 5\): expected \(n, 4\).*2 x 2", aggregate_windows, torch.ones(1, 5), (3, 3), 2)
    refused("average 'sum': expected 'harmonic'", combine_scales, [torch.ones(1, 2, 2)], "sum")
    refused("image_scale=True or a window size in scales", zero_shot_map, None, {}, GRID, **TEXTS)
    refused(r"\(3, 8\), normal \(9,\)", prompt_score, np.ones((3, 8)), np.ones(9), np.ones(9))
    refused("temperature=0", prompt_score, np.ones((3, 8)), np.ones(8), np.ones(8), temperature=0)
    refused(r"expected \(n, v\)", average_views, np.ones(3))


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


GRID = (4, 3)
IMAGE, WINDOWS = vectors(5, 8), {2: vectors(5, 6, 8, seed=1), 3: vectors(5, 2, 8, seed=2)}
TEXTS = {"normal": vectors(4, 8, seed=3), "anomalous": vectors(8, seed=4)}  # an ensemble and one sentence


@pytest.mark.parametrize("temperature", [0.01, 0.3])
@pytest.mark.parametrize("image_scale", [True, False])
@pytest.mark.parametrize("averages", ["arithmetic", "arithmetic harmonic", "harmonic arithmetic"])
def test_zero_shot_map_against_loops(temperature, image_scale, averages):
    within, across = [*averages.split(), None][:2]
    whole = prompt_score(IMAGE, **TEXTS, temperature=temperature)
    scores = {size: prompt_score(x, **TEXTS, temperature=temperature) for size, x in WINDOWS.items()}
    expected, windows = np.empty((5, *GRID)), {size: window_indices(GRID, size).tolist() for size in (2, 3)}
    for i in range(5):
        scales = [by_patch(scores[size][i].tolist(), windows[size], GRID, within) for size in (2, 3)]
        scales += [np.full(GRID, whole[i])] if image_scale else []
        expected[i] = np.apply_along_axis(lambda x: mean(x.tolist(), across or within), 0, np.stack(scales))
    image, averages = IMAGE if image_scale else None, {"aggregate": within, "across": across}
    averages |= {} if temperature == 0.01 else {"temperature": temperature}  # the default
    found = zero_shot_map(image, WINDOWS, GRID, **TEXTS, **averages)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_upsampling_is_bilinear_between_centres():
    """A step between two patches is a ramp between their centres, constant beyond; no smoothing."""
    step = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])  # (1, rows, columns)
    ramp = torch.tensor([0, 0.25, 0.75, 1])
    torch.testing.assert_close(upsample(step, (2, 4)), ramp.expand(1, 2, 4))
    torch.testing.assert_close(upsample(step.mT.double(), (4, 2)), ramp[:, None].expand(1, 4, 2))


def test_prompt_score_is_the_softmax_of_section_3_1():
    images, normal, anomalous = vectors(20, 16), vectors(5, 16, seed=1), vectors(16, seed=2)
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
