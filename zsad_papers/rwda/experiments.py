"""RWDA's experiments as arithmetic on embeddings: scores, seeds, tables' rows.

Images and prompts have been embedded before (`zsad_core.image_features`); nothing here runs an encoder on an
image. A "run" is one seed: it draws its training pairs from the pool of random-word prompts, trains an FNN on
them and, for few shots, draws its reference images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from zsad_core import methods
from zsad_core.cache import cached_arrays
from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN, train_fnn
from zsad_core.image_features import TileFeatures, text_embeddings
from zsad_core.metrics import aupr, auroc, f1_max
from zsad_core.prompts import object_name, prompt_pair
from zsad_core.references import image_similarity_score, sample_references
from zsad_papers.common.results import rows

METRICS: dict[str, Callable] = {"auroc": auroc, "aupr": aupr, "f1max": f1_max}
CLASSWISE = {
    "mvtec": {"auroc": "A5", "aupr": "A6", "f1max": "A7"},
    "visa": {"auroc": "A8", "aupr": "A9", "f1max": "A10"},
}
"""The appendix's class-wise tables, by role and metric."""

NO_IMAGES = TileFeatures(
    pd.DataFrame(columns=["category", "split", "label", "defect"]),
    *np.empty((3, 0), int),
    {"views": np.empty((0, 1, 1))},
)
"""In the place of a dataset that is not prepared: every function here finds no rows in it."""

Runs = Mapping[int, np.ndarray]
"""Scores (n,) of the test images by seed; one entry for a score that no seed touches."""


def draw_pairs(pool_size: int, n_pairs: int, seed: int) -> np.ndarray:
    """Which pairs of the pool a run trains on, without replacement: (n_pairs,).

    Drawing from one pool lets ten seeds and 16 word pairs share their embeddings. Runs overlap as n_pairs
    nears the pool's size (at n_pairs = pool_size only initialisation, order and dropout differ), which makes
    their spread a little small.
    """
    if not 1 <= n_pairs <= pool_size:
        raise ValueError(
            f"n_pairs={n_pairs}: expected 1 to pool_size={pool_size}; "
            "embed a larger pool or train on fewer pairs"
        )
    return np.sort(np.random.default_rng(seed).choice(pool_size, n_pairs, replace=False))


def train_runs(
    texts: tuple[np.ndarray, np.ndarray],
    seeds: Sequence[int],
    n_pairs: int,
    cache_dir: str | Path,
    *,
    n_jobs: int = -1,
    **options,
) -> dict[int, FNN]:
    """One FNN for each seed, on n_pairs of the pool's embeddings `texts` (normal, anomalous), each (pool, d).

    n_jobs: processes that train at once (joblib's meaning); the result does not depend on it. options: of
    `train_fnn`. Kept in the cache under the embeddings' own bytes, so a second notebook does not train again.
    """
    normal, anomalous = texts
    seeds = list(seeds)

    def train() -> dict[str, np.ndarray]:
        jobs = []
        for seed in seeds:
            chosen = draw_pairs(len(normal), n_pairs, seed)
            jobs.append(delayed(train_fnn)(normal[chosen], anomalous[chosen], seed=seed, **options))
        # copy-on-write maps: torch warns of arrays that it could not write to
        runs = Parallel(n_jobs=n_jobs, return_as="generator", mmap_mode="c")(jobs)
        progress = tqdm(
            zip(seeds, runs, strict=True), total=len(seeds), desc=f"FNN on {n_pairs} pairs", leave=False
        )
        return {
            f"{seed}/{name}": value.numpy()
            for seed, fnn in progress
            for name, value in fnn.state_dict().items()
        }

    key = {
        "texts": _digest(normal, anomalous),
        "n_pairs": n_pairs,
        "seeds": seeds,
        "options": _plain(options),
    }
    state = cached_arrays(Path(cache_dir) / "fnn", f"fnn-{n_pairs}", key, train)
    shape = {name: options[name] for name in ("hidden", "dropout") if name in options}
    runs = {}
    for seed in seeds:
        runs[seed] = FNN(normal.shape[1], **shape).eval()
        own = {
            name.split("/")[1]: torch.tensor(value)
            for name, value in state.items()
            if name.startswith(f"{seed}/")
        }
        runs[seed].load_state_dict(own)
    return runs


def _plain(options: Mapping) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:32]


def prompt_scores(
    images: TileFeatures,
    encoder: ClipEncoder,
    cache_dir: str | Path,
    *,
    normal: str = "a",
    anomaly: str = "a damaged",
    known: bool = False,
    multi_crop: bool = True,
    temperature: float = 0.01,
) -> np.ndarray:
    """s_pr of each image (n,), the mean over its views (Sec. 3.1). known: the category's name takes the place
    of "object"."""
    if not images.categories:
        return np.empty(0)
    names = [object_name(c) if known else "object" for c in images.categories]
    sentences = [s for name in names for s in prompt_pair(name, normal, anomaly)]
    texts = text_embeddings(encoder, sentences, cache_dir).reshape(len(names), 2, -1)  # (categories, 2, d)
    scores = np.empty(len(images.meta))
    for category, texts_of_category in zip(images.categories, texts, strict=True):
        own = (images.meta["category"] == category).to_numpy()
        views = images.views[own] if multi_crop else images.views[own, :1]  # (m, v, d)
        scores[own] = methods.clip(views, texts_of_category, temperature).scores
    return scores


def fnn_scores(images: TileFeatures, fnn: FNN, *, multi_crop: bool = True) -> np.ndarray:
    """s_FNN of each image (n,), the mean over its views (Sec. 3.3)."""
    if not images.categories:
        return np.empty(0)
    return methods.rwda(images.views if multi_crop else images.views[:, :1], fnn).scores


def similarity_scores(test: TileFeatures, train: TileFeatures, shots: int, seed: int) -> np.ndarray:
    """s_img of each test image (n,) from `shots` normal training images of its category, drawn for this seed
    (Sec. 4.2)."""
    scores = np.empty(len(test.meta))
    for number, category in enumerate(test.categories):
        references = train.select(category=category).views
        chosen = references[sample_references(len(references), shots, seed=1000 * number + seed)]  # (k, v, d)
        own = (test.meta["category"] == category).to_numpy()
        scores[own] = image_similarity_score(test.views[own], chosen)
    return scores


def measure(images: TileFeatures, runs: Runs, metrics: Mapping[str, Callable] = METRICS) -> pd.DataFrame:
    """Metrics as fractions, one row a category and seed: category, seed, auroc, aupr, f1max."""
    table = []
    for seed, scores in runs.items():
        for category in images.categories:
            own = (images.meta["category"] == category).to_numpy()
            values = {name: metric(images.labels[own], scores[own]) for name, metric in metrics.items()}
            table.append({"category": category, "seed": seed, **values})
    return pd.DataFrame(table, columns=["category", "seed", *metrics])


def added(*parts: np.ndarray | Runs) -> Runs:
    """The sum of scores run by run (Sec. 3.3, 4.2): arrays without seeds go into every run."""
    seeds = sorted({seed for part in parts if isinstance(part, Mapping) for seed in part})
    return {seed: sum(part[seed] if isinstance(part, Mapping) else part for part in parts) for seed in seeds}


def zero_shot_rows(
    images: TileFeatures, role: str, encoder: ClipEncoder, cache_dir: str | Path, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Rows of Table 1's zero-shot part and of the class-wise tables for one dataset: CLIP, RWDA and their
    sum."""
    test = images.select(split="test")
    alone = {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()}
    frames = []
    for variant in ("object_unknown", "object_known"):
        guided = prompt_scores(test, encoder, cache_dir, known=variant == "object_known")
        for method, runs in (("clip", {0: guided}), ("rwda", alone), ("clip_rwda", added(guided, alone))):
            values = measure(test, runs)
            names = {"paper": "rwda", "dataset": images.name, "method": method, "variant": variant}
            frames.append(rows(values, artifact="T1", keep="mean", **names))
            if role in CLASSWISE:
                frames.append(rows(values, artifact=CLASSWISE[role], keep="categories", **names))
    return pd.concat(frames, ignore_index=True)


def single_view_rows(
    images: TileFeatures, encoder: ClipEncoder, cache_dir: str | Path, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Rows of Table 2: known objects, the whole image only."""
    test = images.select(split="test")
    guided = prompt_scores(test, encoder, cache_dir, known=True, multi_crop=False)
    alone = {seed: fnn_scores(test, fnn, multi_crop=False) for seed, fnn in fnns.items()}
    names = {
        "paper": "rwda",
        "artifact": "T2",
        "dataset": images.name,
        "variant": "object_known;multi_crop=0",
        "keep": "mean",
    }
    scores = {"clip": {0: guided}, "rwda": alone, "clip_rwda": added(guided, alone)}
    return pd.concat(
        [rows(measure(test, runs), method=method, **names) for method, runs in scores.items()],
        ignore_index=True,
    )


def few_shot_rows(
    images: TileFeatures,
    role: str,
    shots: Sequence[int],
    encoder: ClipEncoder,
    cache_dir: str | Path,
    fnns: Mapping[int, FNN],
) -> pd.DataFrame:
    """Rows of Table 1's few-shot part: s_pr + s_FNN + s_img, known objects (the stronger of the paper's
    zero-shot rows)."""
    test, train = images.select(split="test"), images.select(split="train")
    guided = prompt_scores(test, encoder, cache_dir, known=True)
    alone = {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()}
    frames = []
    for k in shots:
        reference = {seed: similarity_scores(test, train, k, seed) for seed in fnns}
        names = {"paper": "rwda", "dataset": images.name, "shots": k}
        values = measure(test, added(guided, alone, reference))
        frames.append(rows(values, artifact="T1", method="clip_rwda", keep="mean", **names))
        if role in CLASSWISE:
            frames.append(
                rows(values, artifact=CLASSWISE[role], method="clip_rwda", keep="categories", **names)
            )
        alone_values = measure(test, reference)  # s_img by itself, for claim c11
        frames.append(
            rows(alone_values, artifact="sec4.3", method="clip", variant="score=s_img", keep="mean", **names)
        )
    return pd.concat(frames, ignore_index=True)
