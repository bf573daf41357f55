"""AnomalyCLIP on a dataset: prompts learned on another one, scores and maps (Sec. 3.3, App. A).

An image's score is the anomalous probability of its global feature; a map's, that of each local feature, the
mean over layers, upsampled and smoothed. The paper sums over layers; the mean ranks the same and stays a
probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor
from tqdm import tqdm

from zsad_core import methods, prompt_learning
from zsad_core.cache import content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Extractor, glocal_extractor, text_embeddings
from zsad_core.losses import PARTS
from zsad_core.methods import Detector, Output, anomalyclip, detector, extractor_of
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts, train_prompts
from zsad_core.prompts import object_name
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.baselines.vand import Adapters, train_adapters, vand_detector, vand_extractor
from zsad_papers.common import data
from zsad_papers.common.data import dataset_of, has_masks, missing
from zsad_papers.common.experiment import Category, categories
from zsad_papers.common.settings import Settings

MEDICAL = "cvc_colondb"
"""The role of the medical auxiliary set (App. B): anomalous images with masks, and normal training images."""


def auxiliary_role(role: str) -> str:
    """The dataset that prompts for this one are learned on: VisA for MVTec AD, MVTec AD for all others."""
    return "visa" if role == "mvtec" else "mvtec"


def missing_for(settings: Settings, roles: Sequence[str]) -> list[str]:
    """For a page's reader: the lines of `embeddings.missing`, and for which of the datasets that are there
    nothing can be learned, since the one to learn on is not."""
    lines = missing(settings, roles)
    there = [role for role in roles if not missing(settings, [role])]
    for auxiliary in ("mvtec", "visa"):
        targets = [role for role in there if auxiliary_role(role) == auxiliary]
        if targets and missing(settings, [auxiliary]):
            lines.append(
                f"Nothing is learned for {', '.join(targets)}, as the dataset in the place of {auxiliary} is "
                "missing: AnomalyCLIP, CoOp and VAND are not run there."
            )
    return lines


def learned_prompts(
    settings: Settings, encoder: ClipEncoder, auxiliary: str, preset: str = "released", **options
) -> LearnedPrompts | None:
    """Prompts learned on the dataset in a role, read if they were learned before; None without the dataset.

    Of `MEDICAL` all images are used, of other sets the test split.
    """
    if settings.prompt_epochs is not None:
        options = {"epochs": settings.prompt_epochs, **options}
    key = {"preset": preset, "recipe": prompt_config_of(encoder, preset, **options).key()}
    train = partial(train_prompts, encoder, preset=preset, **options)
    return _kept(settings, encoder, auxiliary, key, train, LearnedPrompts)


def learned_adapters(settings: Settings, encoder: ClipEncoder, auxiliary: str) -> Adapters | None:
    """VAND's layers, as in `learned_prompts`; on MVTec AD 3 epochs and mosaics, on others 15 epochs without,
    as its authors have."""
    epochs = settings.prompt_epochs or (3 if auxiliary == "mvtec" else 15)
    mosaic = 0.2 if auxiliary == "mvtec" else 0.0
    train = partial(train_adapters, encoder, epochs=epochs, mosaic=mosaic)
    key = {"vand": 2, "epochs": epochs, "mosaic": mosaic}
    return _kept(settings, encoder, auxiliary, key, train, Adapters)


def _kept(
    settings: Settings, encoder: ClipEncoder, role: str, key: dict, train: Callable, kind: type
) -> LearnedPrompts | Adapters | None:
    """What `train(dataset, ...)` learns, kept in `cache_dir/prompts` under everything that it depends on."""
    dataset = dataset_of(settings, role)
    if dataset is None:
        return None
    split = None if role == MEDICAL else "test"
    chosen = dataset if split is None else dataset.select(split=split)
    key |= {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    name = f"{dataset.root.name}-{content_key(**key, images=chosen.fingerprint)}"
    path = Path(settings.cache_dir) / "prompts" / f"{name}.safetensors"
    if path.is_file():
        return kind.load(path)
    unfinished = path.with_name(f"{name}.unfinished.safetensors")
    folder = settings.cache_dir  # where the features lie that the studies of this dataset read
    found = train(dataset, cache_dir=folder, checkpoint=unfinished, split=split, progress=False)
    found.save(path)
    unfinished.unlink(missing_ok=True)
    return found


def clip_texts(
    encoder: ClipEncoder, category: str, cache_dir: str | Path, *, ensemble: bool = False
) -> Tensor:
    """(2, d) unit rows of the baselines CLIP and, with the ensemble, CLIP-AC (App. A.2).

    "A photo of a normal [cls]" and "A photo of an anomalous [cls]"; the ensemble puts both states into CLIP's
    ImageNet templates and takes the mean of unit embeddings of each.
    """
    name = object_name(category)
    if ensemble:
        sides = [[t(f"{word} {name}") for t in OPENAI_IMAGENET_TEMPLATES] for word in ("normal", "anomalous")]
    else:
        sides = [[f"A photo of a normal {name}"], [f"A photo of an anomalous {name}"]]
    vectors = torch.from_numpy(
        text_embeddings(encoder, [*sides[0], *sides[1]], cache_dir, "anomalyclip-clip")
    )
    unit = F.normalize(vectors, dim=-1).split([len(side) for side in sides])
    return F.normalize(torch.stack([side.mean(0) for side in unit]), dim=-1)


def score_dataset(
    prompts: LearnedPrompts,
    encoder: ClipEncoder,
    dataset: AnomalyDataset,
    measure: Callable[[Extractor, Detector, str], dict[str, np.ndarray]],
    *,
    attention: str | None = None,
    swap: bool = False,
    allow_training_images: bool = False,
) -> dict[str, np.ndarray]:
    """What `measure` finds for one category; refuses images that the prompts were learned from.

    swap: the category's name in the place of "object" (Figure 9).
    allow_training_images: look at them all the same.
    """
    if not allow_training_images:
        prompts.refuse_training_images(dataset)
    names = [object_name(dataset.meta["category"].iloc[0])]
    texts = prompts.texts(encoder, names, swap=swap)[0]
    found = detector(anomalyclip, texts, encoder.grid, prompts.config.temperature, maps=has_masks(dataset))
    key = content_key(texts=texts.double().flatten().tolist(), temperature=prompts.config.temperature)
    return measure(extractor_of(encoder, prompts.config, attention), found, key)


WORDS = ("damaged", "anomalous", "flawed", "defective", "blemished")
"""State words of Tables 13 and 14."""

ONE_MAP = {"local_weight": 1.0}
"""One map with lambda 1. The full method weighs its map four times: the code that made the paper's numbers
took the last block's map in the place of each of four layers."""

VARIANTS: dict[str, dict] = {
    "": {},
    # Table 4, modules added; Table 7, taken away
    "+T2": {**ONE_MAP, "depth": 0, "length": 0},
    "+T3": ONE_MAP,
    "+T4": {},
    "-T1": {"attention": "qk"},
    "-T2": {"object_word": None},
    "-T3": {"depth": 0, "length": 0},
    "-T4": ONE_MAP,
    "object_aware": {"object_word": None},
    "wo_dpam": {"attention": "qk"},
    # Table 5 and claim 31
    "local=0;global=0": {"epochs": 0},
    "local=0;global=1": {"local": ()},
    "local=1;global=0": {"global_loss": False},
    "local=1;global=1": {},
    "attention=qk;local=0": {"attention": "qk", "local": ()},
    "attention=qk;local=1": {"attention": "qk"},
    # Table 9
    "shared": {"shared": True},
    "unshared": {},
    # Table 10, Figure 6
    **{
        f"attention={kind}": {"attention": kind}
        for kind in ("qk", "qq", "kk", "vv", "qq+kk+vv", "qk+qq+kk+vv")
    },
    # Table 11
    "focal=0;dice=0": {"local": ()},
    "focal=0;dice=1": {"local": PARTS[1:]},
    "focal=1;dice=0": {"local": PARTS[:1]},
    "focal=1;dice=1": {},
    # Tables 13 and 14
    **{f"word={word}": {"states": ("", word)} for word in WORDS},
}
"""What differs from the full method, for `prompt_config.prompt_config_of`."""

SWEEPS = {"E": "context_length", "M": "depth", "L": "length"}
"""Figure 8: E learned words, M text blocks with learned tokens, L tokens in each; N counts image layers."""

SWITCHES: dict[str, dict] = {
    "layers": {"n_layers": 4, **ONE_MAP},
    "layers;lambda=4": {"n_layers": 4},
    "lambda=1": ONE_MAP,
    "deep=concatenate": {"deep": "concatenate"},
    "final_norm": {"final_norm": True},
    "temperature=0.01": {"temperature": 0.01},
    "ending": {"ending": ""},
    "betas=0.9": {"betas": (0.9, 0.999)},
    "half": {"half": True},
    "preset=paper": {"preset": "paper"},
}
"""The differences between paper and code (section 12 of the facts), one at a time, then all at once."""


def training_options(variant: str) -> dict:
    """Options of `ac.learned_prompts` for a variant, by the names of the published tables.

    >>> training_options("E=8"), training_options("N=2")
    ({'context_length': 8}, {'n_layers': 2, 'local_weight': 1.0})
    """
    known = {"class_name_at_test": {}, "coop": {"preset": "coop"}, "tuned=medical": {}, **VARIANTS}
    if variant in known:
        return known[variant]
    if variant.startswith("code:"):
        return SWITCHES[variant.removeprefix("code:")]
    letter, _, number = variant.partition("=")
    if letter == "N" and number.isdigit():
        return {"n_layers": int(number), **ONE_MAP}
    if letter in SWEEPS and number.isdigit():
        return {SWEEPS[letter]: int(number)}
    raise ValueError(
        f"variant {variant!r}: expected one of {', '.join(map(repr, VARIANTS))}, or E=, M=, L=, N="
    )


def sweep_variants(settings: Settings) -> list[str]:
    """The settings of Figure 8 by name; the number of layers is always 1 to 4."""
    values = {"E": settings.context_lengths, "M": settings.prompt_depths, "L": settings.token_lengths}
    return [f"{letter}={n}" for letter, ns in {**values, "N": (1, 2, 3, 4)}.items() for n in ns]


def measured(
    c: Category, study: str, extractor: Extractor, detect: Detector, **options
) -> dict[str, np.ndarray]:
    """Image scores `/scores`, and with masks `/pixel` at the size of the model's input (App. A.1), cached."""
    size = c.encoder.image_size
    return c.measured(
        study, lambda: detect, extractor, map_size=size, sigma=methods.smoothing(size), kinds=(), **options
    )


def records_of(c: Category, found: dict[str, np.ndarray], method: str, variant: str = "") -> list[dict]:
    """Records of a category: the image task where there are normal and anomalous images, the pixel task with
    masks."""
    records = []
    if len(set(c.test.labels.tolist())) == 2:
        scores = found["/scores"]
        record = c.record(scores, "image", method, variant)
        records.append({**record, "ap": record["aupr"], **score_statistics(scores, c.test.labels)})
    if "/pixel" in found:
        records.append(c.record(found["/pixel"], "pixel", method, variant))
    return records


def score_statistics(scores: np.ndarray, labels: np.ndarray, bins: int = 50) -> dict[str, float]:
    """Mean and standard deviation of scores in [0, 1], and the overlap in [0, 1] of the histograms of normal
    and anomalous ones (claim 48)."""
    shares = [
        np.histogram(scores[labels == label], bins, (0, 1))[0] / (labels == label).sum() for label in (0, 1)
    ]
    overlap = np.minimum(*shares).sum()
    return {"score_mean": scores.mean(), "score_std": scores.std(), "score_overlap": overlap}


def clip_features(encoder: ClipEncoder, attention: str = "qk") -> Extractor:
    """What the baselines CLIP and CLIP-AC are compared with: the last block, with the final layer norm."""
    depth = encoder.depth
    return glocal_extractor(encoder, (depth,), attention, quarter_blocks(depth)[0], final_norm=True)


def clip_scores(
    c: Category, *, ensemble: bool = False, attention: str = "qk", name: str | None = None
) -> dict:
    """The baselines CLIP and CLIP-AC: hand-written prompts, last block's patch tokens.

    attention: "vv" for CLIP with DPAM (claim 15, Table 4 +T1). name: a word in the place of the category's.
    """
    extractor = clip_features(c.encoder, attention)
    texts = anomalyclip_experiments.clip_texts(
        c.encoder, name or c.name, c.settings.cache_dir, ensemble=ensemble
    )
    detect = detector(anomalyclip, texts, c.encoder.grid, maps=has_masks(c.test))
    return measured(c, "anomalyclip-clip", extractor, detect, texts=_hash(texts))


def prompt_scores(c: Category, prompts: prompt_learning.LearnedPrompts, **options) -> dict[str, np.ndarray]:
    """Scores and pixel metrics of learned prompts; options of `ac.score_dataset`."""
    measure = lambda extractor, detect, key: measured(c, "anomalyclip", extractor, detect, prompts=key)  # noqa: E731
    return anomalyclip_experiments.score_dataset(prompts, c.encoder, c.test, measure, **options)


def baselines(c: Category) -> list[dict]:
    """CLIP, CLIP-AC, CLIP with DPAM, and the first rows of Table 4, which know no category."""
    records = records_of(c, clip_scores(c), "clip")
    records += records_of(c, clip_scores(c, ensemble=True), "clip_ac")
    records += records_of(c, clip_scores(c, attention="vv"), "clip", "attention=vv")
    records += [{**record, "variant": "attention=qk"} for record in records_of(c, clip_scores(c), "clip")]
    records += records_of(c, clip_scores(c, name="object"), "anomalyclip", "base")
    return records + records_of(c, clip_scores(c, name="object", attention="vv"), "anomalyclip", "+T1")


def with_prompts(c: Category, role: str, variant: str) -> list[dict]:
    """Records of AnomalyCLIP in a variant.

    Three names are no options of its training: `class_name_at_test` puts the name into the full method's
    prompts (Figure 9), `coop` is that baseline, `tuned=medical` learns on medical images (Table 3).
    """
    options = training_options(variant)
    prompts = anomalyclip_experiments.learned_prompts(
        c.settings, c.encoder, auxiliary_of_variant(role, variant), **options
    )
    if prompts is None:
        return []
    found = prompt_scores(c, prompts, swap=variant == "class_name_at_test")
    coop = variant == "coop"
    return records_of(c, found, "coop" if coop else "anomalyclip", "" if coop else variant)


def extractors_of(encoder: ClipEncoder, variants: Sequence[str]) -> list[Extractor]:
    """The features that `study` reads of test images in these variants, each once."""
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


def vand(c: Category, role: str, variant: str = "") -> list[dict]:
    """Records of VAND; variant: empty, or `tuned=medical` (Table 3)."""
    adapters = anomalyclip_experiments.learned_adapters(
        c.settings, c.encoder, auxiliary_of_variant(role, variant)
    )
    if adapters is None:
        return []
    adapters.refuse_training_images(c.test)
    both = vand_detector(c.encoder, adapters, c.name, c.settings.cache_dir)
    scores_only = lambda dense: {name: Output(out.scores) for name, out in both(dense).items()}  # noqa: E731
    detect = both if data.has_masks(c.test) else scores_only
    key = content_key(**{name: value.flatten().tolist() for name, value in adapters.parameters.items()})
    size, extractor = c.encoder.image_size, vand_extractor(c.encoder)
    found = c.measured("vand", lambda: detect, extractor, map_size=size, kinds=(), adapters=key)
    return records_of(c, found, "vand", variant)


def auxiliary_of_variant(role: str, variant: str) -> str:
    """The role of the dataset that a variant is learned on, when tested on the one in `role`."""
    return (
        anomalyclip_experiments.MEDICAL
        if variant == "tuned=medical"
        else anomalyclip_experiments.auxiliary_role(role)
    )


def study(settings: Settings, encoder: ClipEncoder, role: str, variants: Sequence[str]) -> pd.DataFrame:
    """The records of variants on the dataset in a role; empty without it or its auxiliary set.

    variants: of AnomalyCLIP, or "baselines" (`baselines`), "coop", "vand", "vand;tuned=medical".
    """
    chosen = [replace(c, whole="squash") for c in categories(settings, encoder, role)]
    records: list[dict] = []
    for variant in tqdm(variants, desc=f"prompts, {role}", leave=False):
        for c in chosen:
            if variant == "baselines":
                records += baselines(c)
            elif variant.startswith("vand"):
                records += vand(c, role, variant.removeprefix("vand").removeprefix(";"))
            else:
                records += with_prompts(c, role, variant)
    names = ["category", "method", "variant", "shots", "seed", "task"]
    return pd.DataFrame(records, columns=None if records else names)


def _hash(texts: Tensor) -> str:
    return content_key(texts=texts.double().flatten().tolist())
