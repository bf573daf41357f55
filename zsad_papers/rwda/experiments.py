"""RWDA's experiments as arithmetic on embeddings. A "run" is one seed: it draws training pairs from the pool
of random-word prompts, trains an FNN on them and, for few shots, draws reference images."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from zsad_core import methods
from zsad_core.cache import cached_arrays
from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN, train_fnns
from zsad_core.image_features import TileFeatures, random_word_embeddings, text_embeddings
from zsad_core.prompts import ALPHABETS, object_name, prompt_pair
from zsad_core.references import image_similarity_score, sample_references
from zsad_papers.common.experiment import image_metrics
from zsad_papers.common.settings import Settings

NO_IMAGES = TileFeatures(
    pd.DataFrame(columns=["category", "split", "label", "defect"]),
    *np.empty((3, 0), int),
    {"views": np.empty((0, 1, 1))},
)
"""Stands in for a dataset that is not prepared: every function here finds no rows in it."""

Pair = tuple[np.ndarray, np.ndarray]
"""Embeddings of normal and of anomalous prompts, (n, d) each; row i of both is pair i."""

Runs = Mapping[int, np.ndarray]
"""Scores (n,) of the test images by seed; one entry for a score without randomness."""


def pool(settings: Settings, encoder: ClipEncoder, **words: str) -> Pair:
    """Raw embeddings of the pool of random-word prompts, (pool_pairs, d). words: of `random_word_prompts`."""
    options = {"seed": settings.seed, "alphabet": ALPHABETS[settings.alphabet], **words}
    return random_word_embeddings(encoder, settings.cache_dir, settings.pool_pairs, **options)


def held_out(settings: Settings, encoder: ClipEncoder) -> Pair:
    """Prompts with words of their own, to test on: two arrays (1000, d). The pool's seed is far below."""
    options = {"seed": 10**6 + settings.seed, "alphabet": ALPHABETS[settings.alphabet]}
    return random_word_embeddings(encoder, settings.cache_dir, 1000, **options)


def train_runs(
    texts: Pair, seeds: Sequence[int], n_pairs: int, cache_dir: str | Path, **options
) -> dict[int, FNN]:
    """One FNN for each seed, on n_pairs of the pool's embeddings, cached. options: of `train_fnns`.
    Draws overlap as n_pairs nears the pool's size, which makes their spread a little small."""

    def train() -> dict[str, np.ndarray]:
        sizes = {"a": len(texts[0]), "size": n_pairs, "replace": False}
        draws = {seed: np.sort(np.random.default_rng(seed).choice(**sizes)) for seed in seeds}
        found = train_fnns(*texts, draws, **options)
        return {f"{s}/{name}": v.numpy() for s, fnn in found.items() for name, v in fnn.state_dict().items()}

    digest = hashlib.sha256(np.stack(texts).tobytes()).hexdigest()[:32]
    key = {"texts": digest, "n_pairs": n_pairs, "seeds": list(seeds), "options": options}
    arrays = cached_arrays(Path(cache_dir) / "fnn", f"fnns-{n_pairs}", key, train)
    shape = {name: options[name] for name in ("hidden", "normalize") if name in options}
    found = {seed: FNN(texts[0].shape[1], **shape).eval() for seed in seeds}
    for seed, fnn in found.items():
        fnn.load_state_dict({name: torch.tensor(arrays[f"{seed}/{name}"]) for name in fnn.state_dict()})
    return found


def default_runs(
    settings: Settings, encoder: ClipEncoder, texts: Pair | None = None, **changes
) -> dict[int, FNN]:
    """One FNN for each seed of the profile; `changes` to the profile's training options make an ablation."""
    texts = pool(settings, encoder) if texts is None else texts
    names = ("n_pairs", "epochs", "batch_size", "lr", "weight_decay", "dropout")
    options = {name: getattr(settings, name) for name in names} | {"hidden": list(settings.hidden)}
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return train_runs(texts, seeds, cache_dir=settings.cache_dir, **(options | changes))


def prompt_scores(
    images: TileFeatures,
    settings: Settings,
    encoder: ClipEncoder,
    *,
    known: bool = False,
    multi_crop: bool = True,
    **words: object,
) -> np.ndarray:
    """s_pr of each image (n,), the mean over its views (Sec. 3.1), at the profile's temperature or, as in the
    paper, the model's own. known: the category's name replaces "object". words: of `prompt_pair`."""
    if not images.categories:
        return np.empty(0)
    names = [object_name(c) if known else "object" for c in images.categories]
    sentences = [s for name in names for s in prompt_pair(name, **words)]
    texts = text_embeddings(encoder, sentences, settings.cache_dir).reshape(len(names), 2, -1)
    temperature = settings.temperature or encoder.temperature
    scores = np.empty(len(images.meta))
    for category, pair in zip(images.categories, texts, strict=True):
        own = (images.meta["category"] == category).to_numpy()
        views = images.views[own] if multi_crop else images.views[own, :1]  # (m, v, d)
        scores[own] = methods.clip(views, pair, temperature).scores
    return scores


def fnn_scores(images: TileFeatures, fnn: FNN, *, multi_crop: bool = True) -> np.ndarray:
    """s_FNN of each image (n,), the mean over its views (Sec. 3.3), without an object's name (claim c07)."""
    if not len(images.meta):
        return np.empty(0)
    return methods.rwda(images.views if multi_crop else images.views[:, :1], fnn).scores


def similarity_scores(
    test: TileFeatures, train: TileFeatures, shots: int, seed: int, *, same_view: bool = False
) -> np.ndarray:
    """s_img of each test image (n,) from `shots` normal images of its category, drawn by seed (Sec. 4.2)."""
    scores = np.empty(len(test.meta))
    for number, category in enumerate(test.categories):
        references = train.select(category=category).views
        chosen = references[sample_references(len(references), shots, seed=1000 * number + seed)]  # (k, v, d)
        own = (test.meta["category"] == category).to_numpy()
        scores[own] = image_similarity_score(test.views[own], chosen, same_view=same_view)
    return scores


def measure(images: TileFeatures, runs: Runs) -> pd.DataFrame:
    """Metrics as fractions, one row a category and seed: category, seed, auroc, aupr, f1max, draws."""
    table = []
    for (seed, scores), category in product(runs.items(), images.categories):
        own = (images.meta["category"] == category).to_numpy()
        values = image_metrics(images.labels[own], scores[own], f"{images.name} {category}")
        table.append({"category": category, "seed": seed, **values})
    return pd.DataFrame(table, columns=["category", "seed", "auroc", "aupr", "f1max", "draws"])


def sum_scores(*parts: np.ndarray | Runs) -> Runs:
    """The sum of scores for each run (Sec. 3.3, 4.2); arrays without seeds are added to every run."""
    seeds = sorted({seed for part in parts if isinstance(part, Mapping) for seed in part})
    return {seed: sum(part[seed] if isinstance(part, Mapping) else part for part in parts) for seed in seeds}
