"""WinCLIP's experiments: what is measured on each category, cached, as one long table.

Every study is a function from a `Category` to records with the entries category, method, variant, shots,
seed, task (image or pixel) and the metrics as fractions; `winclip_tables` makes the papers' rows of them.
Measurements are cached category by category under everything that they depend on, so a killed run goes on,
and notebooks only read. Studies with reference images are in `winclip_few_shot`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core import methods
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Extractor, TileFeatures
from zsad_core.methods import Detector, Output, Texts, clip
from zsad_core.scores import prompt_score, to_tensor
from zsad_papers.baselines import few_shot as few_shot_module
from zsad_papers.baselines.backbones import Backbone, backbone_extractor
from zsad_papers.baselines.relevance import maskclip_tokens, trans_mm
from zsad_papers.baselines.tiling import tiling_extractor, tiling_map
from zsad_papers.common.experiment import Category, flipped, hidden_layers
from zsad_papers.common.results import FULL_SHOT
from zsad_papers.common.settings import Settings


def language(c: Category) -> list[dict]:
    """Zero-shot image scores: Tables 1, 3 and 7, and what the prompts' options change."""
    views, whole = c.views(), c.views()[:, :1]
    if views.shape[1] % 6 == 0 and views.shape[1] > 6:  # tiles: the whole-tile view of each
        whole = views[:, ::6]
    texts = c.texts()

    def score(views: np.ndarray, texts: Texts, temperature: float = c.temperature) -> np.ndarray:
        return clip(views, texts, temperature).scores

    found = {
        ("clip_ac", ""): score(whole, c.texts("two_class")),
        ("clip_ac_prompt_ens", ""): score(whole, c.texts("imagenet")),
        ("winclip", "one_class"): one_class_scores(whole, c.texts("two_class")[0]),
        ("winclip", "two_class"): score(whole, c.texts("two_class")),
        ("winclip", "state_ens"): score(whole, c.texts("state_ens")),
        ("winclip", "prompt_ens"): score(whole, texts),
        ("winclip", "multi_crop"): score(views, texts),
        ("winclip", ""): score(views, texts),
        ("winclip", "specific_states"): score(views, c.texts("specific_states", defects=c.defects())),
        ("winclip", "whole=center_crop"): score(c.views("center_crop"), texts),
        ("winclip", "whole=squash"): score(c.views("squash"), texts),
        ("winclip", "normalize_sentences=0"): score(views, c.texts(normalize_sentences=False)),
        ("winclip", "temperature=0.07"): score(views, texts, 0.07),
        ("winclip", "temperature=0.01"): score(views, texts, 0.01),
    }
    records = [c.record(scores, "image", method, variant) for (method, variant), scores in found.items()]
    return records + flipped(c, found["winclip", ""], "winclip")


def zero_shot(c: Category) -> list[dict]:
    """Zero-shot maps of windows and patch tokens: Tables 4 and 8."""

    found = c.measured("zero-shot", lambda: zero_shot_detector(c), each=("",))
    pixel = {k.removesuffix("/pixel"): v for k, v in found.items() if k.endswith("/pixel")}
    return [c.record(values, "pixel", "winclip", variant) for variant, values in pixel.items()]


def zero_shot_detector(c: Category) -> Detector:
    """The maps of `zero_shot` by variant; "" is WinCLIP."""
    texts, last = c.texts(), f"layer/{c.depth}"

    def detect(dense: TileFeatures) -> dict[str, Output]:
        found = zero_shot_variants(dense, texts, c.encoder.grid, c.temperature)
        if c.depth:
            tokens = patch_token_map(c.encoder, dense.tensor(last), texts, c.temperature)
            found["patch_token"] = Output(maps=tokens)
        return found

    return detect


def one_class_scores(views: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The one-class score of Table 3 (n,): half of 1 - cosine to the normal text alone, in [0, 1]."""
    text = F.normalize(F.normalize(to_tensor(normal), dim=-1).mean(0), dim=-1)  # (d,)
    cosines = F.normalize(to_tensor(views), dim=-1) @ text  # (n, v)
    return ((1 - cosines) / 2).mean(1).numpy()


def zero_shot_variants(
    dense: TileFeatures, texts: Texts, grid: tuple[int, int], temperature: float = 0.01
) -> dict[str, Output]:
    """Maps of WinCLIP and of the ablations of Table 8 that need no other feature, by variant."""
    sizes = sorted(dense.windows())
    options = {
        "": {},
        "wo_image_scale": {"image_scale": False},
        "wo_mid_scale": {"sizes": sizes[:-1]},
        "wo_small_scale": {"sizes": sizes[1:]},
        "wo_harmonic": {"aggregate": "arithmetic"},
        "wo_harmonic_within": {"aggregate": "arithmetic", "across": "harmonic"},
        "wo_harmonic_across": {"across": "arithmetic"},
    }
    return {name: methods.winclip(dense, texts, grid, temperature, **own) for name, own in options.items()}


def patch_token_map(encoder: ClipEncoder, tokens: Tensor, texts: Texts, temperature: float = 0.01) -> Tensor:
    """The map (t, rows, columns) of patch tokens matched with the texts, "patch-token" in Table 8.

    tokens: (t, patches, width) as they leave the last block; the final layer norm and the projection take
    them to the joint space.
    """
    return methods.token_map(encoder.project_tokens(tokens), encoder.grid, texts, temperature)


def within_images(c: Category) -> pd.DataFrame:
    """Of each test image: label, area (the defect's share of the image), and of WinCLIP's zero-shot map in
    this image alone the pixel AUROC and F1-max (NaN where nothing is anomalous) and the maximum (claim 40,
    Figure 11). The index counts test images."""
    zero_shot(c)
    found = c.measured("zero-shot", lambda: None, each=("",))["/each"]  # measured just now
    areas = [c.test.mask(i).mean() if label else 0.0 for i, label in enumerate(c.test.labels)]
    names = ("auroc", "f1max", "maximum")
    return pd.DataFrame({"label": c.test.labels, "area": areas, **dict(zip(names, found.T, strict=True))})


def generic_extractor(c: Category) -> Extractor:
    """`maskclip`, `maskclip_full` (t, patches, d), `trans_mm_logit`, `trans_mm_difference` (t, rows,
    columns), of which the last two depend on the category's texts."""
    texts = c.texts()
    sides = torch.stack(
        [torch.nn.functional.normalize(torch.from_numpy(side), dim=-1).mean(0) for side in texts]
    )
    model = c.encoder.model
    key = {**{k: c.clip.key[k] for k in ("model", "weights", "precision")}, "generic": 1, "category": c.name}
    key |= {"sentences": c.sentences_key(), "normalize_sentences": c.normalize_sentences}  # Trans-MM's target

    def features(pixels: Tensor) -> dict[str, Tensor]:
        values = {
            "maskclip": maskclip_tokens(model.visual, pixels),
            "maskclip_full": maskclip_tokens(model.visual, pixels, residual_and_mlp=True),
        }
        for target in ("logit", "difference"):
            values[f"trans_mm_{target}"] = trans_mm(model, pixels, sides, target=target)
        return values

    return Extractor(key, c.encoder.image_size, c.encoder.transform, features)


def generic(c: Category) -> list[dict]:
    """Maps by MaskCLIP and Trans-MM: Table 4."""
    texts, grid = c.texts(), c.encoder.grid

    def detect(dense: TileFeatures) -> dict[str, Output]:
        tokens = {"maskclip|": "maskclip", "maskclip|residual_and_mlp=1": "maskclip_full"}
        maps = {
            name: methods.token_map(dense.tensor(key), grid, texts, c.temperature)
            for name, key in tokens.items()
        }
        maps["trans_mm|"] = dense.tensor("trans_mm_logit")
        maps["trans_mm|target=difference"] = dense.tensor("trans_mm_difference")
        return {name: Output(maps=values) for name, values in maps.items()}

    found = c.measured("generic", lambda: detect, generic_extractor(c))
    return [c.record(v, "pixel", *k.removesuffix("/pixel").split("|")) for k, v in found.items()]


def tiling(c: Category) -> list[dict]:
    """Maps by image tiling: Table 8."""
    texts, sizes = c.texts(), c.settings.scales

    def detect(dense: TileFeatures) -> dict[str, Output]:
        def score(name: str) -> Tensor:
            return prompt_score(dense.tensor(name), *texts, c.temperature)

        scores = {size: score(f"tiles/{size}") for size in sizes}
        return {"image_tiling": Output(maps=tiling_map(scores, score("image"), c.encoder.grid))}

    found = c.measured("tiling", lambda: detect, tiling_extractor(c.encoder, sizes))
    return [c.record(found["image_tiling/pixel"], "pixel", "winclip", "image_tiling")]


SCORES = ("max_map", "ascore0", "ascore0+max_map")  # Table 5


def few_shot(
    c: Category,
    shots: Sequence[int],
    variants: Sequence[str] = ("P+Wm+Ws",),
    **options: object,
) -> list[dict]:
    """WinCLIP+: Tables 1, 4, 5 and 6; the options are those of `few_shot_detector`."""
    found = few_shot_arrays(c, shots, variants, **options)
    records, ascore0 = [], clip(c.views(c.whole), c.texts(), c.temperature).scores
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
    **options: object,
) -> dict[str, np.ndarray]:
    """What `experiment.measure` finds for each draw of references, `<variant>|<shots>|<seed>/...`; options as
    in `few_shot_detector`."""

    def make() -> Detector:
        return few_shot_detector(c, shots, variants, **options)

    return c.measured("few-shot", make, shots=shots, variants=list(variants), **options)


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

    variants: sets of reference maps, names in `methods.MAPS`. fuse, aggregate: of `references`.
    layer_norm: whether patch tokens pass the last layer norm. The paper takes "the last feature map before
        pooling"; the default takes it as the last block leaves it, newer open_clip versions normalise it.
    """
    last, norm = f"layer/{c.depth}", c.encoder.model.visual.ln_post
    texts, grid = c.texts(), c.encoder.grid

    def patches(dense: TileFeatures) -> Tensor:
        tokens = dense.tensor(last)
        return norm(tokens.to(c.encoder.device)).detach().cpu() if layer_norm else tokens

    reference, draws = c.references(c.draws(shots), c.clip)
    memories = {k: methods.fit_references(reference, images, patches) for k, images in draws.items()}
    options = {"variants": variants, "fuse": fuse, "aggregate": aggregate}

    def detect(dense: TileFeatures) -> dict[str, Output]:
        language = methods.winclip(dense, texts, grid, c.temperature)
        tokens, found = patches(dense), {}
        for (k, seed), memory in memories.items():
            outputs = methods.winclip_plus(dense, tokens, memory, language, grid, **options)
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
    baselines: Sequence[str] = ("spade", "padim", "patchcore"),
) -> list[dict]:
    """SPADE, PaDiM and PatchCore: Tables 1 and 4, and on a CLIP's own patch tokens Table S8; options as in
    `baseline_detector`."""

    def make() -> Detector:
        return baseline_detector(c, shots, backbone, baselines)

    extractor, names = baseline_extractor(c, backbone), list(baselines)
    found = c.measured("baselines", make, extractor, shots=shots, kinds=(), methods=names)
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
    baselines: Sequence[str] = ("spade", "padim", "patchcore"),
) -> Detector:
    """The few-shot baselines for each draw of references: outputs `<method>|<shots>|<seed>`.

    backbone: a convolutional network with `layer1` to `layer4`, of which each method takes those of its
        paper; None: the CLIP, with the two hidden blocks that stand for layer2 and layer3 (supplement B).
    baselines: of "spade", "padim", "patchcore" and, on a CLIP, "patchcore_last": on the last block's tokens.
    """
    extractor = baseline_extractor(c, backbone)
    if backbone is None:
        spread = deep = [str(layer) for layer in hidden_layers(c.depth)]
    else:
        spread, deep = ["layer1", "layer2", "layer3"], ["layer2", "layer3"]
    deepest = str(c.depth) if backbone is None else "layer4"  # what SPADE retrieves by: the last one
    names = {"patchcore": deep, "patchcore_last": [str(c.depth)]}

    def features(dense: TileFeatures) -> dict[str, Tensor]:
        layers = dense.starting("layer")
        maps = {k: v.unflatten(1, c.encoder.grid) if v.ndim == 3 else v for k, v in layers.items()}
        local = {m: names[m] for m in baselines if m in names}
        # PatchCore's own features once for all memories
        return maps | {
            m: few_shot_module.locally_aware({k: maps[k] for k in own}) for m, own in local.items()
        }

    def fit(method: str, references: dict[str, Tensor], seed: int) -> Callable[[dict[str, Tensor]], tuple]:
        size = extractor.image_size
        if method == "spade":
            memory = few_shot_module.spade_memory(references, layers=spread, global_layer=deepest)
            return lambda query: few_shot_module.spade(query, memory, size)
        if method == "padim":
            gaussians = few_shot_module.padim_memory(references, layers=spread, seed=seed)
            return lambda query: few_shot_module.padim(query, gaussians, size)
        own = {"layers": [method], "neighbourhood": 1, "channels": None, "seed": seed}
        entries = few_shot_module.patchcore_memory(references, **own)
        return lambda query: few_shot_module.patchcore(query, entries, size)

    reference, draws = c.references(c.draws(shots), extractor)
    fitted = {}
    for (k, seed), images in draws.items():
        chosen = methods.tiles_of(reference, images, features)
        fitted |= {f"{method}|{k}|{seed}": fit(method, chosen, seed) for method in baselines}

    def detect(dense: TileFeatures) -> dict[str, Output]:
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
    ascore0 = clip(c.views(c.whole), c.texts(), c.temperature).scores
    found = few_shot_arrays(c, shots, variants)
    return {
        (where["shots"], where["seed"]): (values + ascore0) / 2
        for (variant, where), values in _by_draw(found, "scores")
        if variant == "P+Wm+Ws"
    }


def left_open(c: Category) -> list[dict]:
    """What the paper does not say, one option at a time: zero-shot maps, and WinCLIP+ with one reference."""
    size = 2 * min(c.encoder.image_size) // 3

    def changed(**values: object) -> Category:
        return replace(c, settings=replace(c.settings, **values))

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


def few_shot_design(settings: Settings, role: str) -> tuple[Sequence[int], Sequence[str]]:
    """Shots and sets of maps that the tables ask for; the ablations (Tables 5, 6) are on MVTec-AD alone."""
    if role == "mvtec":
        return sorted({*settings.shots, *settings.ablation_shots}), tuple(methods.MAPS)
    return settings.shots, tuple(methods.MAPS)[-1:]
