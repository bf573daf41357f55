"""Windows of patches and the zero-shot anomaly map that they give (WinCLIP, section 4.2)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.scores import Array, prompt_score

Average = Literal["harmonic", "arithmetic"]


def window_indices(grid: int | tuple[int, int], size: int) -> Tensor:
    """(n_windows, size * size) int64: the patches of each window in the grid (the w_ij of WinCLIP, Eq. 2).

    grid: (rows, columns) of patches, or one number for a square grid. Windows of size x size patches have
    stride 1 and are row-major by their top-left corner. Patch (r, c) is number r * columns + c.

    >>> window_indices(3, 2)
    tensor([[0, 1, 3, 4],
            [1, 2, 4, 5],
            [3, 4, 6, 7],
            [4, 5, 7, 8]])
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    if not 1 <= size <= min(rows, columns):
        raise ValueError(f"a window of {size} x {size} patches does not fit a grid of {rows} x {columns}")
    patches = torch.arange(rows * columns).reshape(rows, columns)  # (rows, columns)
    return patches.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size)  # (n_windows, size * size)


def aggregate_windows(
    scores: Tensor, grid: tuple[int, int], size: int, average: Average = "harmonic"
) -> Tensor:
    """The score of each patch: the mean over the windows that cover it (WinCLIP, Eq. 3).

    scores: (n, n_windows) in [0, 1], in the order of `window_indices`. Returns (n, rows, columns) float64.
    average: "harmonic", pulled towards the most normal window, or "arithmetic", the ablation of Table 8.

    >>> aggregate_windows(torch.tensor([[0.5, 0.5, 0.5, 1.0]]), (3, 3), 2)[0, 1, 1].item()  # 4 / 7
    0.5714285714285714
    """
    rows, columns = grid[0] - size + 1, grid[1] - size + 1
    if scores.ndim != 2 or scores.shape[1] != rows * columns:
        expected = f"(n, {rows * columns}), one for each window of {size} x {size} patches in {grid}"
        raise ValueError(f"scores {tuple(scores.shape)}: expected {expected}")
    _check_average(average)
    values = scores.double().reshape(-1, 1, rows, columns)
    covering = F.pad(torch.ones_like(values[:1]), [size - 1] * 4)  # 1 where a window is, also beyond the grid
    count = F.avg_pool2d(covering, size, 1) * size**2  # (1, 1, rows, columns of the grid)
    values = 1 / values if average == "harmonic" else values
    total = F.avg_pool2d(F.pad(values, [size - 1] * 4), size, 1) * size**2
    return (count / total if average == "harmonic" else total / count)[:, 0]


def combine_scales(maps: Sequence[Tensor], average: Average = "harmonic") -> Tensor:
    """One map from those of several scales, all (n, rows, columns): their mean patch by patch (Sec. 4.2)."""
    _check_average(average)
    if not maps:
        raise ValueError("no maps: expected at least one scale, image_scale=True or a window size in scales")
    together = torch.stack([m.double() for m in maps])  # (scales, n, rows, columns)
    return len(maps) / (1 / together).sum(0) if average == "harmonic" else together.mean(0)


def window_map(
    image: Array | None,
    windows: Mapping[int, Array],
    grid: tuple[int, int],
    score: Callable[[Array], Array],
    *,
    aggregate: Average = "harmonic",
    across: Average | None = None,
) -> Tensor:
    """WinCLIP's map (n, rows, columns) in [0, 1] of any score of an embedding (Sec. 4.2, Eq. 3).

    image: (n, d) whole images, the same score in every patch; None leaves this scale out.
    windows: {size: (n, n_windows, d)}. score: from (n, d) to (n,) and from (n, v, d) to (n, v), in [0, 1].
    aggregate: the mean over the windows that cover a patch. across: over the scales, None for the same.
    """
    maps = [] if image is None else [torch.as_tensor(score(image))[:, None, None].expand(-1, *grid)]
    scored = {size: torch.as_tensor(score(embeddings)) for size, embeddings in windows.items()}
    maps += [aggregate_windows(values, grid, size, aggregate) for size, values in scored.items()]
    return combine_scales(maps, across or aggregate)


def zero_shot_map(
    image: Array | None,
    windows: Mapping[int, Array],
    grid: tuple[int, int],
    normal: Array,
    anomalous: Array,
    *,
    temperature: float = 0.01,
    **averages: Any,
) -> Tensor:
    """The zero-shot map of WinCLIP: `window_map`, whose other arguments it takes, of `scores.prompt_score`.
    temperature: the paper prints none; 0.01 is CLIP's, 0.07, its value before training, most public code's.
    """
    score = partial(prompt_score, normal=normal, anomalous=anomalous, temperature=temperature)
    return window_map(image, windows, grid, score, **averages)


def winclip_map(
    encoder: Any,
    pixels: Tensor,
    normal: Array,
    anomalous: Array,
    scales: Sequence[int] = (2, 3),
    image_scale: bool = True,
    aggregate: Average = "harmonic",
    **options: Any,
) -> Tensor:
    """WinCLIP's zero-shot anomaly maps of preprocessed images (n, 3, H, W) -> (n, H, W) in [0, 1] (Sec. 4.2).
    scales: window sizes in patches. image_scale: use the whole image too. The others: of `zero_shot_map`."""
    found = encoder.embed_scales(pixels, scales, whole=image_scale)
    own = (found.image, found.windows, encoder.grid)
    maps = zero_shot_map(*own, normal, anomalous, aggregate=aggregate, **options)
    return upsample(maps, encoder.image_size)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, rows, columns) -> (n, H, W) float32, bilinear between the centres of the patches, no smoothing."""
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def _check_average(average: str) -> None:
    if average not in ("harmonic", "arithmetic"):
        raise ValueError(f"average {average!r}: expected 'harmonic' or 'arithmetic'")
