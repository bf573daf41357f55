"""SPADE, PaDiM and PatchCore: WinCLIP's few-shot baselines, on feature maps of any backbone.

`*_memory` learns from feature maps of normal reference images; the function beside it scores queries one by
one, so any batches give the same numbers and only one image's distances are held at a time.

WinCLIP re-implemented SPADE and PaDiM and ran PatchCore's official code (Supplement A). So the defaults of
the first two follow their papers, those of PatchCore amazon-science/patchcore-inspection, which differs from
its paper. Published layers of WideResNet-50-2: SPADE and PaDiM layer1 to layer3 (SPADE also layer4, for whole
images), PatchCore layer2 and layer3.

ValueError: no references, layers that are missing or of another shape than the references', features that
are NaN or infinite, arguments out of range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors
from sklearn.random_projection import GaussianRandomProjection
from torch import Tensor

from zsad_papers.baselines.feature_maps import FeatureMaps, Shapes, checked_maps, one_by_one, shapes_of


class Prediction(NamedTuple):
    """image_scores (n,) and maps (n, H, W): float32, from 0 upwards, higher is more anomalous."""

    image_scores: Tensor
    maps: Tensor


@dataclass(frozen=True)
class SpadeMemory:
    """maps: the compared layers of m references. vectors: (m, channels), their global_layer's means."""

    maps: dict[str, Tensor]
    vectors: Tensor
    global_layer: str
    shapes: Shapes


@dataclass(frozen=True)
class PadimMemory:
    """A Gaussian over d channels at each of p positions: mean (p, d), and the covariance epsilon I + the sum
    over i of variances[:, i] axes[:, i] axes[:, i]ᵀ, with variances (p, r) and orthonormal axes (p, r, d).
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    kept: Tensor  # bool, over the channels of all layers; d are true
    epsilon: float
    shapes: Shapes


@dataclass(frozen=True)
class PatchcoreMemory:
    """entries: (m, d), the coreset of the references' patch features."""

    entries: Tensor
    neighbourhood: int
    channels: int | None
    shapes: Shapes


def default_sigma(size: tuple[int, int]) -> float:
    """Gaussian smoothing, in pixels of maps of `size` (H, W): the originals' 4 pixels at 224, in proportion.

    >>> default_sigma((224, 224)), default_sigma((112, 300))
    (4.0, 2.0)
    """
    return 4 * size[0] / 224


def spade_memory(
    references: FeatureMaps, *, layers: Sequence[str] | None = None, global_layer: str | None = None
) -> SpadeMemory:
    """What SPADE keeps of m >= 1 normal images: everything.

    layers: compared position by position; None: all. The paper: the first three blocks of a ResNet.
    global_layer: averaged over positions, to retrieve references and to score whole images; None: the deepest
        given. The paper pools the network's last one, layer4.
    """
    names = list(references if layers is None else layers)
    deepest = global_layer or (list(references) or [""])[-1]
    maps = checked_maps("references", references, [*names, *({deepest} - {*names, ""})])
    vectors = maps[deepest].mean((1, 2))
    return SpadeMemory({name: maps[name] for name in names}, vectors, deepest, shapes_of(maps))


def spade(
    query: FeatureMaps,
    memory: SpadeMemory,
    size: tuple[int, int],
    *,
    neighbours: int = 50,
    sigma: float | None = None,
) -> Prediction:
    """SPADE (Cohen and Hoshen 2020) of n images.

    Image score: mean distance of the global feature to those of the nearest references (Eq. 2). Map: mean
    distance of each position to the nearest feature among all positions of these references (Eq. 3).
    Distances are squared Euclidean ones, as the paper prints them.

    size: (H, W) of the maps, upsampled bilinearly. sigma: of the Gaussian that then smoothes them, in their
        pixels; None: `default_sigma`; 0: no smoothing.
    neighbours: K = 50 as in the paper; where there are fewer, all.
    All layers are resized to the largest grid and compared as one long feature; the paper has one feature per
    position. What WinCLIP's own re-implementation did is not known.
    """
    _at_least(1, neighbours=neighbours)
    neighbours = min(neighbours, len(memory.vectors))

    @lru_cache(maxsize=1)  # with few references it is always the same
    def gallery(retrieved: tuple[int, ...]) -> Tensor:
        images = {name: maps[list(retrieved)] for name, maps in memory.maps.items()}
        return _concatenate(images).flatten(0, 2)

    def score(image: FeatureMaps) -> tuple[Tensor, Tensor]:
        vector = image[memory.global_layer].mean((1, 2))  # (1, channels)
        distances, retrieved = _nearest(vector, memory.vectors, neighbours)
        features = _concatenate({name: image[name] for name in memory.maps})[0]  # (rows, columns, d)
        found, _ = _nearest(features.flatten(0, 1), gallery(tuple(sorted(retrieved[0].tolist()))), 1)
        return distances.square().float().mean(), found.square().reshape(features.shape[:2])

    return _predict(query, memory.shapes, size, sigma, score)


def padim_memory(
    references: FeatureMaps,
    *,
    layers: Sequence[str] | None = None,
    dimensions: int = 550,
    epsilon: float = 0.01,
    seed: int = 0,
) -> PadimMemory:
    """PaDiM's Gaussian at each position, from m >= 1 normal images (Defard et al. 2021, Sec. III).

    Layers are brought to the largest grid (nearest neighbour) and concatenated. The covariance is the
    sample's, divided by m - 1, plus epsilon I. From one image it is epsilon I alone, the sample's being 0;
    what WinCLIP's 1-shot PaDiM put there is not known. The sample's part, of rank m - 1 at most, is kept as
    its principal axes: exact, in p m d numbers instead of p d².

    layers: None for all. dimensions: channels drawn at random with `seed`, at most those there are; the paper
        takes 550 of WideResNet-50-2 and 100 of ResNet-18.
    """
    _at_least(1, dimensions=dimensions)
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon}: expected a number above 0; few references leave no inverse")
    maps = checked_maps("references", references, layers)
    total = sum(x.shape[3] for x in maps.values())
    kept = torch.zeros(total, dtype=torch.bool)
    kept[np.random.default_rng(seed).choice(total, min(dimensions, total), replace=False)] = True

    rows = [_concatenate(image, "nearest-exact")[..., kept].flatten(0, 2) for image in one_by_one(maps)]
    samples = torch.stack(rows, 1)  # (p, m, d)
    mean = samples.double().mean(1, keepdim=True)  # (p, 1, d)
    axes, variances = [], []
    for some, centre in zip(samples.split(256), mean.split(256), strict=True):
        deviations = (some - centre) / max(1, len(rows) - 1) ** 0.5  # float64
        _, singular_values, directions = torch.linalg.svd(deviations, full_matrices=False)
        axes.append(directions.float())  # (256, r, d)
        variances.append(singular_values.square().float())
    gaussians = mean[:, 0].float(), torch.cat(axes), torch.cat(variances)
    return PadimMemory(*gaussians, kept, epsilon, shapes_of(maps))


def padim(
    query: FeatureMaps, memory: PadimMemory, size: tuple[int, int], *, sigma: float | None = None
) -> Prediction:
    """PaDiM of n images: Mahalanobis distance at each position; image score: maximum of the smoothed map.

    size, sigma: as in `spade`. A deviation from the mean is split into its part along the axes of the sample
    and the rest, where the variance is epsilon: Woodbury's identity without its cancellation.
    """

    def score(image: FeatureMaps) -> tuple[float, Tensor]:
        features = _concatenate(image, "nearest-exact")[0, ..., memory.kept]  # (rows, columns, d)
        deviations = features.flatten(0, 1) - memory.mean  # (p, d)
        along = torch.einsum("prd,pd->pr", memory.axes, deviations)
        rest = deviations - torch.einsum("prd,pr->pd", memory.axes, along)
        inside = (along.square() / (memory.variances + memory.epsilon)).sum(1)  # (p,)
        distances = (inside + rest.square().sum(1) / memory.epsilon).sqrt()
        return 0.0, distances.reshape(features.shape[:2])

    _, maps = _predict(query, memory.shapes, size, sigma, score)
    return Prediction(maps.amax((1, 2)), maps)


def patchcore_memory(
    references: FeatureMaps,
    *,
    layers: Sequence[str] | None = None,
    coreset: float = 0.1,
    projection: int | None = 128,
    neighbourhood: int = 3,
    channels: int | None = 1024,
    seed: int = 0,
) -> PatchcoreMemory:
    """PatchCore's memory bank from m >= 1 normal images (Roth et al. 2022, Sec. 3.1 and 3.2).

    layers: None for all; all are resized to the grid of the first.
    coreset: fraction of the patches that `k_center_greedy` keeps, rounded down, at least one; 1 keeps all.
        The official example has 0.1. What WinCLIP took for its few shots is not known.
    projection: dimensions in which the coreset is chosen, by a random Gaussian projection (the official
        code's is a linear layer as PyTorch initialises it). None, or no fewer than there are: no projection.
    neighbourhood: side of the window that a feature stands for, in patches, odd; zeros beyond the border.
    channels: a layer's channels x places of the window, in this order, are averaged to this number, then all
        layers together once more: the official code, and the paper's "adaptive average pooling" to a given
        dimension. The 512 channels of WideResNet's layer2 become window means that count the centre twice.
        None: plain means over the window, layers concatenated.
    seed: of projection and coreset.
    """
    if not 0 < coreset <= 1:
        raise ValueError(f"coreset={coreset}: expected a fraction of the patches, above 0 and at most 1")
    _at_least(1, projection=projection, neighbourhood=neighbourhood, channels=channels)
    if neighbourhood % 2 == 0:
        raise ValueError(f"neighbourhood={neighbourhood}: expected an odd number, which has a centre")
    maps = checked_maps("references", references, layers)
    parts = [locally_aware(image, neighbourhood, channels) for image in one_by_one(maps)]
    entries = torch.cat(parts).flatten(0, 2)  # (m rows columns, d)
    if coreset < 1:
        points = entries.numpy()
        if projection is not None and projection < points.shape[1]:
            points = GaussianRandomProjection(projection, random_state=seed).fit_transform(points)
        entries = entries[k_center_greedy(points, max(1, int(len(points) * coreset)), seed)]
    return PatchcoreMemory(entries, neighbourhood, channels, shapes_of(maps))


def patchcore(
    query: FeatureMaps, memory: PatchcoreMemory, size: tuple[int, int], *, sigma: float | None = None
) -> Prediction:
    """PatchCore of n images: distance of each patch to its nearest entry; image score: the largest (Eq. 6).

    size, sigma: as in `spade`. The image score is taken on the patch grid, before upsampling and smoothing.
    Distances are squared, as the index of the official code returns them; the paper's are plain. The official
    code has no factor of Eq. 7 either.
    """

    def score(image: FeatureMaps) -> tuple[Tensor, Tensor]:
        patches = locally_aware(image, memory.neighbourhood, memory.channels).flatten(0, 2)  # (p, d)
        distances = _nearest(patches, memory.entries, 1)[0][:, 0].float().square()  # (p,)
        return distances.max(), distances.reshape(next(iter(image.values())).shape[1:3])

    return _predict(query, memory.shapes, size, sigma, score)


def k_center_greedy(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count,) distinct indices of points (n, d): each time the point farthest from all chosen before.

    PatchCore's Alg. 1, which leaves the first one open: here it is drawn with `seed`. (The official code
    starts at the point farthest on average from ten drawn ones, and this average stays an upper bound.)

    >>> k_center_greedy(np.array([[0.0], [1], [5], [9]]), 3, seed=3).tolist()
    [3, 0, 2]
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"count={count}: expected 1 to {len(points)}, the number of points")
    chosen = np.random.default_rng(seed).integers(len(points), size=count)  # the first one stays
    distances = np.full(len(points), np.inf)
    for i in range(1, count):
        differences = points - points[chosen[i - 1]]
        distances = np.minimum(distances, np.einsum("nd,nd->n", differences, differences))
        distances[chosen[i - 1]] = -1  # not again, even where nothing but copies is left
        chosen[i] = distances.argmax()
    return chosen


def locally_aware(maps: FeatureMaps, neighbourhood: int = 3, channels: int | None = 1024) -> Tensor:
    """PatchCore's locally aware patch features (Eq. 1 to 3), (n, rows, columns, d) on the first grid.

    Options as in `patchcore_memory`. Computed once and handed to it and to `patchcore` as the only layer,
    with neighbourhood=1 and channels=None, they serve many memories.
    """
    layers, border = {}, neighbourhood // 2
    for name, x in maps.items():
        x = x.permute(0, 3, 1, 2)  # (n, c, rows, columns)
        if channels is None:
            windows = F.avg_pool2d(x, neighbourhood, stride=1, padding=border).flatten(2)
        else:  # the official code resizes first; both steps are linear, one in channels, one in places
            windows = F.unfold(x, neighbourhood, padding=border)  # (n, c * neighbourhood², places)
            windows = F.adaptive_avg_pool1d(windows.transpose(1, 2), channels).transpose(1, 2)
        layers[name] = windows.unflatten(2, x.shape[2:]).permute(0, 2, 3, 1)  # (n, rows, columns, ...)
    grid = next(iter(layers.values())).shape[1:3]
    features = _concatenate(layers, grid=grid)
    if channels is not None:
        pooled = F.adaptive_avg_pool1d(features.flatten(0, 2)[:, None], channels)  # (n rows columns, 1, d)
        features = pooled[:, 0].unflatten(0, features.shape[:3])
    return features


def _concatenate(maps: FeatureMaps, mode: str = "bilinear", grid: tuple[int, int] | None = None) -> Tensor:
    """(n, rows, columns, channels of all layers) on one grid; None: the largest."""
    grid = grid or max((x.shape[1:3] for x in maps.values()), key=lambda shape: shape[0] * shape[1])
    resized = [F.interpolate(x.permute(0, 3, 1, 2), tuple(grid), mode=mode) for x in maps.values()]
    return torch.cat(resized, 1).permute(0, 2, 3, 1)


def _nearest(query: Tensor, entries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices, (p, k) each, of the k entries (m, d) nearest to each of (p, d), nearest first.

    scikit-learn compares in chunks and in float64, so that equal rows have a distance of almost 0.
    """
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(entries.numpy())
    distances, indices = (torch.from_numpy(found) for found in search.kneighbors(query.numpy()))
    return distances, indices


def _predict(
    query: FeatureMaps,
    shapes: Shapes,
    size: tuple[int, int],
    sigma: float | None,
    score: Callable[[FeatureMaps], tuple[Tensor | float, Tensor]],
) -> Prediction:
    """score: of one image, (1, rows, columns, channels) by layer -> its score and grid (rows, columns)."""
    sigma = default_sigma(size) if sigma is None else sigma
    _at_least(0, sigma=sigma)
    _at_least(1, height=size[0], width=size[1])
    images = checked_maps("queries", query, list(shapes), shapes)
    found = [score(image) for image in one_by_one(images)]
    if not found:
        return Prediction(torch.empty(0), torch.empty(0, *size))
    scores, grids = zip(*found, strict=True)
    maps = F.interpolate(torch.stack(grids)[:, None].float(), tuple(size), mode="bilinear")[:, 0]
    smooth = gaussian_filter(maps.numpy(), (0, sigma, sigma))
    return Prediction(torch.tensor(scores), torch.from_numpy(smooth))


def _at_least(smallest: int, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value >= smallest:
            raise ValueError(f"{name}={value}: expected {smallest} or more")
