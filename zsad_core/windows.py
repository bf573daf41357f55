"""Windows of patches (WinCLIP, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def window_indices(grid: int | tuple[int, int], size: int) -> Tensor:
    """Indices of the patches of every `size` x `size` window (the w_ij of WinCLIP, Eq. 2), stride 1 patch.

    Only windows that lie inside the grid.

    Args:
        grid: patches in an image, (rows, columns), or one number for a square grid.
        size: edge of a window in patches, 1 up to the grid's shorter edge.

    Returns:
        (n_windows, size * size) int64: windows row-major by their top-left corner, patches row-major within a
        window; patch (r, c) is number r * columns + c, n_windows = (rows - size + 1) * (columns - size + 1).

    >>> window_indices(3, 2)
    tensor([[0, 1, 3, 4],
            [1, 2, 4, 5],
            [3, 4, 6, 7],
            [4, 5, 7, 8]])
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    if not 1 <= size <= min(rows, columns):
        raise ValueError(
            f"a window of {size} x {size} patches does not fit a grid of {rows} x {columns} patches"
        )
    patches = torch.arange(rows * columns).reshape(rows, columns)  # (rows, columns)
    return patches.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size)  # (n_windows, size * size)
