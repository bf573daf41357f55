"""AnomalyCLIP on a dataset: prompts learned on another one, scores and maps (Sec. 3.3, App. A)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from zsad_core import methods
from zsad_core.cache import cached_arrays, content_key
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Extractor, TileFeatures, compute_together, glocal_extractor
from zsad_core.methods import Detector, Output, anomalyclip, detector
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.prompts import PromptKind, object_name, zero_shot_prompts
from zsad_papers.anomalyclip import learning
from zsad_papers.anomalyclip.claims import WORDS
from zsad_papers.anomalyclip.learning import auxiliary_dataset, learned_adapters, learned_variants
from zsad_papers.baselines.vand import Adapters, mean_texts, vand_detector, vand_extractor
from zsad_papers.common.data import has_masks, missing
from zsad_papers.common.experiment import Category, as_frame, categories
from zsad_papers.common.results import read_table
from zsad_papers.common.settings import Settings

ONE_SEED = ("code:", "word=", "E=", "M=", "L=", "N=")  # sweeps: trained with the first seed alone


def nothing_learned(settings: Settings, datasets: Sequence[str]) -> list[str]:
    """For a page's reader: the datasets for which nothing can be learned, as the auxiliary one is missing."""
    there, lines = [dataset for dataset in datasets if not missing(settings, [dataset])], []
    for auxiliary in ("mvtec", "visa"):
        targets = ", ".join(dataset for dataset in there if auxiliary_dataset(dataset) == auxiliary)
        if targets and missing(settings, [auxiliary]):
            why = f"Nothing is learned for {targets}, because the dataset for {auxiliary} is missing"
            lines.append(f"{why}: AnomalyCLIP, CoOp and VAND are not run on it.")
    return lines


ABLATIONS: dict[str, dict[str, dict | None]] = {
    artifact: {row.variant: yaml.safe_load(row.options) for row in own.itertuples()}
    for artifact, own in read_table("anomalyclip", "variants.csv").groupby("artifact", sort=False)
}
"""By table, figure or section the variants on MVTec AD and VisA, and what differs from the full method (None:
one of `baselines`). The full method weighs its map four times, lambda 4: the code that made the paper's
numbers used the last block's map for each of the four layers."""
OTHERS, SWITCHES = ABLATIONS.pop(""), ABLATIONS.pop("code")
"""`SWITCHES`: the differences between paper and code (section 12 of the facts), one at a time, then all."""

VARIANTS = {name: own for table in ABLATIONS.values() for name, own in table.items() if own is not None}
VARIANTS |= OTHERS | {f"code:{name}": options for name, options in SWITCHES.items()}
VARIANTS |= {f"word={word}": {"states": ("", word)} for word in WORDS}
"""Options of `prompt_config.prompt_config_of` by variant."""

SWEEPS = {"E": "context_length", "M": "depth", "L": "length", "N": "n_layers"}
"""Figure 8: E learned words, M text blocks with learned tokens, L tokens in each, N image layers."""


def training_options(variant: str) -> dict:
    """Options of `learned_prompts` for a variant, by the names of the published tables.

    >>> training_options("E=8"), training_options("N=2")
    ({'context_length': 8}, {'n_layers': 2, 'local_weight': 1.0})
    """
    letter, _, number = variant.partition("=")
    if letter in SWEEPS and number.isdigit():
        return {SWEEPS[letter]: int(number), **({"local_weight": 1.0} if letter == "N" else {})}
    if variant not in VARIANTS:
        raise ValueError(f"{variant=}: expected one of {', '.join(map(repr, VARIANTS))}, or E=, M=, L=, N=")
    return VARIANTS[variant]


def sweep_variants(settings: Settings) -> list[str]:
    """The settings of Figure 8 by name; the number of layers is always 1 to 4."""
    values = {"E": settings.context_lengths, "M": settings.prompt_depths, "L": settings.token_lengths}
    return [f"{letter}={n}" for letter, ns in {**values, "N": (1, 2, 3, 4)}.items() for n in ns]


class Method(NamedTuple):
    """How a method makes scores and maps of a category. name, key: what measurements are cached under. sigma:
    of the maps' smoothing, in pixels of the input."""

    name: str
    extractor: Extractor
    detect: Detector
    sigma: float
    key: dict[str, str]


def squashed(settings: Settings, encoder: ClipEncoder, dataset: str) -> list[Category]:
    """A stand-in's categories, images squashed as in AnomalyCLIP; without a stand-in none, no warning."""
    if missing(settings, [dataset]):
        return []
    return [replace(category, whole="squash") for category in categories(settings, encoder, dataset)]


def clip_features(encoder: ClipEncoder, attention: str = "qk") -> Extractor:
    """The features of the baselines CLIP and CLIP-AC: the last block's, with the final layer norm."""
    depth = encoder.depth
    return glocal_extractor(encoder, (depth,), attention, quarter_blocks(depth)[0], final_norm=True)


def clip_method(
    category: Category, *, prompts: PromptKind | None = None, attention: str = "qk", name: str | None = None
) -> Method:
    """CLIP: hand-written prompts, last block's patch tokens. prompts: "imagenet" for CLIP-AC, with CLIP's
    templates (App. A.2). attention: "vv" for DPAM (claim 15, Table 4 +T1). name: replaces the category's."""
    encoder, word = category.encoder, object_name(name or category.name)
    sides = [f"A photo of a normal {word}"], [f"A photo of an anomalous {word}"]
    sides = zero_shot_prompts(word, prompts) if prompts else sides
    texts = mean_texts(encoder, sides, category.settings.cache_dir)
    detect, sigma = detector(anomalyclip, texts, encoder.grid), methods.smoothing(encoder.image_size)
    key = {"texts": content_key(texts=texts.flatten().tolist())}
    return Method("anomalyclip-clip", clip_features(encoder, attention), detect, sigma, key)


def learned_texts(category: Category, learned: LearnedPrompts, swap: bool = False) -> Tensor:
    """(2, d) of learned prompts, cached, so that kept records need no text tower. swap: as in `method_of`."""
    encoder = category.encoder
    name = object_name(category.name) if swap or learned.config.design.object_word is None else "object"
    key = {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    key |= {"learned": learned.digest, "swap": swap, "name": name}
    place = Path(category.settings.cache_dir) / "texts", "learned", key
    found = cached_arrays(*place, lambda: {"texts": learned.texts(encoder, [name], swap=swap)[0].numpy()})
    return torch.from_numpy(found["texts"])


def method_of(
    category: Category,
    learned: LearnedPrompts | Adapters | None = None,
    *,
    swap: bool = False,
    allow_training_images: bool = False,
) -> Method:
    """AnomalyCLIP or CoOp with learned prompts, VAND with its layers, or CLIP with nothing learned. Refuses
    images it learned from, unless allowed. swap: the name replaces the word "object" (Figure 9)."""
    if learned is None:
        return clip_method(category)
    if not allow_training_images:
        learned.refuse_training_images(category.test)
    encoder = category.encoder
    if isinstance(learned, Adapters):
        detect = vand_detector(encoder, learned, category.name, category.settings.cache_dir)
        return Method("vand", vand_extractor(encoder), detect, 0.0, {"adapters": learned.digest})
    config = learned.config
    texts = learned_texts(category, learned, swap)
    detect = detector(anomalyclip, texts, encoder.grid, config.temperature)
    key = {"prompts": content_key(texts=texts.flatten().tolist(), temperature=config.temperature)}
    sigma = methods.smoothing(encoder.image_size)
    return Method("anomalyclip", methods.extractor_of(encoder, config), detect, sigma, key)


def measured(
    category: Category, method: Method, *, each: Sequence[str] = (), stretched: bool = True
) -> dict[str, np.ndarray]:
    """Image scores `/scores`, and with masks `/pixel`, cached; each: as in `experiment.measure`. stretched:
    masks have the size of the model's input (App. A.1); False: that of the profile, as for WinCLIP."""
    masks, size = has_masks(category.test), category.encoder.image_size if stretched else None

    def detect(features: TileFeatures) -> dict[str, Output]:
        found = method.detect(features)
        return found if masks else {name: Output(output.scores) for name, output in found.items()}

    options = {"map_size": size, "sigma": method.sigma, "kinds": (), "each": each}
    return category.measured(method.name, lambda: detect, method.extractor, **options, **method.key)


def records_of(
    category: Category, found: dict[str, np.ndarray], method: str, variant: str = ""
) -> list[dict]:
    """The image task where there are normal and anomalous images, the pixel task with masks."""
    records = []
    if len({*category.test.labels}) == 2:
        scores = found["/scores"]
        record = category.record(scores, "image", method, variant)
        records.append({**record, **score_statistics(scores, category.test.labels)})
    if "/pixel" in found:
        records.append(category.record(found["/pixel"], "pixel", method, variant))
    return records


def score_statistics(scores: np.ndarray, labels: np.ndarray, bins: int = 50) -> dict[str, float]:
    """Mean and deviation of scores in [0, 1], and overlap of normal and anomalous histograms (claim 48)."""
    sides = [scores[labels == label] for label in (0, 1)]
    overlap = np.minimum(*(np.histogram(own, bins, (0, 1))[0] / len(own) for own in sides)).sum()
    return {"score_mean": scores.mean(), "score_std": scores.std(), "score_overlap": overlap}


def baselines(category: Category) -> list[dict]:
    """CLIP, CLIP-AC, CLIP with DPAM, and the first rows of Table 4, which know no category."""
    chosen = {
        ("clip", ""): {},
        ("clip_ac", ""): {"prompts": "imagenet"},
        ("clip", "attention=vv"): {"attention": "vv"},
        ("clip", "attention=qk"): {},
        ("anomalyclip", "base"): {"name": "object"},
        ("anomalyclip", "+T1"): {"name": "object", "attention": "vv"},
    }
    found = {key: measured(category, clip_method(category, **options)) for key, options in chosen.items()}
    return [record for key, arrays in found.items() for record in records_of(category, arrays, *key)]


def learned_for(
    settings: Settings, encoder: ClipEncoder, dataset: str, variants: Sequence[str]
) -> dict[tuple[str, int], LearnedPrompts | Adapters]:
    """What each variant and seed learned for a dataset's stand-in; nothing without the auxiliary set."""
    seeds = {name: 1 if name.startswith(ONE_SEED) else settings.prompt_seeds for name in variants}
    tasks = [(v, learning.FIRST_SEED + k) for v, n in seeds.items() if v != "baselines" for k in range(n)]
    found: dict = {}
    for auxiliary in (auxiliary_dataset(dataset), learning.MEDICAL):
        own = [task for task in tasks if (auxiliary == learning.MEDICAL) == task[0].endswith("tuned=medical")]
        layers = [task for task in own if task[0].startswith("vand")]
        prompts = [task for task in own if task not in layers]
        options = [{**training_options(variant), "seed": seed} for variant, seed in prompts]
        found |= zip(prompts, learned_variants(settings, encoder, auxiliary, options) if prompts else ())
        found |= {task: learned_adapters(settings, encoder, auxiliary, task[1]) for task in layers}
    return {task: found[task] for task in tasks if found.get(task)}


def extractors_of(encoder: ClipEncoder, variants: Sequence[str]) -> list[Extractor]:
    """The test features that `run_experiment` reads for these variants, each once."""
    found: list[Extractor] = []
    for variant in variants:
        if variant == "baselines":
            found += [clip_features(encoder, attention) for attention in ("qk", "vv")]
        elif variant.startswith("vand"):
            found.append(vand_extractor(encoder))
        else:
            config = prompt_config_of(encoder, **training_options(variant))
            found.append(methods.extractor_of(encoder, config))
    return list({content_key(**extractor.key): extractor for extractor in found}.values())


def run_experiment(
    settings: Settings,
    encoder: ClipEncoder,
    dataset: str,
    variants: Sequence[str],
    measure: Callable = measured,
) -> pd.DataFrame:
    """The records of variants on a dataset's stand-in; none without it or its auxiliary set. variants: of
    `VARIANTS` or `sweep_variants`, "baselines", "vand", "vand;tuned=medical". measure: of what is learned."""
    chosen, records = squashed(settings, encoder, dataset), []
    learned = learned_for(settings, encoder, dataset, variants) if chosen else {}
    there = {"baselines", *(name for name, _ in learned)}
    extractors = extractors_of(encoder, [variant for variant in variants if variant in there])
    for category in tqdm(chosen, desc=f"prompts, {dataset}", leave=False):
        compute_together(extractors, category.test, settings.cache_dir)
        records += baselines(category) if "baselines" in variants else []
        for (variant, seed), own in learned.items():
            method, _, rest = variant.partition(";")
            names = (method, rest) if method in ("coop", "vand") else ("anomalyclip", variant)
            found = measure(category, method_of(category, own, swap=variant == "class_name_at_test"))
            records += [record | {"seed": seed} for record in records_of(category, found, *names)]
    return as_frame(records)
