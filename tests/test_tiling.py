import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import by_patch, mean
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from zsad_core.windows import window_indices
from zsad_papers.baselines.tiling import tile_embeddings, tile_numbers, tiling_extractor, tiling_map


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_tiles_cover_the_grid_with_as_few_as_possible(rows, columns, data):
    size = data.draw(st.integers(1, min(rows, columns)))
    numbers = tile_numbers((rows, columns), size)
    members = window_indices((rows, columns), size)[numbers]  # (n_tiles, size²)
    assert members.unique().tolist() == list(range(rows * columns))
    assert len(numbers) == -(-rows // size) * -(-columns // size)
    assert numbers == sorted(set(numbers)) and len(tile_numbers((15, 15), 2)) == 64  # ViT-B/16+
    tops = sorted({first // columns for first in members[:, 0].tolist()})
    assert all(b - a == size for a, b in zip(tops[:-1], tops[1:-1]))  # only the last one is moved back


def test_a_tile_is_cut_out_enlarged_and_encoded(small_clip):
    """By hand for 2 x 2 of 4 x 5 patches: rows start at patch 0 and 2, columns at 0, 2 and 3."""
    encoder = small_clip(pixels=[32, 20], patch_size=[8, 4], layers=2)
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
    extractor, other = tiling_extractor(small_clip(), (2, 3)), tiling_extractor(small_clip(), (2,))
    features = extractor.features(torch.zeros(1, 3, 24, 24))
    shapes = {"image": (1, 16), "tiles/2": (1, 4, 16), "tiles/3": (1, 1, 16)}
    assert {name: tuple(x.shape) for name, x in features.items()} == shapes
    assert extractor.key != other.key and extractor.network.image_size == (24, 24)


@pytest.mark.parametrize("grid", [(3, 3), (4, 4), (3, 5)])
def test_map_by_brute_force(grid):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return 0.05 + 0.9 * torch.rand(*shape, generator=generator).double()

    scores = {size: draw(2, len(tile_numbers(grid, size))) for size in (2, 3)}
    image = draw(2)
    found = tiling_map(scores, image, grid)
    assert found.shape == (2, *grid) and found.dtype == torch.float64
    tiles = {size: window_indices(grid, size)[tile_numbers(grid, size)].tolist() for size in scores}
    for n in range(2):
        scales = [by_patch(values[n].tolist(), tiles[size], grid) for size, values in scores.items()]
        expected = np.apply_along_axis(mean, 0, [np.full(grid, image[n]), *scales])
        np.testing.assert_allclose(found[n], expected, rtol=1e-9)
