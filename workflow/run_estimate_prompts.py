"""AnomalyCLIP's part of `workflow.run_estimate`: what is learned on auxiliary sets, and measured with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from workflow.run_samples import FIRST, SECOND, Run, Sample, Terms, split
from zsad_core.cache import content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_core.prompt_config import recipe_of
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip import tables as anomalyclip_tables
from zsad_papers.baselines.backbones import backbone_of
from zsad_papers.baselines.rd4ad import LAYERS, train_rd4ad
from zsad_papers.common import data
from zsad_papers.common.data import dataset_of
from zsad_papers.common.settings import Settings


def anomalyclip_stages(run: Run, windows: ClipEncoder, datasets: Mapping[str, AnomalyDataset]) -> None:
    if not {FIRST, SECOND} <= set(datasets):
        run.failed["AnomalyCLIP"] = "it needs the datasets of mvtec and visa, to learn on one for the other"
        return
    encoder = data.prompt_encoder(run.settings)
    names = {role: run.settings.datasets[role] for role in anomalyclip_tables.ROLES if role in datasets}
    others = anomalyclip_tables.first_roles({r: n for r, n in names.items() if r not in (FIRST, SECOND)})
    learned: set[str] = set()  # in the whole run
    known: list[Sample] = []  # of trainings
    for target, roles in ((FIRST, [FIRST]), (SECOND, [SECOND]), ("others", list(others.values()))):
        job = f"anomalyclip {target}"
        for auxiliary, options in _trainings(run.settings, encoder, roles, learned).items():
            if auxiliary in datasets:
                what = f"prompts learned for {target} on {auxiliary}"
                key = what, job, "image of an epoch"
                known = _learn(run, encoder, key, auxiliary, options, datasets[auxiliary], known)
        for alike in _kinds(roles, datasets).values():
            _measure_prompts(run, encoder, windows, alike, job, datasets)
        if target != "others":
            _rd4ad(run, target, job, datasets[target])


def _kinds(roles: list[str], datasets: Mapping[str, AnomalyDataset]) -> dict[tuple[bool, bool], list[str]]:
    """Roles whose datasets are measured alike: with masks or not, with normal test images or not."""
    found: dict[tuple[bool, bool], list[str]] = {}
    for role in roles:
        test = datasets[role].select(split="test")
        found.setdefault((data.has_masks(test), len(set(test.labels.tolist())) == 2), []).append(role)
    return found


def _trainings(
    settings: Settings, encoder: ClipEncoder, roles: list[str], learned: set[str]
) -> dict[str, list[dict | None]]:
    """By auxiliary role, the options of each training that no earlier target needed; None stands for VAND.
    learned: what was seen before, added to."""
    found: dict[str, list[dict | None]] = {}
    for role in roles:
        for variant in anomalyclip_tables.variants_of(settings, role):
            if variant == "baselines":
                continue
            vand = variant.startswith("vand")
            options = None if vand else anomalyclip_experiments.training_options(variant)
            auxiliary = anomalyclip_experiments.auxiliary_of_variant(role, variant.removeprefix("vand;"))
            recipe = "vand" if vand else content_key(recipe=recipe_of(encoder, **options).key())
            if f"{auxiliary}/{recipe}" not in learned:
                learned.add(f"{auxiliary}/{recipe}")
                found.setdefault(auxiliary, []).append(options)
    return found


def _training_terms(
    settings: Settings, encoder: ClipEncoder, auxiliary: str, options: list[dict | None], images: int
) -> Terms:
    """Trainings, images through the tower for their features, and images of all epochs."""
    epochs, features = 0, set()
    for chosen in options:
        if chosen is None:  # VAND: on MVTec AD with as many mosaics
            epochs += settings.prompt_epochs or (3 if auxiliary == FIRST else 15)
            features |= {"vand", "mosaics"} if auxiliary == FIRST else {"vand"}
            continue
        own = {} if settings.prompt_epochs is None else {"epochs": settings.prompt_epochs}
        recipe = recipe_of(encoder, **{**own, **chosen})
        layers = recipe.layers if recipe.local else recipe.layers[-1:]
        epochs += recipe.epochs
        features.add((layers, recipe.attention, recipe.first, recipe.final_norm))
    return {
        "training": len(options),
        "image for features": images * len(features),
        "image of an epoch": images * epochs,
    }


def _learn(
    run: Run,
    encoder: ClipEncoder,
    key: tuple[str, str, str],
    auxiliary: str,
    options: list[dict | None],
    dataset: AnomalyDataset,
    known: list[Sample],
) -> list[Sample]:
    """Trainings on two sizes of an auxiliary set. known: samples of others, whose steps cost the same;
    without them the larger one is learned from a second time, for three epochs. Gives all samples."""
    whole = _training_terms(run.settings, encoder, auxiliary, options, _learned_from(auxiliary, dataset))
    for size, epochs in (("small", 1), ("large", 1)) + ((("large", 3),) if not known else ()):
        s = run.at(size, datasets={auxiliary: f"{auxiliary}-auxiliary"}, prompt_epochs=epochs)
        n = _learned_from(auxiliary, dataset_of(s, auxiliary))
        terms = _training_terms(s, encoder, auxiliary, options, n)
        if epochs > 1:  # the features are there
            terms = {**terms, "image for features": 0}
        learn = partial(_learn_all, s, encoder, auxiliary, options)
        run.time(key, learn, terms, whole, size)
    if key in run.samples:
        run.samples[key] = [*known, *run.samples[key]]
    return run.samples.get(key, known)


def _learned_from(auxiliary: str, dataset: AnomalyDataset) -> int:
    """Of the medical set all images, of others the test split."""
    return len(dataset) if auxiliary == anomalyclip_experiments.MEDICAL else split(dataset)[0]


def _learn_all(settings: Settings, encoder: ClipEncoder, auxiliary: str, options: list[dict | None]) -> None:
    for chosen in options:
        if chosen is None:
            anomalyclip_experiments.learned_adapters(settings, encoder, auxiliary)
        else:
            anomalyclip_experiments.learned_prompts(settings, encoder, auxiliary, **chosen)


def _measure_prompts(
    run: Run,
    encoder: ClipEncoder,
    windows: ClipEncoder,
    roles: list[str],
    job: str,
    datasets: Mapping[str, AnomalyDataset],
) -> None:
    """What `anomalyclip_tables.measure_everything` does with learned prompts on datasets that are alike; the
    first of them is sampled."""
    role = roles[0]
    variants = anomalyclip_tables.variants_of(run.settings, role)
    unit = "test image" if role in (FIRST, SECOND) else "image"  # of those two, views are there
    count = lambda d: split(d)[0] if unit == "test image" else len(d)  # noqa: E731
    whole = {"category": sum(len(datasets[r].categories) for r in roles)}
    whole[unit] = sum(count(datasets[r]) for r in roles)
    others = f" and {len(roles) - 1} like it" if len(roles) > 1 else ""
    learned_on = {
        anomalyclip_experiments.auxiliary_of_variant(role, v.removeprefix("vand;")) for v in variants
    }
    for size in ("small", "large"):
        there = {r for r in learned_on if (run.folder / size / "data" / f"{r}-auxiliary").is_dir()}
        s = run.at(size, datasets={r: f"{r}-auxiliary" for r in there}, prompt_epochs=1)
        own = {"category": 1, unit: count(dataset_of(s, role))}
        measure = partial(_measure_all, s, encoder, windows, role, variants)
        run.time((f"AnomalyCLIP and baselines, {role}{others}", job, unit), measure, own, whole, size)


def _measure_all(
    settings: Settings, encoder: ClipEncoder, windows: ClipEncoder, role: str, variants: list[str]
) -> None:
    anomalyclip_experiments.study(settings, encoder, role, variants)
    anomalyclip_tables.winclip_records(settings, windows, role)


def _rd4ad(run: Run, role: str, job: str, dataset: AnomalyDataset) -> None:
    backbone = backbone_of(run.settings)
    if backbone is None or find_spec("anomalib") is None:
        return
    epochs = inspect.signature(train_rd4ad).parameters["epochs"].default
    train = split(dataset)[1]
    whole = {"training": len(dataset.categories), "image of an epoch": epochs * train}
    normal = dataset_of(run.at("few"), role).select(split="train")
    for n in (1, 2):
        fit = partial(train_rd4ad, normal, replace(backbone, layers=LAYERS), epochs=n, progress=False)
        terms = {"training": 1, "image of an epoch": n * len(normal)}
        run.time((f"RD4AD, {role}", job, "image of an epoch"), fit, terms, whole, "few")
