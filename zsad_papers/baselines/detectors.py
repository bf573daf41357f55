"""SPADE, PaDiM and PatchCore as detectors of a category, for each draw of reference images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from zsad_core import methods
from zsad_core.image_features import Extractor, TileFeatures
from zsad_core.methods import Detector, Output
from zsad_papers.baselines import few_shot
from zsad_papers.baselines.backbones import Backbone, backbone_extractor
from zsad_papers.common.experiment import Category, hidden_layers


def baseline_extractor(category: Category, backbone: Backbone | None) -> Extractor:
    return category.clip if backbone is None else backbone_extractor(backbone)


def baseline_detector(
    category: Category,
    shots: Sequence[int],
    backbone: Backbone | None = None,
    baselines: Sequence[str] = ("spade", "padim", "patchcore"),
) -> Detector:
    """The few-shot baselines for each draw of references: outputs `<method>|<shots>|<seed>`.

    backbone: a convolutional network with `layer1` to `layer4`; each method takes the layers of its paper.
        None: the CLIP, with two hidden blocks instead of layer2 and layer3 (supplement B).
    baselines: of "spade", "padim", "patchcore" and, on a CLIP, "patchcore_last": on the last block's tokens.
    """
    extractor = baseline_extractor(category, backbone)
    if backbone is None:
        deepest = str(category.encoder.depth)
        spread = deep = [str(layer) for layer in hidden_layers(category.encoder.depth)]
    else:
        deepest = "layer4"
        spread, deep = ["layer1", "layer2", "layer3"], ["layer2", "layer3"]
    names = {"patchcore": deep, "patchcore_last": [deepest]}

    def patch_maps(features: TileFeatures) -> dict[str, Tensor]:
        layers = features.starting("layer")
        maps = {k: v.unflatten(1, category.encoder.grid) if v.ndim == 3 else v for k, v in layers.items()}
        for method in names.keys() & set(baselines):  # PatchCore's own features once for all memories
            maps[method] = few_shot.locally_aware({name: maps[name] for name in names[method]})
        return maps

    def fit(method: str, references: dict[str, Tensor], seed: int) -> Callable[[dict[str, Tensor]], Output]:
        size = extractor.network.image_size
        if method == "spade":
            return lambda query: few_shot.spade(query, references, spread, deepest, size)
        if method == "padim":
            gaussians = few_shot.padim_memory(references, spread, seed)
            return lambda query: few_shot.padim(query, gaussians, size)
        entries = few_shot.patchcore_memory(references[method], seed)
        return lambda query: few_shot.patchcore(query[method], entries, size)

    reference, draws = category.references(category.draws(shots), extractor)
    fitted = {}
    for (k, seed), images in draws.items():
        chosen = methods.tiles_of(reference, images, patch_maps)
        fitted |= {f"{method}|{k}|{seed}": fit(method, chosen, seed) for method in baselines}

    def detect(features: TileFeatures) -> dict[str, Output]:
        query = patch_maps(features)
        return {name: score(query) for name, score in fitted.items()}

    return detect
