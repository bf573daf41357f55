"""RWDA's analyses (Sec. 3.2, 3.3, 4.4, 4.5) as tidy rows: training-set sizes, word pairs, ablations,
statistics of prompts.

The names of the rows are those that `zsad_core.claims.rwda` looks for. Numbers that belong to no table or
figure carry the section as their artifact (`sec3.3`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zsad_core.embeddings import Embedded, random_word_embeddings
from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.prompts import ALPHABETS, WORD_PAIRS
from zsad_core.results import rows
from zsad_core.rwda import added, fnn_scores, measure, prompt_scores, train_runs
from zsad_core.settings import Settings

HELD_OUT_PAIRS = 1000
HELD_OUT_SEED = 10**6  # words that no run trains on: the pool is drawn with the profile's seed, far below


def fnn_options(settings: Settings) -> dict:
    """The profile's options of `train_fnn`."""
    return {
        name: getattr(settings, name)
        for name in ("epochs", "batch_size", "lr", "weight_decay", "dropout", "hidden")
    }


def run_seeds(settings: Settings) -> list[int]:
    return list(range(settings.seed, settings.seed + settings.seeds))


def pool(
    settings: Settings, encoder: ClipEncoder, normal: str = "a", anomaly: str = "a damaged"
) -> tuple[np.ndarray, np.ndarray]:
    """Raw embeddings of the profile's pool of random-word prompts: two arrays (pool_pairs, d)."""
    options = {"seed": settings.seed, "alphabet": ALPHABETS[settings.alphabet]}
    return random_word_embeddings(
        encoder, settings.cache_dir, settings.pool_pairs, normal, anomaly, **options
    )


def held_out(settings: Settings, encoder: ClipEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Prompts with words of their own, to test on: two arrays (1000, d)."""
    options = {"seed": HELD_OUT_SEED + settings.seed, "alphabet": ALPHABETS[settings.alphabet]}
    return random_word_embeddings(encoder, settings.cache_dir, HELD_OUT_PAIRS, **options)


def default_runs(
    settings: Settings, encoder: ClipEncoder, texts: tuple[np.ndarray, np.ndarray] | None = None, **changes
) -> dict[int, FNN]:
    """One FNN for each seed of the profile; `changes` to the profile's training options make an ablation."""
    texts = pool(settings, encoder) if texts is None else texts
    n_pairs = changes.pop("n_pairs", settings.n_pairs)
    return train_runs(
        texts, run_seeds(settings), n_pairs, settings.cache_dir, **{**fnn_options(settings), **changes}
    )


def fnn_rows(images: Embedded, fnns: Mapping[int, FNN], variant: str, artifact: str) -> pd.DataFrame:
    """RWDA alone on one dataset: the mean rows."""
    test = images.select(split="test")
    values = measure(test, {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()})
    return rows(
        values,
        paper="rwda",
        artifact=artifact,
        dataset=images.name,
        method="rwda",
        variant=variant,
        keep="mean",
    )


def pair_count_rows(images: Embedded, settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    """Figure 4: AUROC of RWDA alone over the number of training pairs, and its accuracy on held-out
    prompts."""
    texts, unseen, frames = pool(settings, encoder), held_out(settings, encoder), []
    for n in sorted({*settings.pair_counts, settings.n_pairs}):
        fnns = default_runs(settings, encoder, texts, n_pairs=n)
        frames.append(fnn_rows(images, fnns, f"object_unknown;n_pairs={n}", "F4"))
        right = {
            seed: np.mean([fnn.score(unseen[0]) < 0.5, fnn.score(unseen[1]) >= 0.5])
            for seed, fnn in fnns.items()
        }
        accuracy = pd.DataFrame({"seed": list(right), "heldout_accuracy": list(right.values())})
        names = {
            "paper": "rwda",
            "artifact": "sec4.4",
            "dataset": "",
            "task": "text",
            "method": "rwda",
            "variant": f"n_pairs={n}",
        }
        frames.append(rows(accuracy, **names))
    return pd.concat(frames, ignore_index=True)


def word_pair_rows(images: Embedded, settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    """Table 4: AUROC of CLIP and of CLIP + RWDA for the 16 word pairs, object unknown."""
    test, frames = images.select(split="test"), []
    for normal, anomaly in WORD_PAIRS:
        guided = prompt_scores(test, encoder, settings.cache_dir, normal=normal, anomaly=anomaly)
        fnns = default_runs(settings, encoder, pool(settings, encoder, normal, anomaly))
        both = added(guided, {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()})
        names = {
            "paper": "rwda",
            "artifact": "T4",
            "dataset": images.name,
            "variant": f"normal={normal};anomaly={anomaly}",
            "keep": "mean",
        }
        for method, runs in (("clip", {settings.seed: guided}), ("clip_rwda", both)):
            frames.append(rows(measure(test, runs), method=method, **names).query("metric == 'auroc'"))
    return pd.concat(frames, ignore_index=True)


def cosine_distance(vectors: np.ndarray) -> float:
    """Mean of 1 - cos over all pairs of different rows of (n, d), in [0, 2]. From the length of the sum, so
    linear in n."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    n = len(unit)
    if n < 2:
        raise ValueError(f"{n} row(s): expected at least 2, to have a pair")
    return max(0.0, float(1 - (np.sum(unit.sum(0) ** 2) - n) / (n * (n - 1))))  # rounding can go below 0


def linear_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Held-out accuracy of a logistic regression between normal and anomalous embeddings, a fraction."""
    (x, y), (x_test, y_test) = (
        (np.concatenate(pair), np.repeat([0, 1], [len(part) for part in pair])) for pair in (train, test)
    )
    return float(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y).score(x_test, y_test)
    )


def prompt_statistics_rows(
    settings: Settings, encoder: ClipEncoder, plain: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    """Section 3.2: how far prompts of one state spread, with random words and without (`plain`), and how well
    a line parts the states."""
    texts = tuple(part[: settings.n_pairs] for part in pool(settings, encoder))
    names = {"paper": "rwda", "artifact": "sec3.2", "dataset": "", "task": "text"}
    frames = []
    for prefix, pair in (("", texts), ("random_words=0;", plain)):
        for state, vectors in zip(("normal", "anomalous"), pair, strict=True):
            value = pd.DataFrame({"cosine_distance": [cosine_distance(vectors)]})
            frames.append(rows(value, method="rwda", variant=f"{prefix}state={state}", **names))
    accuracy = pd.DataFrame({"heldout_accuracy": [linear_accuracy(texts, held_out(settings, encoder))]})
    return pd.concat([*frames, rows(accuracy, method="linear", **names)], ignore_index=True)


def layer_features(fnn: FNN, groups: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Figure 5's panels: the embeddings themselves (`clip`) and each hidden layer (`1`, `2`, `3`), for each
    group of texts (n, d)."""
    layers = {name: [vectors, *fnn.features(vectors)] for name, vectors in groups.items()}
    depth = len(next(iter(layers.values())))
    return {
        ("clip" if k == 0 else str(k)): {name: values[k] for name, values in layers.items()}
        for k in range(depth)
    }


def silhouette_rows(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    states: Mapping[str, str],
    domains: Mapping[str, str],
    metric: str = "cosine",
) -> pd.DataFrame:
    """Section 4.5: do the points of a layer lie by state (normal, anomalous) or by domain (caption, random
    words)?

    states, domains: group name -> state, domain. metric: of the silhouettes; cosine, so that layers of any
    scale compare.
    """
    frames = []
    for layer, groups in panels.items():
        points = np.concatenate(list(groups.values()))
        labels = {
            what: np.concatenate([[of[name]] * len(group) for name, group in groups.items()])
            for what, of in (("state", states), ("domain", domains))
        }
        values = pd.DataFrame(
            {
                f"silhouette_{what}": [float(silhouette_score(points, y, metric=metric))]
                for what, y in labels.items()
            }
        )
        frames.append(
            rows(
                values,
                paper="rwda",
                artifact="sec4.5",
                dataset="",
                task="text",
                method="rwda",
                variant=f"layer={layer}",
            )
        )
    return pd.concat(frames, ignore_index=True)
