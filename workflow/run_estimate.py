"""How long the workflow will take, and how much disk: its own functions, timed on a few images of each
dataset in a temporary cache, and extrapolated by counts (`workflow.run_samples`).

Two sizes of sample tell what a category costs from what an image costs. Prompts are learned for one epoch and
for three. Where weights are not there, random ones of the same architecture take the same time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from workflow.run_estimate_prompts import anomalyclip_stages
from workflow.run_samples import (
    FIRST,
    SECOND,
    Estimate,
    Run,
    sample_dataset,
    split,
    threads,
    typical_category,
)
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.image_features import image_embeddings, random_word_embeddings
from zsad_core.prompts import ANOMALY_WORDS, NORMAL_WORDS, WORD_PAIRS
from zsad_papers.anomalyclip import experiments as ac
from zsad_papers.baselines.backbones import backbone_of
from zsad_papers.common.data import dataset_of, encoder_of
from zsad_papers.common.experiment import study
from zsad_papers.common.settings import Settings, folder_and_category, repository_root
from zsad_papers.rwda import tables as rwda_tables
from zsad_papers.winclip import tables as winclip_tables
from zsad_papers.winclip.experiments import full_shot, language, zero_shot

TEST = {"small": 1, "large": 4, "few": 1}  # test images of each label: what a category costs, and an image
AUXILIARY = {"small": 4, "large": 8}  # images of each label that prompts are learned from: whole batches
SENTENCES = {"small": 64, "large": 256}  # prompt pairs
FNN_PAIRS = {"small": 200, "large": 600}
EMBEDDED = (FIRST, SECOND, "sewerml")  # as in the Snakefile


def estimate_run(
    settings: Settings, folder: Path, told: Callable[[str], object] = lambda what: None
) -> tuple[list[Estimate], dict[str, str]]:
    """Estimates of the stages, in the order of the workflow, and what could not be estimated, with why.

    settings: weights that are not there replaced by "random". folder: for the samples, removed by the caller.
    """
    run = Run(settings, folder, told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is missing: the checks have said it
        datasets = {role: dataset_of(settings, role) for role, name in settings.datasets.items() if name}
        datasets = {role: dataset for role, dataset in datasets.items() if dataset is not None}
        for size in TEST:
            make_samples(run, datasets, size)
        encoder = encoder_of(settings)
        encoder.embed_text(["warm"])
        with threads(2):
            views_stage(run, encoder)
            _texts(run, encoder)
        with threads(1):
            for role in (FIRST, SECOND):
                if role in datasets:
                    _winclip(run, encoder, role, datasets[role])
            anomalyclip_stages(run, encoder, datasets)
            _fnns(run, encoder)
            if FIRST in datasets:
                _others(run, encoder, datasets[FIRST])
        _processes(run)
    for role, name in settings.datasets.items():
        if name and role not in datasets:
            run.failed[f"all of {role}"] = f"the dataset {name} is not there"
    run.failed["arithmetic, metrics and figures in the notebooks; the build of the book"] = "not sampled"
    return run.estimates(), run.failed


def make_samples(run: Run, datasets: Mapping[str, AnomalyDataset], size: str) -> None:
    """For a role that WinCLIP tests on, as many training images as its draws of references touch; for others,
    as large a share as in the whole. The sample `few` has a third of them."""
    settings, data = run.settings, run.folder / size / "data"
    for role, dataset in datasets.items():
        category = typical_category(dataset)
        if role in (FIRST, SECOND):
            shots = max((*settings.shots, *settings.ablation_shots) if role == FIRST else settings.shots)
            n_train = shots * settings.reference_seeds
            n_train = max(shots, n_train // 3) if size == "few" else n_train
        else:
            train = int((dataset.meta["split"] == "train").sum())
            n_train = round(2 * TEST[size] * train / max(1, len(dataset) - train))
        sample_dataset(dataset, data / role, category, TEST[size], n_train)
        if size in AUXILIARY and role in (FIRST, SECOND, ac.MEDICAL):
            several = AUXILIARY[size]
            sample_dataset(dataset, data / f"{role}-auxiliary", category, several, several)


def views_stage(run: Run, encoder: ClipEncoder) -> None:
    """Six views of each image of the datasets that RWDA tests on."""
    folders = {
        folder_and_category(name)[0]: role
        for role in reversed(EMBEDDED)
        if (name := run.settings.datasets.get(role)) and (run.folder / "small" / "data" / role).is_dir()
    }
    for name, role in folders.items():
        whole = {"image": len(dataset_of(replace(run.settings, datasets={role: name}), role))}
        for size in ("small", "large"):
            part = dataset_of(run.at(size), role)
            embed = partial(image_embeddings, encoder, part, run.at(size).cache_dir, progress=False)
            if size == "small":
                encoder.embed_images(encoder.preprocess(part.image(0))[None])  # warm
            run.time((f"views, {name}", f"views {name}", "image"), embed, {"image": len(part)}, whole, size)


def _texts(run: Run, encoder: ClipEncoder) -> None:
    words = (*NORMAL_WORDS, *ANOMALY_WORDS)
    whole = {"sentence": len(words) * run.settings.pool_pairs}
    for size, n in SENTENCES.items():
        embed = partial(random_word_embeddings, encoder, run.at(size).cache_dir, n)
        run.time(("random-word prompts", "texts", "sentence"), embed, {"sentence": 2 * n}, whole, size)


def _winclip(run: Run, encoder: ClipEncoder, role: str, dataset: AnomalyDataset) -> None:
    """PatchCore with all normal images by itself, since its memory grows with their square; then the rest."""
    job = f"winclip {role}" if role == FIRST else f"anomalyclip {role}"
    backbone = backbone_of(run.settings)
    counts = [split(dataset.select(category=category)) for category in dataset.categories]
    terms = lambda test, train: {"image": test + train, "pair": test * train, "train²": train**2}  # noqa: E731
    each = [terms(*count) for count in counts]
    whole = {name: sum(found[name] for found in each) for name in each[0]}
    for size in TEST:
        s = run.at(size)
        few = partial(study, s, encoder, role, full_shot, backbone)
        own = terms(*split(dataset_of(s, role)))
        run.time((f"PatchCore, all normal images, {role}", job, "image"), few, own, whole, size)
    whole = {"category": len(counts), "test image": sum(test for test, _ in counts)}
    for size in ("small", "large"):
        own = {"category": 1, "test image": split(dataset_of(run.at(size), role))[0]}
        measure = partial(winclip_stage, run.at(size), encoder, role)
        key = (f"WinCLIP and baselines, {role}", f"winclip {role}", "test image")
        run.time(key, measure, own, whole, size)


def winclip_stage(settings: Settings, encoder: ClipEncoder, role: str) -> None:
    """What the workflow's rule `winclip` does."""
    records = winclip_tables.measured_studies(settings, encoder, role)
    if role == FIRST:
        winclip_tables.patchcore_rows(settings, encoder, records, role)
    winclip_tables.left_open_rows(settings, encoder, role, role)


def _fnns(run: Run, encoder: ClipEncoder) -> None:
    """RWDA's networks, in the notebooks: training-set sizes, word pairs, and two ablations."""
    settings = run.settings
    draw = np.random.default_rng(0)
    texts = tuple(draw.standard_normal((max(FNN_PAIRS.values()), encoder.dim), np.float32) for _ in range(2))
    pairs = sum({*settings.pair_counts, settings.n_pairs}) + settings.n_pairs * (len(WORD_PAIRS) + 1)
    whole = {"pair": pairs * settings.seeds}
    warm = replace(run.at("few"), seeds=2)
    rwda_tables.default_runs(warm, encoder, texts, n_pairs=settings.batch_size)  # the processes start
    for size, n in FNN_PAIRS.items():
        train = partial(rwda_tables.default_runs, run.at(size), encoder, texts, n_pairs=n)
        run.time(("FNNs of RWDA", "notebooks", "pair"), train, {"pair": n * settings.seeds}, whole, size)


def _others(run: Run, encoder: ClipEncoder, dataset: AnomalyDataset) -> None:
    """The CLIPs of Table S9."""
    options = {"device": run.settings.device, "precision": run.settings.precision}
    for name, text in run.settings.clip_backbones.items():
        if name == winclip_tables.published_name(encoder):
            continue
        try:
            other = load_encoder(*text.split(), **options)
        except (ValueError, OSError) as error:
            run.failed[f"CLIP {name}"] = str(error)
            continue
        backbone_stage(run, name, other, dataset)


def backbone_stage(run: Run, name: str, encoder: ClipEncoder, dataset: AnomalyDataset) -> None:
    """What the page on backbones does with a CLIP: image scores, and maps of windows."""
    test, train = split(dataset)
    whole = {"category": len(dataset.categories), "test image": test, "training image": train}
    for size in TEST:
        own = dict(zip(whole, (1, *split(dataset_of(run.at(size), FIRST))), strict=True))
        measure = partial(language_and_maps, run.at(size), encoder)
        run.time((f"CLIP {name}", "notebooks", "test image"), measure, own, whole, size)


def language_and_maps(settings: Settings, encoder: ClipEncoder) -> None:
    """The studies of Table S9 on one CLIP."""
    for what in (language, zero_shot):
        study(settings, encoder, FIRST, what)


def _processes(run: Run) -> None:
    """The start of each job, and of each notebook with its kernel."""
    root = repository_root()
    names = [path.stem for path in (root / "notebooks").rglob("*.ipynb") if ".ipynb_" not in str(path)]
    jobs = len({job for _, job, _ in run.samples} - {"notebooks"})
    python = partial(
        subprocess.run, cwd=root, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": "."}
    )
    begin = partial(python, [sys.executable, "-c", "import zsad_papers.anomalyclip.tables"])
    run.time(("start of a job", "starts", "job"), begin, {"job": 1}, {"job": jobs}, "few")
    out = str((run.folder / "notebook.ipynb").resolve())
    execute = ["-m", "papermill", "notebooks/coverage.ipynb", out, "--kernel", "python3"]
    show = partial(python, [sys.executable, *execute])
    whole = {"notebook": len(names)}
    run.time(("start of a notebook", "notebooks", "notebook"), show, {"notebook": 1}, whole, "few")


def longest_chain(estimates: list[Estimate]) -> float:
    """Seconds of the jobs that must come one after the other, however many workers there are."""
    jobs: dict[str, float] = {}
    for estimate in estimates:
        jobs[estimate.job] = jobs.get(estimate.job, 0.0) + estimate.seconds
    views = max((seconds for job, seconds in jobs.items() if job.startswith("views ")), default=0.0)
    of = lambda job: jobs.get(job, 0.0)  # noqa: E731
    first = of(f"winclip {FIRST}") + of(f"anomalyclip {FIRST}")
    second = of(f"winclip {SECOND}") + of(f"anomalyclip {SECOND}") + of("anomalyclip others")
    notebook = max((e.seconds_per_unit if e.unit == "notebook" else e.seconds for e in estimates
                    if e.job == "notebooks"), default=0.0)  # fmt: skip
    return max(views + max(first, second), of("texts")) + notebook
