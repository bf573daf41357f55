"""Tiles that lie side by side, cut out and enlarged, and the map of their scores."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.windows import window_indices
from zsad_papers.baselines.tiling import tile_embeddings, tile_numbers, tiling_extractor, tiling_map


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    """A CLIP of 4 x 5 oblong patches with random weights."""
    vision = {"image_size": [32, 20], "patch_size": [8, 4], "width": 32, "layers": 2, "head_width": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    path = tmp_path_factory.mktemp("configs") / "tiny.json"
    path.write_text(json.dumps(config))
    encoder = load_encoder(path, "random", device="cpu")
    assert encoder.grid == (4, 5)
    return encoder


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_tiles_cover_the_grid_with_as_few_as_possible(rows: int, columns: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, min(rows, columns)))
    numbers = tile_numbers((rows, columns), size)
    members = window_indices((rows, columns), size)[numbers]  # (n_tiles, size²)
    assert members.unique().tolist() == list(range(rows * columns))
    assert len(numbers) == -(-rows // size) * -(-columns // size)
    assert numbers == sorted(set(numbers))
    tops = sorted({first // columns for first in members[:, 0].tolist()})
    assert all(b - a == size for a, b in zip(tops[:-1], tops[1:-1]))  # only the last one is moved back


def test_tiles_of_the_papers_grid() -> None:
    assert len(tile_numbers((15, 15), 2)) == 64 and len(tile_numbers((15, 15), 3)) == 25
    assert tile_numbers((3, 3), 3) == [0]
    with pytest.raises(ValueError, match="does not fit"):
        window_indices((3, 3), 4)


def test_tiles_of_a_constant_image_are_equal(encoder: ClipEncoder) -> None:
    colours = torch.tensor([[0.3, -0.2, 1.0], [-1.0, 0.5, 0.1]])
    pixels = colours[:, :, None, None].expand(-1, -1, *encoder.image_size)
    for size in (1, 2, 3, 4):
        tiles = tile_embeddings(encoder, pixels, size)
        assert tiles.shape == (2, len(tile_numbers(encoder.grid, size)), 16)
        whole = encoder.embed_images(pixels)[:, None].expand_as(tiles)
        assert_close(tiles, whole, rtol=1e-4, atol=1e-5)
    assert (tiles[0] - tiles[1]).abs().max() > 1e-3


def test_a_tile_is_cut_out_enlarged_and_encoded(encoder: ClipEncoder) -> None:
    """By hand for 2 x 2 patches: rows start at patch 0 and 2, columns at 0, 2 and 3."""
    pixels = torch.randn(2, 3, 32, 20, generator=torch.Generator().manual_seed(0))
    found = tile_embeddings(encoder, pixels, 2)
    expected = []
    for y in (0, 2):
        for x in (0, 2, 3):
            cut = pixels[:, :, 8 * y : 8 * (y + 2), 4 * x : 4 * (x + 2)]
            assert cut.shape[2:] == (16, 8)
            enlarged = F.interpolate(cut, (32, 20), mode="bicubic", antialias=True, align_corners=False)
            expected.append(encoder.embed_images(enlarged))
    assert_close(found, torch.stack(expected, 1), rtol=1e-4, atol=1e-5)
    assert found.std(1).min() > 0 and (found[0] != found[1]).any()


def test_a_tile_knows_nothing_of_the_rest(encoder: ClipEncoder) -> None:
    pixels = torch.randn(1, 3, 32, 20, generator=torch.Generator().manual_seed(0))
    other = pixels.clone()
    other[:, :, :8, :4] = 5
    changed = (tile_embeddings(encoder, pixels, 2) - tile_embeddings(encoder, other, 2)).abs().amax((0, 2))
    assert (changed > 1e-4).tolist() == [True] + 5 * [False]


def test_extractor(encoder: ClipEncoder) -> None:
    square = load_encoder("zsad-mini", "random", device="cpu")
    found, other = tiling_extractor(square, (2, 3)), tiling_extractor(square, (2,))
    pixels = found.transform(Image.new("RGB", (30, 20), "red"))[None]
    assert pixels.shape[2:] == found.image_size == (96, 96)
    features = found.features(pixels)
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        "image": (1, 192),
        "tiles/2": (1, 16, 192),
        "tiles/3": (1, 9, 192),
    }
    keys = [e.key for e in (found, other, tiling_extractor(encoder, (2, 3)))]
    assert keys[0] != keys[1] and keys[0] != keys[2] and keys[0] == tiling_extractor(square, (2, 3)).key


@pytest.mark.parametrize("grid", [(3, 3), (4, 4), (3, 5)])
def test_map_by_brute_force(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return 0.05 + 0.9 * torch.rand(*shape, generator=generator).double()

    scores = {size: draw(2, len(tile_numbers(grid, size))) for size in (2, 3)}
    image = draw(2)
    found = tiling_map(scores, image, grid)
    assert found.shape == (2, *grid) and found.dtype == torch.float64
    starts = {size: [sorted({*range(0, e - size, size), e - size}) for e in grid] for size in scores}

    def mean(x):
        return len(x) / sum(1 / v for v in x)

    for n in range(2):
        for row in range(grid[0]):
            for column in range(grid[1]):
                scales = [image[n].item()]
                for size, values in scores.items():
                    tops, lefts = starts[size]
                    corners = [(top, left) for top in tops for left in lefts]
                    covering = [
                        values[n, k].item()
                        for k, (top, left) in enumerate(corners)
                        if top <= row < top + size and left <= column < left + size
                    ]
                    scales.append(mean(covering))
                assert found[n, row, column].item() == pytest.approx(mean(scales), rel=1e-9)
