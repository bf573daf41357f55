"""WinCLIP+, the few-shot baselines, and what the paper leaves open, on a category (see `winclip_studies`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from zsad_core import baselines, winclip
from zsad_core.backbones import Backbone, load_backbone
from zsad_core.dense import Dense, Extractor, backbone_extractor
from zsad_core.results import FULL_SHOT
from zsad_core.settings import Settings
from zsad_core.winclip import Detector, Output, image_scores
from zsad_core.winclip_studies import Category, flipped, hidden_layers, language, zero_shot

SCORES = ("max_map", "ascore0", "ascore0+max_map")  # Table 5


def few_shot(
    c: Category,
    shots: Sequence[int],
    variants: Sequence[str] = ("P+Wm+Ws",),
    *,
    fuse: str = "harmonic",
    aggregate: str = "harmonic",
    layer_norm: bool = False,
) -> list[dict]:
    """WinCLIP+: Tables 1, 4, 5 and 6; the options are those of `few_shot_arrays`."""
    options = {"fuse": fuse, "aggregate": aggregate, "layer_norm": layer_norm}
    found = few_shot_arrays(c, shots, variants, **options)
    records, ascore0 = [], image_scores(c.views(c.whole), c.texts(), c.temperature)
    for (variant, where), values in _by_draw(found, "pixel"):
        records.append(c.record(values, "pixel", "winclip_plus", f"maps={variant}", **where))
    for (variant, where), values in _by_draw(found, "scores"):
        if variant == variants[-1]:
            both = (values + ascore0) / 2  # Eq. 6
            for score, image in zip(SCORES, (values, ascore0, both), strict=True):
                records.append(c.record(image, "image", "winclip_plus", f"score={score}", **where))
            records += flipped(c, both, "winclip_plus", **where)
    return records


def few_shot_arrays(
    c: Category,
    shots: Sequence[int],
    variants: Sequence[str] = ("P+Wm+Ws",),
    *,
    fuse: str = "harmonic",
    aggregate: str = "harmonic",
    layer_norm: bool = False,
) -> dict[str, np.ndarray]:
    """What `winclip.measure` finds for each draw of references, `<variant>|<shots>|<seed>/...`; options as in
    `few_shot_detector`."""
    options = {"variants": list(variants), "fuse": fuse, "aggregate": aggregate, "layer_norm": layer_norm}
    return c.measured("few-shot", lambda: few_shot_detector(c, shots, **options), shots=shots, **options)


def few_shot_detector(
    c: Category,
    shots: Sequence[int],
    variants: Sequence[str] = ("P+Wm+Ws",),
    *,
    fuse: str = "harmonic",
    aggregate: str = "harmonic",
    layer_norm: bool = False,
) -> Detector:
    """WinCLIP+ for each draw of references: outputs `<variant>|<shots>|<seed>`.

    variants: sets of reference maps, names in `winclip.MAPS`. fuse, aggregate: of `references`.
    layer_norm: whether patch tokens pass the last layer norm. The paper takes "the last feature map before
        pooling"; the default takes it as the last block leaves it, newer open_clip versions normalise it.
    """
    last, norm = f"layer/{c.depth}", c.encoder.model.visual.ln_post
    texts, grid = c.texts(), c.encoder.grid

    def patches(dense: Dense) -> Tensor:
        tokens = dense.tensor(last)
        return norm(tokens.to(c.encoder.device)).detach().cpu() if layer_norm else tokens

    reference, draws = c.references(c.draws(shots), c.clip)
    memories = {k: winclip.memory_of(reference, images, patches) for k, images in draws.items()}
    options = {"variants": variants, "fuse": fuse, "aggregate": aggregate}

    def detect(dense: Dense) -> dict[str, Output]:
        zero_shot_map = winclip.zero_shot_outputs(dense, texts, grid, temperature=c.temperature)[""].maps
        tokens, found = patches(dense), {}
        for (k, seed), memory in memories.items():
            outputs = winclip.few_shot_outputs(dense, tokens, memory, zero_shot_map, grid, **options)
            found |= {f"{variant}|{k}|{seed}": output for variant, output in outputs.items()}
        return found

    return detect


def _by_draw(found: Mapping[str, np.ndarray], kind: str) -> Iterator[tuple[tuple[str, dict], np.ndarray]]:
    """(name, shots and seed) and values of the arrays `<name>|<shots>|<seed>/<kind>`."""
    for key, values in found.items():
        name, _, ending = key.rpartition("/")
        if ending == kind:
            name, k, seed = name.split("|")
            yield (name, {"shots": int(k), "seed": int(seed)}), values


def few_shot_baselines(
    c: Category,
    shots: Sequence[int],
    backbone: Backbone | None = None,
    methods: Sequence[str] = ("spade", "padim", "patchcore"),
) -> list[dict]:
    """SPADE, PaDiM and PatchCore: Tables 1 and 4, and on a CLIP's own patch tokens Table S8; options as in
    `baseline_detector`."""
    detector = lambda: baseline_detector(c, shots, backbone, methods)  # noqa: E731
    extractor = baseline_extractor(c, backbone)
    found = c.measured("baselines", detector, extractor, shots=shots, kinds=(), methods=list(methods))
    return [
        c.record(values, task, method, **where)
        for kind, task in (("scores", "image"), ("pixel", "pixel"))
        for (method, where), values in _by_draw(found, kind)
    ]


def baseline_extractor(c: Category, backbone: Backbone | None) -> Extractor:
    return c.clip if backbone is None else backbone_extractor(backbone)


def baseline_detector(
    c: Category,
    shots: Sequence[int],
    backbone: Backbone | None = None,
    methods: Sequence[str] = ("spade", "padim", "patchcore"),
) -> Detector:
    """The few-shot baselines for each draw of references: outputs `<method>|<shots>|<seed>`.

    backbone: a convolutional network with `layer1` to `layer4`, of which each method takes those of its
        paper; None: the CLIP, with the two hidden blocks that stand for layer2 and layer3 (supplement B).
    methods: of "spade", "padim", "patchcore" and, on a CLIP, "patchcore_last": on the last block's tokens.
    """
    extractor = baseline_extractor(c, backbone)
    if backbone is None:
        spread = deep = [str(layer) for layer in hidden_layers(c.depth)]
    else:
        spread, deep = ["layer1", "layer2", "layer3"], ["layer2", "layer3"]
    deepest = str(c.depth) if backbone is None else "layer4"  # what SPADE retrieves by: the last one
    names = {"patchcore": deep, "patchcore_last": [str(c.depth)]}

    def features(dense: Dense) -> dict[str, Tensor]:
        layers = dense.starting("layer")
        maps = {k: v.unflatten(1, c.encoder.grid) if v.ndim == 3 else v for k, v in layers.items()}
        local = {m: names[m] for m in methods if m in names}
        # PatchCore's own features once for all memories
        return maps | {m: baselines.locally_aware({k: maps[k] for k in own}) for m, own in local.items()}

    def fit(method: str, references: dict[str, Tensor], seed: int) -> Callable[[dict[str, Tensor]], tuple]:
        size = extractor.image_size
        if method == "spade":
            memory = baselines.spade_memory(references, layers=spread, global_layer=deepest)
            return lambda query: baselines.spade(query, memory, size)
        if method == "padim":
            gaussians = baselines.padim_memory(references, layers=spread, seed=seed)
            return lambda query: baselines.padim(query, gaussians, size)
        own = {"layers": [method], "neighbourhood": 1, "channels": None, "seed": seed}
        entries = baselines.patchcore_memory(references, **own)
        return lambda query: baselines.patchcore(query, entries, size)

    reference, draws = c.references(c.draws(shots), extractor)
    fitted = {}
    for (k, seed), images in draws.items():
        chosen = winclip.tiles_of(reference, images, features)
        fitted |= {f"{method}|{k}|{seed}": fit(method, chosen, seed) for method in methods}

    def detect(dense: Dense) -> dict[str, Output]:
        query = features(dense)
        return {name: Output(*score(query)) for name, score in fitted.items()}

    return detect


def full_shot(c: Category, backbone: Backbone | None = None) -> list[dict]:
    """PatchCore with all normal training images (Table 2), once: there is nothing to draw."""
    one = replace(c, settings=replace(c.settings, reference_seeds=1))
    records = few_shot_baselines(one, [len(c.train)], backbone, ["patchcore"])
    return [{**record, "shots": FULL_SHOT} for record in records]


def few_shot_scores(
    c: Category, shots: Sequence[int], variants: Sequence[str]
) -> dict[tuple[int, int], np.ndarray]:
    """{(shots, seed): scores (n,)} of WinCLIP+ (Eq. 6), of test images, for sums with other scores."""
    ascore0 = image_scores(c.views(c.whole), c.texts(), c.temperature)
    found = few_shot_arrays(c, shots, variants)
    return {
        (where["shots"], where["seed"]): (values + ascore0) / 2
        for (variant, where), values in _by_draw(found, "scores")
        if variant == "P+Wm+Ws"
    }


def left_open(c: Category) -> list[dict]:
    """What the paper does not say, one option at a time: zero-shot maps, and WinCLIP+ with one reference."""
    size = 2 * min(c.encoder.image_size) // 3
    changed = lambda **values: replace(c, settings=replace(c.settings, **values))  # noqa: E731
    both = {
        "": c,
        "temperature=0.01": changed(temperature=0.01),
        "temperature=0.07": changed(temperature=0.07),
        "normalize_sentences=0": replace(c, normalize_sentences=False),
        "whole=squash": replace(c, whole="squash"),
        f"map_size={size}": changed(map_size=size),
    }
    few = {
        "layer_norm=1": {"layer_norm": True},
        "aggregate=arithmetic": {"aggregate": "arithmetic"},
        "fuse=mean": {"fuse": "mean"},
        "fuse=none": {"fuse": "none"},
    }
    records = [r for r in language(c) if r["method"] == "winclip" and r["variant"] in both]
    for variant, other in both.items():
        kept = [r for r in zero_shot(other) if r["variant"] == ""] + _full(few_shot(other, [1]))
        records += [{**r, "variant": variant} for r in kept]
    for variant, values in few.items():
        records += [{**r, "variant": variant} for r in _full(few_shot(c, [1], **values))]
    return records


def _full(records: list[dict]) -> list[dict]:
    """WinCLIP+ itself among the records of `few_shot`: all maps, and both scores."""
    return [r for r in records if r["variant"] in ("maps=P+Wm+Ws", "score=ascore0+max_map")]


def backbone_of(settings: Settings) -> Backbone | None:
    """The network of the few-shot baselines; None for the CLIP itself."""
    if settings.backbone == "clip":
        return None
    layers = ("layer1", "layer2", "layer3", "layer4")
    return load_backbone(settings.backbone, settings.backbone_weights, layers, settings.device, settings.seed)


def few_shot_design(settings: Settings, role: str) -> tuple[Sequence[int], Sequence[str]]:
    """Shots and sets of maps that the tables ask for; the ablations (Tables 5, 6) are on MVTec-AD alone."""
    if role == "mvtec":
        return sorted({*settings.shots, *settings.ablation_shots}), tuple(winclip.MAPS)
    return settings.shots, tuple(winclip.MAPS)[-1:]
