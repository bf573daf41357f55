import math

import numpy as np
import pytest
import torch
from helpers import ramp, refused
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zsad_core import views


def views_of(image, size=24, **options):
    """Views need no network: an encoder's size, and pixels as a tensor."""

    def transform(view):
        return torch.from_numpy(np.array(view, np.float32)).permute(2, 0, 1) / 255

    return views.inference_views(image, (size, size), transform, **options)


def centre(view):
    """Mean position of a view of `ramp`, as fractions of width and height."""
    return view[:2].mean((1, 2)).tolist()


def extent(view, channel):
    """Share of the width (0) or height (1) that a view of `ramp` covers."""
    line = view[channel].mean(channel)[2:-2]  # inner pixels: resizing bends the borders
    return (line[-1] - line[0]).item() / (len(line) - 1) * (len(line) + 4)


def test_six_views_whole_corners_centre():
    six = views_of(ramp(300, 300), 120)
    assert six.shape == (6, 3, 120, 120)
    near, far = 120 / 137 / 2, 1 - 120 / 137 / 2  # 137 = round(120 * 274 / 240)
    expected = [(0.5, 0.5), (near, near), (far, near), (near, far), (far, far), (0.5, 0.5)]
    np.testing.assert_allclose([centre(view) for view in six], expected, atol=0.005)
    np.testing.assert_allclose([extent(view, 0) for view in six], [1] + [120 / 137] * 5, atol=0.01)
    papers = views_of(ramp(480, 480), 240)
    assert extent(papers[5], 1) == pytest.approx(240 / 274, abs=0.003)
    assert extent(views_of(ramp(480, 480), 240, zoom=1.5)[5], 1) == pytest.approx(1 / 1.5, abs=0.003)
    (single,) = views_of(ramp(300, 300), 120, zoom=None)
    torch.testing.assert_close(single, six[0], rtol=0, atol=0)
    clear = views_of(Image.new("RGBA", (30, 30), (0, 0, 0, 0)))  # PIL alone gives black
    torch.testing.assert_close(clear, torch.ones(6, 3, 24, 24))


def test_images_that_are_not_square():
    wide = ramp(300, 150)
    squashed = views_of(wide, 60)
    assert extent(squashed[0], 0) == pytest.approx(1, abs=0.02)
    cut = views_of(wide, 60, whole="center_crop")
    assert extent(cut[0], 0) == pytest.approx(0.5, abs=0.02)
    assert extent(cut[0], 1) == pytest.approx(1, abs=0.02)
    middle = views_of(wide.crop((75, 0, 225, 150)), 60)
    torch.testing.assert_close(cut, middle)  # nothing outside the centre is seen, in any view
    assert extent(squashed[1], 0) == pytest.approx(0.5 * 60 / 68, abs=0.02)  # the crops keep the shape
    tiles = views_of(wide, 60, whole="tiles")
    assert len(tiles) == 18
    np.testing.assert_allclose([centre(tiles[i])[0] for i in (0, 6, 12)], [0.25, 0.5, 0.75], atol=0.01)
    tall = views_of(ramp(150, 300), 60, zoom=None, whole="tiles")
    np.testing.assert_allclose([centre(tile)[1] for tile in tall], [0.25, 0.5, 0.75], atol=0.01)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_tiles_cover_the_image(width, height):
    width, height = max(width, height // 50 + 1), max(height, width // 50 + 1)
    side, longer = min(width, height), max(width, height)
    boxes = views.boxes_of(width, height, "tiles")
    starts = [max(left, upper) for left, upper, _, _ in boxes]
    assert all(right - left == lower - upper == side for left, upper, right, lower in boxes)
    assert starts[0] == 0 and starts[-1] == longer - side
    strides = np.diff(starts)
    assert len(boxes) == 1 if side == longer else strides.max() <= 0.8 * side + 1
    assert len(boxes) == math.ceil((longer - side) * 5 / (4 * side)) + 1  # and no more than needed


def test_bad_arguments():
    refused("whole='pad'", views_of, ramp(30, 30), whole="pad")
    refused("expected a square", views.inference_views, ramp(30, 30), (24, 32), np.asarray)
