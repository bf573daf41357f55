"""The dry run's estimate beside what the same steps take, step by step.

    python -m benchmarks.dry_run --data data [--categories 2] [--images 5]        zsad-mini, all steps
    python -m benchmarks.dry_run --data data --model ViT-B-16-plus-240 --images 4   views and windows alone

--data holds mini_mvtec and mini_visa. Of each, so many categories with so many test images of each label are
taken (their training images all), and prompts are learned for `--epochs`. First the estimate, from samples of
one category; then the same steps in an empty cache. Ratios of estimated to measured, of wall time, of
processor time and of disk: 1 is right, the bar is 0.5 to 2 for each step that takes more than a second.
Other work on the machine changes the wall time from minute to minute, the processor's time less.
Writes results/dry_run.csv, or results/dry_run_<model>.csv, and .json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.windows import machine_facts, write_results
from workflow.run_estimate import (
    backbone_stage,
    estimate_run,
    language_and_maps,
    make_samples,
    views_stage,
    winclip_stage,
)
from workflow.run_samples import FIRST, SECOND, Estimate, Run, Sample, threads, timed
from zsad_core.datasets import load_dataset
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import image_embeddings
from zsad_papers.anomalyclip.tables import measure_everything
from zsad_papers.common.data import dataset_of, encoder_of
from zsad_papers.common.settings import Settings, read_settings

SETS = {FIRST: "mini_mvtec", SECOND: "mini_visa"}
TRAIN = 12  # images of a category
SHORT = {
    "shots": [1],
    "ablation_shots": [1, 2],
    "reference_seeds": 2,
    "context_lengths": [4],
    "prompt_depths": [1],
    "token_lengths": [1],
    "seeds": 2,
    "n_pairs": 400,
    "pair_counts": [400],
}
"""Parameters that shorten the run and its estimate alike."""


def reduced(source: Path, folder: Path, categories: int, images: int, train: int = TRAIN) -> None:
    """A prepared folder of the first categories, linked."""
    dataset = load_dataset(source).limit(images)
    number = dataset.meta.groupby(["category", "split"]).cumcount()
    keep = dataset.meta["category"].isin(dataset.categories[:categories])
    part = dataset.where((keep & ((dataset.meta["split"] == "test") | (number < train))).to_numpy())
    folder.mkdir(parents=True)
    part.meta.to_csv(folder / "meta.csv", index=False)
    for category in part.categories:
        (folder / category).symlink_to((source / category).resolve())


def real_steps(settings: Settings, encoder: ClipEncoder) -> dict[str, Callable[[], object]]:
    """The workflow's jobs, by the names that estimates give them, in its order."""
    found: dict[str, Callable[[], object]] = {}
    for role, name in SETS.items():
        found[f"views {name}"] = partial(embed, settings, encoder, role)
    found |= {f"winclip {role}": partial(winclip_stage, settings, encoder, role) for role in SETS}
    return found | {f"anomalyclip {role}": partial(measure_everything, settings, role) for role in SETS}


def embed(settings: Settings, encoder: ClipEncoder, role: str) -> None:
    image_embeddings(encoder, dataset_of(settings, role), settings.cache_dir, progress=False)


def estimate_of_windows(
    settings: Settings, folder: Path, told: Callable[[str], object]
) -> tuple[list[Estimate], dict[str, str]]:
    """Views of the settings' model, and what the page on backbones does with it."""
    dataset, encoder = dataset_of(settings, FIRST), encoder_of(settings)
    found, failed = [], {}
    for name in ("views", "windows"):  # each in a cache of its own
        run = Run(settings, folder / name, told)
        for size in ("small", "large", "few"):
            make_samples(run, {FIRST: dataset}, size)
        with threads(1):
            if name == "views":
                views_stage(run, encoder)
            else:
                backbone_stage(run, "own", encoder, dataset)
        found, failed = found + run.estimates(), failed | run.failed
    return found, failed


def compared(name: str, estimates: Sequence[Estimate], real: Sample) -> dict[str, str]:
    own = [estimate for estimate in estimates if name in (estimate.job, estimate.stage)]
    row = {"step": name}
    for what, total, measured in (
        ("seconds", sum(e.seconds for e in own), real.seconds),
        ("processor_seconds", sum(e.processor for e in own), real.processor),
        ("megabytes", sum(e.bytes for e in own) / 1e6, real.bytes / 1e6),
    ):
        row |= {f"{what}_estimated": f"{total:.2f}", f"{what}_measured": f"{measured:.2f}"}
        row[f"{what}_ratio"] = f"{total / measured:.2f}" if measured else ""
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with mini_mvtec and mini_visa")
    parser.add_argument("--categories", type=int, default=2)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--model", help="an architecture, with random weights: views and windows alone")
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    load, told = os.getloadavg()[0], partial(print, flush=True)
    model = arguments.model
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train = 4 if model else TRAIN
        for name in SETS.values():
            source, out = arguments.data / name, folder / "data" / name
            reduced(source, out, arguments.categories, arguments.images, train)
        places = {"data_dir": str(folder / "data"), "cache_dir": str(folder / "cache"), "device": "cpu"}
        values = {**SHORT, "datasets": SETS, "prompt_epochs": arguments.epochs}
        values |= {"model": model, "weights": "random", "datasets": {FIRST: SETS[FIRST]}} if model else {}
        values |= {"ablation_shots": [1]} if model else {}
        settings = read_settings({**places, **values})
        (folder / "cache").mkdir()
        estimate = estimate_of_windows if model else estimate_run
        estimates: list[Estimate] = []
        sample = lambda: estimates.extend(estimate(settings, folder / "sample", told)[0])  # noqa: E731
        whole = timed(sample, {}, folder)
        encoder = encoder_of(settings)
        runs = real_steps(settings, encoder)
        if model:
            runs = {"views " + SETS[FIRST]: runs["views " + SETS[FIRST]]}
            runs["CLIP own"] = partial(
                language_and_maps, replace(settings, cache_dir=str(folder / "cache" / "b")), encoder
            )
        rows, sums = [], []
        for name, run in runs.items():
            with threads(2 if name.startswith("views") and not model else 1):
                real = timed(run, {}, folder / "cache")
            sums.append(real)
            rows.append(compared(name, estimates, real))
            told(rows[-1])
    total = Sample({}, *(sum(getattr(s, n) for s in sums) for n in ("seconds", "processor", "bytes")))
    own = [e for e in estimates if {e.job, e.stage} & set(runs)]
    rows.append(compared("all", [replace(e, job="all") for e in own], total))
    facts = machine_facts(["torch", "open_clip_torch"], 2) | {"model": model or "zsad-mini"}
    facts |= {"load_before": load, "load_after": os.getloadavg()[0], "images": arguments.images}
    facts |= {"categories": arguments.categories, "epochs": arguments.epochs}
    facts |= {"sampling_seconds": round(whole.seconds, 1), "sampling_processor_seconds": whole.processor}
    write_results(f"dry_run_{model}" if model else "dry_run", rows, facts)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
