"""SPADE, PaDiM and PatchCore: WinCLIP's few-shot baselines, on feature maps of any backbone.

WinCLIP re-implemented SPADE and PaDiM and ran PatchCore's official code (Supplement A). So the constants of
the first two follow their papers, those of PatchCore amazon-science/patchcore-inspection. Scores and maps are
float32, from 0 upwards. Queries are scored one by one, so batches do not change the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.methods import Output
from zsad_core.pixel_metrics import enlarged

FeatureMaps = Mapping[str, Tensor]
"""Layer -> (n, rows, columns, channels), shallow first; grids may differ."""

Size = tuple[int, int]
"""(H, W) of maps in pixels."""

NEIGHBOURS = 50
"""K of SPADE, as in its paper; all references if there are fewer."""

DIMENSIONS, EPSILON = 550, 0.01
"""PaDiM: how many channels are drawn (the paper's for WideResNet-50-2), and what the diagonal gets."""

CORESET, PROJECTION = 0.1, 128
"""PatchCore: fraction of the patches that are kept, as in the official example, and dimensions of the random
projection in which they are chosen. WinCLIP does not give its fraction."""

NEIGHBOURHOOD, CHANNELS = 3, 1024
"""PatchCore: side in patches of the window around a feature, and the feature's dimension at most."""


def spade_distances(
    query: FeatureMaps, references: FeatureMaps, layers: Sequence[str], global_layer: str
) -> tuple[Tensor, Tensor]:
    """Squared Euclidean distances of n images to each of m normal references, which all draws share: of whole
    images (n, m), by `global_layer` averaged over positions; and of each position to the nearest one in that
    reference (n, m, rows, columns), by all layers on the largest grid as one long feature.
    """
    kept = checked_maps("references", references, [*layers, *({global_layer} - set(layers))])
    images = checked_maps("queries", query, list(kept), {name: x.shape[1:] for name, x in kept.items()})
    pooled = [maps[global_layer].mean((1, 2)).double() for maps in (images, kept)]
    gallery = _concatenate([kept[name] for name in layers])  # (m, rows, columns, d)
    found = []
    for image in zip(*(images[name].split(1) for name in layers)):
        own = _concatenate(image)[0].flatten(0, 1)  # (rows columns, d)
        found.append(torch.stack([_nearest(own, reference.flatten(0, 1)) for reference in gallery]))
    wholes = (pooled[0][:, None] - pooled[1]).square().sum(-1)
    return wholes.float(), torch.stack(found).unflatten(2, gallery.shape[1:3])


def spade(wholes: Tensor, places: Tensor, size: Size) -> Output:
    """SPADE (Cohen and Hoshen 2020) of n images, from `spade_distances` to m >= 1 normal references.

    Image score: mean distance to the nearest references (Eq. 2). Map: distance of each position to the
    nearest feature among all positions of these references (Eq. 3). Both are squared, as the paper prints.
    """
    nearest = wholes.topk(min(NEIGHBOURS, wholes.shape[1]), largest=False)
    retrieved = places[torch.arange(len(places))[:, None], nearest.indices]  # (n, k, rows, columns)
    return Output(nearest.values.mean(1), _at_size(retrieved.amin(1), size))


class Gaussians(NamedTuple):
    """PaDiM's Gaussian over d channels at each of p positions: mean (p, d), and the covariance epsilon I plus
    the sum over i of variances[:, i] axes[:, i] axes[:, i]ᵀ; variances (p, r), orthonormal axes (p, r, d)."""

    mean: Tensor
    axes: Tensor
    variances: Tensor
    channels: Tensor  # bool, over the channels of all layers; d are true
    shapes: dict[str, tuple[int, ...]]


def padim_memory(references: FeatureMaps, layers: Sequence[str], seed: int = 0) -> Gaussians:
    """PaDiM's Gaussian at each position, from m >= 1 normal images (Defard et al. 2021, Sec. III).

    Layers are brought to the largest grid (nearest neighbour) and concatenated; `DIMENSIONS` channels are
    drawn with `seed`. The covariance is the sample's, divided by m - 1, plus epsilon I: of one image epsilon
    I alone. The sample's part is kept as its principal axes: exact, in p m d numbers instead of p d².
    """
    maps = checked_maps("references", references, layers)
    total = sum(x.shape[3] for x in maps.values())
    channels = torch.zeros(total, dtype=torch.bool)
    channels[np.random.default_rng(seed).choice(total, min(DIMENSIONS, total), replace=False)] = True
    images = zip(*(x.split(1) for x in maps.values()))
    rows = [_concatenate(image, "nearest-exact")[..., channels] for image in images]
    samples = torch.stack([row.flatten(0, 2) for row in rows], 1)  # (p, m, d)
    mean = samples.double().mean(1, keepdim=True)  # (p, 1, d)
    axes, variances = [], []
    for some, centre in zip(samples.split(256), mean.split(256), strict=True):
        deviations = (some - centre) / max(1, len(rows) - 1) ** 0.5  # float64
        _, singular_values, directions = torch.linalg.svd(deviations, full_matrices=False)
        axes.append(directions.float())  # (256, r, d)
        variances.append(singular_values.square().float())
    shapes = {name: tuple(x.shape[1:]) for name, x in maps.items()}
    return Gaussians(mean[:, 0].float(), torch.cat(axes), torch.cat(variances), channels, shapes)


def padim(query: FeatureMaps, memory: Gaussians, size: Size) -> Output:
    """PaDiM of n images: Mahalanobis distance at each position; image score: maximum of the smoothed map.

    A deviation from the mean is split into its part along the axes of the sample and the rest, where the
    variance is epsilon: Woodbury's identity without its cancellation.
    """
    grids, images = [], checked_maps("queries", query, list(memory.shapes), memory.shapes)
    for image in zip(*(x.split(1) for x in images.values())):
        features = _concatenate(image, "nearest-exact")[0][..., memory.channels]
        deviations = features.flatten(0, 1) - memory.mean  # (p, d)
        along = torch.einsum("prd,pd->pr", memory.axes, deviations)
        rest = deviations - torch.einsum("prd,pr->pd", memory.axes, along)
        inside = (along.square() / (memory.variances + EPSILON)).sum(1)  # (p,)
        grids.append((inside + rest.square().sum(1) / EPSILON).sqrt().reshape(features.shape[:2]))
    maps = _at_size(torch.stack(grids), size)
    return Output(maps.amax((1, 2)), maps)


def patchcore_memory(features: Tensor, seed: int = 0) -> Tensor:
    """PatchCore's memory bank (entries, d) from m >= 1 normal images (Roth et al. 2022, Sec. 3.1 and 3.2).

    features: (m, rows, columns, d) of `locally_aware`. The coreset, rounded down but at least one, is chosen
    in a random Gaussian projection (the official code's is a linear layer as PyTorch initialises it).
    """
    entries = checked_maps("references", {"patches": features}, ["patches"])["patches"].flatten(0, 2)
    points = entries.numpy()
    if points.shape[1] > PROJECTION:
        from sklearn.random_projection import GaussianRandomProjection  # here: kept records need none

        points = GaussianRandomProjection(PROJECTION, random_state=seed).fit_transform(points)
    return entries[k_center_greedy(points, max(1, int(len(points) * CORESET)), seed)]


def patchcore(features: Tensor, entries: Tensor, size: Size) -> Output:
    """PatchCore of n images: distance of each patch to its nearest entry; image score: the largest (Eq. 6).

    features: (n, rows, columns, d) of `locally_aware`. entries: of `patchcore_memory`. Distances are squared
    and have no factor of Eq. 7, as in the official code; the score is taken on the patch grid.
    """
    shapes = {"patches": (*features.shape[1:3], entries.shape[1])}
    checked = checked_maps("queries", {"patches": features}, ["patches"], shapes)["patches"]
    grids = torch.stack([_nearest(image.flatten(0, 1), entries) for image in checked])
    return Output(grids.amax(1), _at_size(grids.unflatten(1, features.shape[1:3]), size))


def k_center_greedy(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count,) distinct indices of points (n, d): each time the point farthest from all chosen before.

    PatchCore's Alg. 1, which leaves the first one open: here it is drawn with `seed`.

    >>> k_center_greedy(np.array([[0.0], [1], [5], [9]]), 3, seed=3).tolist()
    [3, 0, 2]
    """
    chosen = np.random.default_rng(seed).integers(len(points), size=count)  # the first one stays
    distances, squares = np.full(len(points), np.inf), np.einsum("nd,nd->n", points, points)
    for i in range(1, count):
        last = chosen[i - 1]
        distances = np.minimum(distances, squares - 2 * points @ points[last] + squares[last])
        distances[chosen[i - 1]] = -1  # not again, even where nothing but copies is left
        chosen[i] = distances.argmax()
    return chosen


def locally_aware(maps: FeatureMaps) -> Tensor:
    """PatchCore's locally aware patch features (Eq. 1 to 3): (n, rows, columns, d) on the first grid.

    A layer's channels x places of the window, in this order and with zeros beyond the border, are averaged to
    d, then all layers together once more: the paper's "adaptive average pooling". d is at most the number of
    channels of the layers: more would repeat them.
    """
    layers, d = [], min(CHANNELS, sum(x.shape[-1] for x in maps.values()))
    for x in maps.values():
        windows = F.unfold(x.permute(0, 3, 1, 2), NEIGHBOURHOOD, padding=NEIGHBOURHOOD // 2).transpose(1, 2)
        pooled = F.adaptive_avg_pool1d(windows, d)  # (n, places, d)
        layers.append(pooled.unflatten(1, x.shape[1:3]))
    # the official code resizes first; both steps are linear, one in channels, one in places
    features = _concatenate(layers, grid=layers[0].shape[1:3])
    pooled = F.adaptive_avg_pool1d(features.flatten(0, 2)[:, None], d)  # (n rows columns, 1, d)
    return pooled[:, 0].unflatten(0, features.shape[:3])


def checked_maps(
    what: str, maps: FeatureMaps, layers: Sequence[str], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Tensor]:
    """The layers as float32 on the CPU, or an error that says what is wrong with them."""
    if missing := [name for name in layers if name not in maps]:
        raise ValueError(f"{what}: layers {', '.join(maps) or 'none'}; expected {', '.join(missing)}")
    checked = {name: maps[name].detach().cpu().float() for name in layers}
    for name, x in checked.items():
        if x.ndim != 4 or 0 in x.shape or len(x) != len(checked[layers[0]]):
            expected = "(n, rows, columns, channels), the same n >= 1 for all layers"
            raise ValueError(f"{what}: {name} is {tuple(x.shape)}; expected {expected}")
        if shapes is not None and tuple(x.shape[1:]) != shapes[name]:
            found = f"{name} has maps {tuple(x.shape[1:])}, in the references {tuple(shapes[name])}"
            raise ValueError(f"{what}: {found}; take both from one backbone, at one image size")
        if not x.sum(dtype=torch.float64).isfinite():  # all are; quicker than to ask each
            raise ValueError(f"{what}: {name} holds NaN or infinite features; check images and weights")
    return checked


def _concatenate(maps: Sequence[Tensor], mode: str = "bilinear", grid: Size | None = None) -> Tensor:
    """(n, rows, columns, channels of all layers) on one grid; None: the largest."""
    grid = grid or max((x.shape[1:3] for x in maps), key=lambda shape: shape[0] * shape[1])
    resized = [F.interpolate(x.permute(0, 3, 1, 2), tuple(grid), mode=mode) for x in maps]
    return torch.cat(resized, 1).permute(0, 2, 3, 1)


def _nearest(query: Tensor, entries: Tensor) -> Tensor:
    """(p,) squared distance of each of (p, d) to the nearest of the entries (m, d). That one is found by
    products of float32, which round, and then measured itself, so that equal rows are almost 0 apart."""
    order = torch.addmm(entries.square().sum(1), query, entries.T, alpha=-2)  # (p, m), less |query|²
    return (query - entries[order.argmin(1)]).square().sum(1)


def _at_size(grids: Tensor, size: Size) -> Tensor:
    """Grids (n, rows, columns) upsampled bilinearly, then smoothed: sigma is 4 pixels at a height of 224."""
    return torch.stack([enlarged(grid, size, 4 * size[0] / 224) for grid in grids.float()])
