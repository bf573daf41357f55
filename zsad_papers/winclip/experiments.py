"""WinCLIP's experiments, each a function from a `Category` to records (`Category.record`), of which
`winclip.tables` makes the papers' rows. Measurements are cached category by category."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core import methods
from zsad_core.image_features import Extractor, TileFeatures
from zsad_core.methods import Detector, Output, Texts, clip
from zsad_core.scores import prompt_score, to_tensor
from zsad_papers.baselines.backbones import Backbone
from zsad_papers.baselines.detectors import as_baselines_see, baseline_detector
from zsad_papers.baselines.relevance import maskclip_tokens, trans_mm
from zsad_papers.baselines.tiling import tiling_extractor, tiling_map
from zsad_papers.common import galleries
from zsad_papers.common.experiment import Category, by_defect
from zsad_papers.common.results import FULL_SHOT
from zsad_papers.common.settings import Settings

FULL = ("P+Wm+Ws",)  # the reference maps of WinCLIP+ itself, of `methods.MAPS`
OWN_SCORE = "ascore0+max_map"  # the image score of WinCLIP+ itself (Eq. 6), of those of Table 5


def zero_shot_classification(category: Category) -> list[dict]:
    """Zero-shot image scores: Tables 1, 3 and 7, and options of the prompts."""
    views, texts, two = category.views(), category.texts(), category.texts("two_class")
    whole = views[:, ::6]  # of each tile the view without a crop

    def score(views: np.ndarray, texts: Texts, temperature: float = category.temperature) -> np.ndarray:
        return clip(views, texts, temperature).scores

    clip_ac = {"clip_ac": score(whole, two), "clip_ac_prompt_ens": score(whole, category.texts("imagenet"))}
    winclip = {
        "one_class": one_class_scores(whole, two[0]),
        "two_class": score(whole, two),
        "state_ens": score(whole, category.texts("state_ens")),
        "prompt_ens": score(whole, texts),
        **dict.fromkeys(("multi_crop", ""), score(views, texts)),
        "specific_states": score(views, category.texts("specific_states", defects=category.defects())),
        "whole=center_crop": score(category.views("center_crop"), texts),
        "whole=squash": score(category.views("squash"), texts),
        "normalize_sentences=0": score(views, category.texts(normalize_sentences=False)),
        "temperature=0.07": score(views, texts, 0.07),
        "temperature=0.01": score(views, texts, 0.01),
    }
    records = [category.record(scores, "image", method) for method, scores in clip_ac.items()]
    records += [category.record(scores, "image", "winclip", variant) for variant, scores in winclip.items()]
    return records + by_defect(category, winclip[""], "winclip")


def one_class_scores(views: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The one-class score of Table 3 (n,): half of 1 - cosine to the normal text alone, in [0, 1]."""
    text = F.normalize(F.normalize(to_tensor(normal), dim=-1).mean(0), dim=-1)  # (d,)
    cosines = F.normalize(to_tensor(views), dim=-1) @ text  # (n, v)
    return ((1 - cosines) / 2).mean(1).numpy()


def zero_shot_arrays(category: Category) -> dict[str, np.ndarray]:
    """What `experiment.measure` finds of `zero_shot_detector`; of WinCLIP also within each image."""
    return category.measured("zero-shot", lambda: zero_shot_detector(category), each=("",))


def zero_shot(category: Category, ablations: bool = True) -> list[dict]:
    """Zero-shot maps of windows and, with ablations, of patch tokens and others: Tables 4 and 8."""
    alone = partial(winclip_detector, category)
    found = zero_shot_arrays(category) if ablations else category.measured("winclip", alone)
    pixel = {k: v for k, v in found.items() if k.endswith("/pixel")}
    return [category.record(v, "pixel", "winclip", k.removesuffix("/pixel")) for k, v in pixel.items()]


def winclip_detector(category: Category) -> Detector:
    """WinCLIP without ablations."""
    return methods.detector(methods.winclip, category.texts(), category.encoder.grid, category.temperature)


def within_images(category: Category) -> pd.DataFrame:
    """`galleries.within_images` of WinCLIP's zero-shot maps (claim 40, Figure 11)."""
    return galleries.within_images(category, zero_shot_arrays(category)["/each"])


def zero_shot_detector(category: Category) -> Detector:
    """The maps of `zero_shot` by variant; "" is WinCLIP. "patch-token" of Table 8 matches the last block's
    tokens, which the final layer norm and the projection take to the joint space, with the texts."""
    encoder, texts = category.encoder, category.texts()

    def detect(features: TileFeatures) -> dict[str, Output]:
        found = zero_shot_variants(features, texts, encoder.grid, category.temperature)
        if encoder.depth:
            tokens = encoder.project_tokens(features.tensor(f"layer/{encoder.depth}"))
            maps = methods.token_map(tokens, encoder.grid, texts, category.temperature)
            found["patch_token"] = Output(maps=maps)
        return found

    return detect


def zero_shot_variants(
    features: TileFeatures, texts: Texts, grid: tuple[int, int], temperature: float = 0.01
) -> dict[str, Output]:
    """Maps of WinCLIP and of the ablations of Table 8 that need no other feature, by variant."""
    sizes = sorted(features.windows())
    options = {
        "": {},
        "wo_image_scale": {"image_scale": False},
        "wo_mid_scale": {"sizes": sizes[:-1]},
        "wo_small_scale": {"sizes": sizes[1:]},
        "wo_harmonic": {"aggregate": "arithmetic"},
        "wo_harmonic_within": {"aggregate": "arithmetic", "across": "harmonic"},
        "wo_harmonic_across": {"across": "arithmetic"},
    }
    return {name: methods.winclip(features, texts, grid, temperature, **own) for name, own in options.items()}


def other_localization_extractor(category: Category) -> Extractor:
    """`maskclip*` (t, patches, d), `trans_mm*` (t, rows, columns), which depend on the category's texts."""
    encoder, texts = category.encoder, category.texts()
    sides = torch.stack([F.normalize(torch.from_numpy(side), dim=-1).mean(0) for side in texts])
    key = {name: category.clip.key[name] for name in ("model", "weights", "precision")}
    key |= {"generic": 1, "category": category.name, "sentences": category.sentences_key()}
    key |= {"normalize_sentences": category.normalize_sentences}  # with the sentences, Trans-MM's target

    def features(pixels: Tensor) -> dict[str, Tensor]:
        tokens = zip(("maskclip", "maskclip_full"), maskclip_tokens(encoder.model.visual, pixels))
        maps = trans_mm(encoder.model, pixels, sides, ("logit", "difference"))
        return {**dict(tokens), **{f"trans_mm_{target}": own for target, own in maps.items()}}

    return Extractor(key, encoder, features)


def other_localization(category: Category) -> list[dict]:
    """Maps by MaskCLIP and Trans-MM: Table 4."""
    how = (category.encoder.grid, category.texts(), category.temperature)
    tokens = {"maskclip|": "maskclip", "maskclip|residual_and_mlp=1": "maskclip_full"}
    maps = {"trans_mm|": "trans_mm_logit", "trans_mm|target=difference": "trans_mm_difference"}

    def detect(features: TileFeatures) -> dict[str, Output]:
        found = {k: methods.token_map(features.tensor(name), *how) for k, name in tokens.items()}
        found |= {k: features.tensor(name) for k, name in maps.items()}
        return {name: Output(maps=values) for name, values in found.items()}

    found = category.measured("generic", lambda: detect, other_localization_extractor(category))
    return [category.record(v, "pixel", *k.removesuffix("/pixel").split("|")) for k, v in found.items()]


def tiling(category: Category) -> list[dict]:
    """Maps by image tiling: Table 8."""
    texts, sizes = category.texts(), category.settings.scales

    def detect(features: TileFeatures) -> dict[str, Output]:
        def score(name: str) -> Tensor:
            return prompt_score(features.tensor(name), *texts, category.temperature)

        scores = {size: score(f"tiles/{size}") for size in sizes}
        return {"image_tiling": Output(maps=tiling_map(scores, score("image"), category.encoder.grid))}

    found = category.measured("tiling", lambda: detect, tiling_extractor(category.encoder, sizes))
    return [category.record(found["image_tiling/pixel"], "pixel", "winclip", "image_tiling")]


def few_shot_design(settings: Settings, dataset: str) -> tuple[Sequence[int], Sequence[str]]:
    """The shots and sets of maps of the tables; the ablations (Tables 5, 6) are on MVTec-AD only."""
    if dataset == "mvtec":
        return sorted({*settings.shots, *settings.ablation_shots}), tuple(methods.MAPS)
    return settings.shots, FULL


def few_shot_detector(
    category: Category, shots: Sequence[int], *, layer_norm: bool = False, **options: object
) -> Detector:
    """WinCLIP+ for each draw of references: outputs `<variant>|<shots>|<seed>`. options: of
    `methods.winclip_plus`. layer_norm: patch tokens pass the last layer norm, as in newer open_clip."""
    last, norm = f"layer/{category.encoder.depth}", category.encoder.model.visual.ln_post
    texts, grid = category.texts(), category.encoder.grid

    def patches(features: TileFeatures) -> Tensor:
        tokens = features.tensor(last)
        return norm(tokens.to(category.encoder.device)).detach().cpu() if layer_norm else tokens

    reference, draws = category.references(category.draws(shots), category.clip)
    memories = {k: methods.fit_references(reference, images, patches) for k, images in draws.items()}

    def detect(features: TileFeatures) -> dict[str, Output]:
        language = methods.winclip(features, texts, grid, category.temperature)
        tokens, found = patches(features), {}
        for (k, seed), memory in memories.items():
            outputs = methods.winclip_plus(features, tokens, memory, language, grid, **options)
            found |= {f"{variant}|{k}|{seed}": output for variant, output in outputs.items()}
        return found

    return detect


def few_shot_arrays(
    category: Category, shots: Sequence[int], variants: Sequence[str] = FULL, **options: object
) -> dict[str, np.ndarray]:
    """What `experiment.measure` finds of `few_shot_detector`, with its options."""
    make = partial(few_shot_detector, category, shots, variants=variants, **options)
    return category.measured("few-shot", make, shots=shots, variants=list(variants), **options)


def few_shot(
    category: Category, shots: Sequence[int], variants: Sequence[str] = FULL, **options: object
) -> list[dict]:
    """WinCLIP+: Tables 1, 4, 5 and 6; the options are those of `few_shot_detector`."""
    found, records = few_shot_arrays(category, shots, variants, **options), []
    for variant, where, values in _by_draw(found, "pixel"):
        records.append(category.record(values, "pixel", "winclip_plus", f"maps={variant}", **where))
    for where, scores in few_shot_scores(category, found):
        for score, values in scores.items():
            records.append(category.record(values, "image", "winclip_plus", f"score={score}", **where))
    return records


def few_shot_by_defect(category: Category, shots: Sequence[int], variants: Sequence[str]) -> list[dict]:
    """WinCLIP+ on some kinds of defect (claims 30 and 39)."""
    records = []
    for where, scores in few_shot_scores(category, few_shot_arrays(category, shots, variants)):
        records += by_defect(category, scores[OWN_SCORE], "winclip_plus", **where)
        records += by_defect(category, scores["max_map"], "winclip_plus", ";score=max_map", **where)
    return records


def few_shot_scores(category: Category, found: Mapping[str, np.ndarray]) -> Iterator[tuple[dict, dict]]:
    """Shots and seed of each draw, and its image scores by name. found: of `few_shot_arrays`."""
    language = clip(category.views(category.whole), category.texts(), category.temperature).scores
    for variant, where, highest in _by_draw(found, "scores"):
        if variant in FULL:
            yield where, {"max_map": highest, "ascore0": language, OWN_SCORE: (highest + language) / 2}


def _by_draw(found: Mapping[str, np.ndarray], kind: str) -> Iterator[tuple[str, dict, np.ndarray]]:
    """Name, shots and seed, and values of the arrays `<name>|<shots>|<seed>/<kind>`."""
    for key in found:
        if key.endswith(f"/{kind}"):
            name, k, seed = key.removesuffix(f"/{kind}").split("|")
            yield name, {"shots": int(k), "seed": int(seed)}, found[key]


def few_shot_baselines(
    category: Category,
    shots: Sequence[int],
    backbone: Backbone | None = None,
    baselines: Sequence[str] = ("spade", "padim", "patchcore"),
    tiled: bool = False,
) -> list[dict]:
    """SPADE, PaDiM and PatchCore: Tables 1 and 4, and without a backbone, on the CLIP's tokens, Table S8."""
    category, extractor = as_baselines_see(category, backbone, tiled)
    make = partial(baseline_detector, category, shots, backbone, baselines)
    own = {"shots": shots, "kinds": (), "methods": list(baselines)}
    found = category.measured("baselines", make, extractor, **own)
    return [
        category.record(values, task, method, **where)
        for kind, task in (("scores", "image"), ("pixel", "pixel"))
        for method, where, values in _by_draw(found, kind)
    ]


def full_shot(category: Category, backbone: Backbone | None) -> list[dict]:
    """PatchCore with all normal training images (Table 2), once, because nothing is drawn."""
    one = replace(category, settings=replace(category.settings, reference_seeds=1))
    records = few_shot_baselines(one, [len(category.train)], backbone, ["patchcore"])
    return [{**record, "shots": FULL_SHOT} for record in records]


def open_choices(category: Category, backbone: Backbone | None, joint: bool) -> list[dict]:
    """Choices that the paper leaves open, one at a time: zero-shot maps, and WinCLIP+ and the baselines with
    one reference. joint: also temperature and fusing together, for the first draw alone (`;draws=1`)."""
    size = 2 * min(category.encoder.image_size) // 3

    def changed(**values: object) -> Category:
        return replace(category, settings=replace(category.settings, **values))

    both = {
        "": category,
        "temperature=0.01": changed(temperature=0.01),
        "temperature=0.07": changed(temperature=0.07),
        "normalize_sentences=0": replace(category, normalize_sentences=False),
        "whole=squash": category.seen("squash"),
        f"map_size={size}": changed(map_size=size),
    }
    image = zero_shot_classification(category)
    records = [r for r in image if r["method"] == "winclip" and r["variant"] in both]
    found = {variant: zero_shot(other, False) + few_shot(other, [1]) for variant, other in both.items()}
    found["layer_norm=1"] = few_shot(category, [1], layer_norm=True)
    found["aggregate=arithmetic"] = few_shot(category, [1], aggregate="arithmetic")
    found |= {f"fuse={how}": few_shot(category, [1], fuse=how) for how in ("mean", "none")}
    if joint:
        found |= _temperature_and_fusing(category, found)
    if backbone is not None:
        found[""] += few_shot_baselines(category, [1], backbone)
        found["whole=tiles"] = few_shot_baselines(category, [1], backbone, tiled=True)
    own = ("", "maps=P+Wm+Ws", "score=ascore0+max_map")  # the methods themselves, without ablations
    for variant, measured in found.items():
        records += [{**record, "variant": variant} for record in measured if record["variant"] in own]
    return records


def _temperature_and_fusing(category: Category, found: Mapping[str, list[dict]]) -> dict[str, list[dict]]:
    """WinCLIP+'s records by variant, where one draw is among those of `found` these; and the language's."""
    known = {";fuse=mean": "fuse=mean", ";fuse=none": "fuse=none"}
    known |= {f"{name};fuse=harmonic": name for name in ("", "temperature=0.01", "temperature=0.07")}
    both = {
        name: [r for r in found[own] if r["seed"] == category.settings.seed and r["shots"]]
        for name, own in known.items()
    }
    for t, fuse in ((0.01, "mean"), (0.07, "mean"), (0.28, "mean"), (0.28, "harmonic")):
        one = replace(category, settings=replace(category.settings, temperature=t, reference_seeds=1))
        both[f"temperature={t};fuse={fuse}"] = few_shot(one, [1], fuse=fuse)
    one_draw = {f"{name};draws=1": records for name, records in both.items()}
    return one_draw | {"temperature=0.28": zero_shot(one, False)}
