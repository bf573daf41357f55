"""SPADE, PaDiM and PatchCore as detectors of a category, for each draw of reference images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from zsad_core import methods
from zsad_core.image_features import Extractor, TileFeatures
from zsad_core.methods import Detector, Output
from zsad_papers.baselines import few_shot
from zsad_papers.baselines.backbones import Backbone, backbone_extractor
from zsad_papers.common.experiment import Category, hidden_layers


def as_baselines_see(
    category: Category, backbone: Backbone | None, tiled: bool = False
) -> tuple[Category, Extractor]:
    """CLIP-based models alone are tiled. The others keep their own pre-processing (supplement A), which cuts
    the centre out of images and masks that are not square, unless `tiled`."""
    if backbone is None:
        return category, category.clip
    return category if tiled else category.seen("center_crop"), backbone_extractor(backbone)


def baseline_detector(
    category: Category,
    shots: Sequence[int],
    backbone: Backbone | None = None,
    baselines: Sequence[str] = ("spade", "padim", "patchcore"),
) -> Detector:
    """The few-shot baselines for each draw of references: outputs `<method>|<shots>|<seed>`.

    backbone: a convolutional network. Its last layer gives SPADE's whole images, the others SPADE and PaDiM,
        the two before the last PatchCore. None: the CLIP, with two hidden blocks (supplement B).
    baselines: of "spade", "padim", "patchcore" and, on a CLIP, "patchcore_last": on the last block's tokens.
    """
    extractor = as_baselines_see(category, backbone)[1]
    blocks = (*hidden_layers(category.encoder.depth), category.encoder.depth)
    *spread, deepest = backbone.layers if backbone else map(str, blocks)
    names, size = {"patchcore": spread[-2:], "patchcore_last": [deepest]}, extractor.network.image_size

    def patch_maps(features: TileFeatures) -> dict[str, Tensor]:
        layers = features.starting("layer")
        maps = {k: v.unflatten(1, category.encoder.grid) if v.ndim == 3 else v for k, v in layers.items()}
        for method in names.keys() & set(baselines):  # PatchCore's own features once for all memories
            maps[method] = few_shot.locally_aware({name: maps[name] for name in names[method]})
        owner = features.owner  # rising
        maps["place"] = torch.from_numpy(np.arange(len(owner)) - np.searchsorted(owner, owner))
        return maps

    reference, draws = category.references(category.draws(shots), extractor)
    firsts = np.cumsum([0, *(len(part.meta) for part in reference)])
    owner = np.concatenate([part.owner + first for part, first in zip(reference, firsts)])
    gallery = methods.tiles_of(reference, range(firsts[-1]), patch_maps)
    tiles = {draw: torch.from_numpy(np.isin(owner, images)) for draw, images in draws.items()}

    def fit(method: str, own: Tensor, seed: int) -> Callable[[dict[str, Tensor]], Output]:
        if method == "spade":
            return lambda query: few_shot.spade(query["wholes"][:, own], query["places"][:, own], size)
        if method == "padim":
            chosen = {name: gallery[name][own] for name in (*spread, "place")}
            return padim_by_place(chosen, spread, seed, size)
        entries = few_shot.patchcore_memory(gallery[method][own], seed)
        return lambda query: few_shot.patchcore(query[method], entries, size)

    pairs = [(method, *draw) for draw in tiles for method in baselines]
    fitted = {f"{name}|{k}|{seed}": fit(name, tiles[k, seed], seed) for name, k, seed in pairs}

    def detect(features: TileFeatures) -> dict[str, Output]:
        query = patch_maps(features)
        if "spade" in baselines:
            query["wholes"], query["places"] = few_shot.spade_distances(query, gallery, spread, deepest)
        return {name: score(query) for name, score in fitted.items()}

    return detect


def padim_by_place(
    references: dict[str, Tensor], layers: Sequence[str], seed: int, size: few_shot.Size
) -> Callable[[dict[str, Tensor]], Output]:
    """PaDiM with Gaussians of its own for each place of a tile: a left tile is no sample of a right one.

    references: the layers' maps, and `place` (t,), a tile's number in its image. Where a query has more tiles
    than any reference, its last ones are compared with their last place.
    """

    def at(tiles: dict[str, Tensor], own: Tensor) -> dict[str, Tensor]:
        return {name: tiles[name][own] for name in layers}

    each = [at(references, references["place"] == i) for i in range(int(references["place"].max()) + 1)]
    memories = [few_shot.padim_memory(own, layers, seed) for own in each]

    def score(query: dict[str, Tensor]) -> Output:
        places = query["place"].clamp(max=len(memories) - 1)
        found = Output(torch.empty(len(places)), torch.empty(len(places), *size))
        for i in places.unique().tolist():
            own = places == i
            found.scores[own], found.maps[own] = few_shot.padim(at(query, own), memories[i], size)
        return found

    return score
