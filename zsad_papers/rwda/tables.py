"""RWDA's tables, and numbers of its text (artifact: the section, as `sec3.3`), as tidy rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.image_features import TileFeatures
from zsad_core.prompts import WORD_PAIRS
from zsad_papers.common.experiment import as_frame, categories
from zsad_papers.common.results import joined, rows, tidy
from zsad_papers.common.settings import Settings
from zsad_papers.rwda import experiments
from zsad_papers.rwda.experiments import Pair, Runs, fnn_scores, measure, prompt_scores, sum_scores
from zsad_papers.winclip.experiments import OWN_SCORE, few_shot_arrays, few_shot_design, few_shot_scores
from zsad_papers.winclip.tables import PRINTED, main_records

CLASSWISE = {  # the appendix's tables
    "mvtec": {"auroc": "A5", "aupr": "A6", "f1max": "A7"},
    "visa": {"auroc": "A8", "aupr": "A9", "f1max": "A10"},
}


def score_rows(
    test: TileFeatures, runs: Runs, artifact: str, method: str, *, dataset: str = "", **names: object
) -> pd.DataFrame:
    """The mean rows of one score on test images; with `dataset` also those of its class-wise tables."""
    values = measure(test, runs)
    names |= {"paper": "rwda", "dataset": test.name, "method": method}
    frames = [rows(values, artifact=artifact, keep="mean", **names)]
    if dataset in CLASSWISE:
        frames.append(rows(values, artifact=CLASSWISE[dataset], keep="categories", **names))
    return joined(frames)


def zero_shot_rows(
    images: TileFeatures, dataset: str, settings: Settings, encoder: ClipEncoder, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Rows of Table 1's zero-shot part and of the class-wise tables for one dataset; on mvtec of Table 2 too:
    known objects, the whole image only."""
    test, frames = images.select(split="test"), []
    variants = ["object_unknown", "object_known"] + ["object_known;multi_crop=0"] * (dataset == "mvtec")
    for variant in variants:
        multi_crop = not variant.endswith("multi_crop=0")
        known = variant != "object_unknown"
        guided = prompt_scores(test, settings, encoder, known=known, multi_crop=multi_crop)
        alone = {seed: fnn_scores(test, fnn, multi_crop=multi_crop) for seed, fnn in fnns.items()}
        scores = {"clip": {0: guided}, "rwda": alone, "clip_rwda": sum_scores(guided, alone)}
        where = {"artifact": "T1", "dataset": dataset} if multi_crop else {"artifact": "T2"}
        frames += [score_rows(test, runs, method=m, variant=variant, **where) for m, runs in scores.items()]
    return joined(frames)


def few_shot_rows(
    images: TileFeatures, dataset: str, settings: Settings, encoder: ClipEncoder, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Rows of Table 1's few-shot part: s_pr + s_FNN + s_img, known objects (the stronger of the paper's
    zero-shot rows); and s_img by itself and without s_FNN, for claims c11 and c29."""
    test, train = images.select(split="test"), images.select(split="train")
    guided, frames = prompt_scores(test, settings, encoder, known=True), []
    alone = {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()}
    for k in settings.shots:
        reference = {seed: experiments.similarity_scores(test, train, k, seed) for seed in fnns}
        total = sum_scores(guided, alone, reference)
        frames.append(score_rows(test, total, "T1", "clip_rwda", dataset=dataset, shots=k))
        for score, runs in {"s_img": reference, "s_pr+s_img": sum_scores(guided, reference)}.items():
            frames.append(score_rows(test, runs, "sec4.3", "clip", variant=f"score={score}", shots=k))
    return joined(frames)


def winclip_rows(records: pd.DataFrame, dataset: str, stand_in: str, shots: Sequence[int]) -> pd.DataFrame:
    """Rows of WinCLIP, WinCLIP+ and the few-shot baselines, as in the RWDA paper's tables: their ± is the one
    that WinCLIP prints and RWDA quotes, not that of RWDA's own rows."""
    main = main_records(records)
    main = main[main["task"] == "image"]
    zero = main[main["method"] == "winclip"].assign(variant="object_known")
    few = main[main["shots"].isin(shots)].replace({"method": {"winclip_plus": "winclip"}})
    single = records.query("method == 'winclip' and variant == 'prompt_ens'")
    single = single.assign(variant="object_known;multi_crop=0")
    both, own = pd.concat([zero, few]), {"method": "winclip", "keep": "categories"}
    parts = [(both, "T1", {"spread": PRINTED}), (both, CLASSWISE[dataset], own)]
    parts += [(records, "sec4.3", {"variant": "score=max_map", "shots": shots})]
    parts += [(single, "T2", {})] if dataset == "mvtec" else []
    return joined(tidy(part, stand_in, artifact, paper="rwda", **where) for part, artifact, where in parts)


def with_random_words(
    settings: Settings, encoder: ClipEncoder, images: TileFeatures, dataset: str, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Rows of claim rwda-c12: WinCLIP+ with RWDA's score added, seed by seed."""
    test, records = images.select(split="test"), []
    for category in categories(settings, encoder, dataset):
        own = (test.meta["category"] == category.name).to_numpy()
        found = few_shot_arrays(category, *few_shot_design(settings, dataset))
        for draw, scores in few_shot_scores(category, found):
            if draw["shots"] in settings.shots and draw["seed"] in fnns:
                both = scores[OWN_SCORE] + fnn_scores(test, fnns[draw["seed"]])[own]
                records.append(category.record(both, "image", "winclip_plus_rwda", **draw))
    return tidy(as_frame(records), images.name, "sec4.3", paper="rwda")


def fnn_rows(images: TileFeatures, fnns: Mapping[int, FNN], variant: str, artifact: str) -> pd.DataFrame:
    """RWDA alone on one dataset: the mean rows."""
    test = images.select(split="test")
    runs = {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()}
    return score_rows(test, runs, artifact, "rwda", variant=variant)


def pair_count_rows(images: TileFeatures, settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    """Figure 4: AUROC of RWDA alone, and its accuracy on held-out prompts, by number of training pairs."""
    texts, frames = experiments.pool(settings, encoder), []
    normal, anomalous = experiments.held_out(settings, encoder)
    for n in sorted({*settings.pair_counts, settings.n_pairs}):
        fnns = experiments.default_runs(settings, encoder, texts, n_pairs=n)
        frames.append(fnn_rows(images, fnns, f"object_unknown;n_pairs={n}", "F4"))
        right = [np.mean([f.score(normal) < 0.5, f.score(anomalous) >= 0.5]) for f in fnns.values()]
        accuracies = {"seed": list(fnns), "heldout_accuracy": right}
        frames.append(text_rows(accuracies, "sec4.4", variant=f"n_pairs={n}"))
    return joined(frames)


def word_pair_rows(images: TileFeatures, settings: Settings, encoder: ClipEncoder) -> pd.DataFrame:
    """Table 4: AUROC of CLIP and of CLIP + RWDA for the 16 word pairs, object unknown."""
    test, frames = images.select(split="test"), []
    for normal, anomaly in WORD_PAIRS:
        words = {"normal": normal, "anomaly": anomaly}
        guided = prompt_scores(test, settings, encoder, **words)
        fnns = experiments.default_runs(settings, encoder, experiments.pool(settings, encoder, **words))
        both = sum_scores(guided, {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()})
        for method, runs in {"clip": {settings.seed: guided}, "clip_rwda": both}.items():
            frames.append(score_rows(test, runs, "T4", method, variant=f"normal={normal};anomaly={anomaly}"))
    return joined(frames).query("metric == 'auroc'")


def text_rows(
    values: Mapping[str, Sequence[float]], artifact: str, method: str = "rwda", variant: str = ""
) -> pd.DataFrame:
    """Rows of numbers about prompts, without any dataset."""
    names = {"paper": "rwda", "dataset": "", "task": "text", "method": method, "variant": variant}
    return rows(pd.DataFrame(values), artifact=artifact, **names)


def cosine_distance(vectors: np.ndarray) -> float:
    """Mean of 1 - cos over all pairs of different rows of (n, d), n from 2, in [0, 2]; linear in n."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    n = len(unit)
    return max(0.0, float(1 - (np.sum(unit.sum(0) ** 2) - n) / (n * (n - 1))))  # rounding can go below 0


def linear_accuracy(train: Pair, test: Pair) -> float:
    """Held-out accuracy of a logistic regression between normal and anomalous embeddings, a fraction."""
    y, y_test = (np.repeat([0, 1], [len(part) for part in pair]) for pair in (train, test))
    from sklearn.linear_model import LogisticRegression  # here, as below: most pages do without
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(model.fit(np.concatenate(train), y).score(np.concatenate(test), y_test))


def prompt_statistics_rows(settings: Settings, encoder: ClipEncoder, plain: Pair) -> pd.DataFrame:
    """Section 3.2: the spread of prompts of one state, and how well a line separates the states."""
    texts, frames = tuple(part[: settings.n_pairs] for part in experiments.pool(settings, encoder)), []
    for prefix, pair in {"": texts, "random_words=0;": plain}.items():
        for state, vectors in zip(("normal", "anomalous"), pair, strict=True):
            distance = {"cosine_distance": [cosine_distance(vectors)]}
            frames.append(text_rows(distance, "sec3.2", variant=f"{prefix}state={state}"))
    accuracy = {"heldout_accuracy": [linear_accuracy(texts, experiments.held_out(settings, encoder))]}
    return joined([*frames, text_rows(accuracy, "sec3.2", "linear")])


def silhouette_rows(
    panels: Mapping[str, Mapping[str, np.ndarray]], states: Mapping[str, str], domains: Mapping[str, str]
) -> pd.DataFrame:
    """Section 4.5: do a layer's points cluster by state (normal, anomalous) or by domain (caption, random
    words)? Silhouettes of cosines. states, domains: group name -> state, domain."""
    from sklearn.metrics import silhouette_score

    frames = []
    for layer, groups in panels.items():
        points, values = np.concatenate(list(groups.values())), {}
        for name, of in (("state", states), ("domain", domains)):
            labels = np.repeat([of[group] for group in groups], [len(group) for group in groups.values()])
            values[f"silhouette_{name}"] = [float(silhouette_score(points, labels, metric="cosine"))]
        frames.append(text_rows(values, "sec4.5", variant=f"layer={layer}"))
    return joined(frames)
