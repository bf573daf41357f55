"""Image tiling, the slow way to local embeddings that WinCLIP's Table 8 compares windows with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Extractor, encoder_extractor
from zsad_core.windows import combine_scales, window_indices


def tile_numbers(grid: tuple[int, int], size: int) -> list[int]:
    """The windows of `window_indices(grid, size)` that are tiles: stride `size`; the last ones end at the
    border, so that tiles cover the grid.

    >>> tile_numbers((4, 5), 2)  # rows 0 and 2; columns 0, 2 and 3
    [0, 2, 3, 8, 10, 11]
    """
    rows, columns = ((*range(0, edge - size, size), edge - size) for edge in grid)
    return [r * (grid[1] - size + 1) + c for r in rows for c in columns]


def tile_embeddings(encoder: ClipEncoder, pixels: Tensor, size: int) -> Tensor:
    """(n, n_tiles, d): each tile of size x size patches, cut out, enlarged to the encoder's whole input and
    encoded by itself. The paper gives neither size nor stride; tiles side by side come near its run time."""
    members = window_indices(encoder.grid, size)[tile_numbers(encoder.grid, size)]  # (n_tiles, size²)
    (height, width), cut = encoder.patch_size, []
    for first in members[:, 0].tolist():
        y, x = first // encoder.grid[1] * height, first % encoder.grid[1] * width
        cut.append(pixels[:, :, y : y + size * height, x : x + size * width])
    options = {"size": encoder.image_size, "mode": "bicubic", "align_corners": False, "antialias": True}
    # one image's tiles at a time: (n_tiles, 3, h, w)
    return torch.stack([encoder.embed_images(F.interpolate(x, **options)) for x in torch.stack(cut, 1)])


def tiling_extractor(encoder: ClipEncoder, sizes: Sequence[int]) -> Extractor:
    """Features `image` (t, d) and `tiles/<size>` (t, n_tiles, d)."""

    def features(pixels: Tensor) -> dict[str, Tensor]:
        tiles = {f"tiles/{size}": tile_embeddings(encoder, pixels, size) for size in sizes}
        return {"image": encoder.embed_images(pixels), **tiles}

    return encoder_extractor(encoder, features, tiling=list(sizes))


def tiling_map(scores: dict[int, Tensor], image: Tensor, grid: tuple[int, int]) -> Tensor:
    """(n, rows, columns) from the scores (n, n_tiles) of each size and those of whole images (n,).
    The harmonic mean, as of windows, over the tiles that cover a patch, then over scales and image."""
    scales = [image[:, None, None].expand(-1, *grid)]
    for size, values in scores.items():
        members = window_indices(grid, size)[tile_numbers(grid, size)]  # (n_tiles, size²)
        covers = torch.zeros(len(members), grid[0] * grid[1], dtype=torch.float64).scatter_(1, members, 1.0)
        scales.append((covers.sum(0) / (1 / values.double() @ covers)).unflatten(1, grid))
    return combine_scales(scales)
