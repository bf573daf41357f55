"""RWDA's analyses (Sec. 3.2, 3.3, 4.4, 4.5) as tidy rows: training-set sizes, word pairs, ablations,
statistics of prompts.

The names of the rows are those that `zsad_papers.rwda.claims` looks for. Numbers that belong to no table or
figure carry the section as their artifact (`sec3.3`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.image_features import TileFeatures, random_word_embeddings
from zsad_core.prompts import ALPHABETS, WORD_PAIRS
from zsad_papers.common.experiment import categories
from zsad_papers.common.results import rows, tidy
from zsad_papers.common.settings import Settings
from zsad_papers.rwda.experiments import CLASSWISE as RWDA_CLASSWISE
from zsad_papers.rwda.experiments import added, fnn_scores, measure, prompt_scores, train_runs
from zsad_papers.winclip.experiments import (
    few_shot_design,
    few_shot_scores,
)
from zsad_papers.winclip.tables import main_records


def rows_for_rwda(records: pd.DataFrame, role: str, dataset: str, shots: Sequence[int]) -> pd.DataFrame:
    """What the RWDA paper's tables show of WinCLIP, WinCLIP+ and the few-shot baselines, under its names."""
    main = main_records(records)
    main = main[main["task"] == "image"]
    zero = main[main["method"] == "winclip"].assign(variant="object_known")
    few = main[main["shots"].isin(shots)].replace({"method": {"winclip_plus": "winclip"}})
    single = records[(records["method"] == "winclip") & (records["variant"] == "prompt_ens")]
    of = lambda part, artifact, **where: tidy(part, dataset, artifact, paper="rwda", **where)  # noqa: E731
    table = RWDA_CLASSWISE[role]
    frames = [of(zero, "T1"), of(few, "T1")]
    frames += [of(part, table, keep="categories", method="winclip") for part in (zero, few)]
    if role == "mvtec":
        frames.append(of(single.assign(variant="object_known;multi_crop=0"), "T2"))
    reference = records[records["variant"] == "score=max_map"]
    frames.append(of(reference[reference["shots"].isin(shots)], "sec4.3"))  # of claim rwda-c11
    return pd.concat(frames, ignore_index=True)


def with_random_words(
    settings: Settings, encoder: ClipEncoder, images: TileFeatures, role: str, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Rows of claim rwda-c12: WinCLIP+ with RWDA's score added, seed by seed."""
    test, records = images.select(split="test"), []
    for c in categories(settings, encoder, role):
        own = (test.meta["category"] == c.name).to_numpy()
        for (k, seed), scores in few_shot_scores(c, *few_shot_design(settings, role)).items():
            if k in settings.shots and seed in fnns:
                both = scores + fnn_scores(test, fnns[seed])[own]
                records.append(c.record(both, "image", "winclip_plus_rwda", shots=k, seed=seed))
    return tidy(pd.DataFrame(records), images.name, "sec4.3", paper="rwda")


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


def fnn_rows(images: TileFeatures, fnns: Mapping[int, FNN], variant: str, artifact: str) -> pd.DataFrame:
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


def pair_count_rows(images: TileFeatures, settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
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


def word_pair_rows(images: TileFeatures, settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
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
