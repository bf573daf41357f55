"""All methods of the papers on the same images, and combinations of them.

A row of `side_by_side.csv` says how a system is called, what it needs to know or see, and through which
networks an image passes (`passes`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from zsad_core import methods
from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.image_features import Extractor, TileFeatures, clip_extractor, view_extractor
from zsad_core.images import CROPS
from zsad_core.methods import Output
from zsad_core.prompt_learning import LearnedPrompts
from zsad_core.scores import Array
from zsad_core.windows import window_map
from zsad_papers.anomalyclip import COMPARED, DATASETS
from zsad_papers.anomalyclip import experiments as prompts
from zsad_papers.anomalyclip import tables as anomalyclip
from zsad_papers.anomalyclip.learning import FIRST_SEED
from zsad_papers.baselines.backbones import backbone_extractor, backbone_of
from zsad_papers.baselines.relevance import trans_mm
from zsad_papers.baselines.vand import vand_extractor
from zsad_papers.common.costs import latencies, random_pixels
from zsad_papers.common.data import dataset_names, embedded_datasets
from zsad_papers.common.experiment import Category, as_frame, categories
from zsad_papers.common.results import FULL_SHOT, KEYS, joined, rows, tidy
from zsad_papers.common.settings import Settings
from zsad_papers.common.tables import mean_std
from zsad_papers.rwda import experiments as random_words
from zsad_papers.winclip import experiments as windows
from zsad_papers.winclip import tables as winclip

SYSTEMS = pd.read_csv(files("zsad_papers") / "side_by_side.csv", keep_default_na=False)
TRIES = pd.read_csv(files("zsad_papers") / "side_by_side_tries.csv")
"""Each combination, what it is compared with, and by which metric."""
NAMES = SYSTEMS.set_index(["method", "variant"])["name"]
METRICS = {("image", "auroc"): "image AUROC", ("pixel", "auroc"): "pixel AUROC", ("pixel", "pro"): "PRO"}
OTHERS = "other sets"
"""Stands for all datasets but MVTec AD and VisA; each of them counts as one category."""
GROUPS = ("zero-shot", "learned", "few-shot", "full-shot", "combined")
ENOUGH = 5  # categories for a bootstrap
NETWORKS = 2  # of RWDA, whose maps are measured


def of_random_words(
    settings: Settings, encoder: ClipEncoder, dataset: str, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Records of CLIP, RWDA and their sum, category known; on `COMPARED` also with references."""
    images = embedded_datasets(settings, encoder, [dataset])[dataset]
    test, train = images.select(split="test"), images.select(split="train")
    guided = random_words.prompt_scores(test, settings, encoder, known=True)
    alone = {seed: random_words.fnn_scores(test, fnn) for seed, fnn in fnns.items()}
    both = random_words.sum_scores(guided, alone)
    runs = {("clip", 0): {0: guided}, ("rwda", 0): alone, ("clip_rwda", 0): both}
    for k in settings.shots if dataset in COMPARED else ():
        near = {seed: random_words.similarity_scores(test, train, k, seed) for seed in fnns}
        runs["clip_rwda", k] = random_words.sum_scores(both, near)
    frames = [
        random_words.measure(test, own).assign(method=method, variant="", shots=k, task="image")
        for (method, k), own in runs.items()
    ]
    return pd.concat(frames, ignore_index=True)


def of_windows(settings: Settings, encoder: ClipEncoder, dataset: str) -> pd.DataFrame:
    """Records of WinCLIP's tables and of the full-shot methods."""
    if dataset not in COMPARED:
        return anomalyclip.winclip_records(settings, encoder, dataset)
    found = winclip.main_records(winclip.all_records(settings, encoder, dataset))
    few = found[found["shots"].isin([0, *settings.shots])]
    return pd.concat([few, anomalyclip.full_shot_records(settings, encoder, dataset)])


def at_mask_size(category: Category, method: prompts.Method) -> dict[str, np.ndarray]:
    """`prompts.measured` where maps meet masks as WinCLIP's do: at the masks' own size. Where the input has
    this size too, it is AnomalyCLIP's own measurement, which is kept."""
    sizes = {category.test.size(i)[::-1] for i in range(len(category.test))}
    same = category.settings.map_size is None and sizes == {category.encoder.image_size}
    return prompts.measured(category, method, stretched=same)


def of_prompts(settings: Settings, large: ClipEncoder, dataset: str) -> pd.DataFrame:
    """Records of CLIP's patch tokens, CoOp, VAND and AnomalyCLIP, maps at the size that WinCLIP's have."""
    records = []
    for category in prompts.squashed(settings, large, dataset):
        found = at_mask_size(category, prompts.clip_method(category))
        records += prompts.records_of(category, found, "clip", "tokens=qk")
    learned = prompts.run_experiment(settings, large, dataset, ["", "coop", "vand"], at_mask_size)
    return pd.concat([as_frame(records), learned])


def random_word_maps(features: TileFeatures, fnn: FNN, length: float, grid: tuple[int, int]) -> Output:
    """Maps of RWDA's score: of WinCLIP's windows, or of the local features of one block. The network knows
    raw embeddings; so unit ones get their length."""

    def score(embeddings: Array) -> Array:
        return fnn.score(length * embeddings)

    if local := features.starting("local"):
        return Output(maps=score(next(iter(local.values()))).unflatten(1, grid))
    return Output(maps=window_map(features.tensor("image"), features.windows(), grid, score))


def with_random_words(category: Category, large: Category, fnns: Mapping[int, FNN]) -> list[dict]:
    """Records of RWDA's networks on windows and on v-v tokens: maps without an image to learn from."""
    length = float(np.linalg.norm(category.views("squash"), axis=-1).mean())
    state = b"".join(value.numpy().tobytes() for fnn in fnns.values() for value in fnn.state_dict().values())
    key = {"fnns": hashlib.sha256(state).hexdigest(), "length": length}
    smooth, vv = methods.smoothing(large.encoder.image_size), prompts.clip_features(large.encoder, "vv")
    records = []
    for on, own, extractor, sigma in (("windows", category, category.clip, 0.0), ("vv", large, vv, smooth)):

        def detect(features: TileFeatures, grid: tuple[int, int] = own.encoder.grid) -> dict[str, Output]:
            return {f"{seed}": random_word_maps(features, fnn, length, grid) for seed, fnn in fnns.items()}

        found = own.measured(f"rwda-{on}", lambda: detect, extractor, sigma=sigma, kinds=(), **key)
        for seed in fnns:
            records.append(category.record(found[f"{seed}/pixel"], "pixel", "rwda", f"on={on}", seed=seed))
    return records


def with_ensemble(large: Category) -> list[dict]:
    """Records of WinCLIP's sentences on AnomalyCLIP's v-v tokens."""
    method = prompts.clip_method(large, prompts="prompt_ens", attention="vv")
    return prompts.records_of(large, at_mask_size(large, method), "winclip", "on=vv")


def with_learned(
    category: Category, learned: LearnedPrompts, large: ClipEncoder, shots: Sequence[int]
) -> pd.DataFrame:
    """Records of WinCLIP, and of WinCLIP+ for the first draw of references, with AnomalyCLIP's prompts."""
    texts, temperature = tuple(learned.texts(large)[0]), learned.config.temperature
    settings = replace(category.settings, temperature=temperature, reference_seeds=1)
    own = replace(category, learned=texts, settings=settings)
    scores = methods.clip(own.views(), texts, temperature).scores
    records = [own.record(scores, "image", "winclip"), *windows.zero_shot(own, False)]
    records += windows.few_shot(own, shots) if shots else []
    return winclip.main_records(as_frame(records)).assign(variant="prompts=learned")


def combined(
    settings: Settings, encoder: ClipEncoder, large: ClipEncoder, dataset: str, fnns: Mapping[int, FNN]
) -> pd.DataFrame:
    """Records of all combinations on one of `COMPARED`: the first `NETWORKS` of RWDA, all trained prompts
    without references, the first with the most. Other weights for the larger input give none."""
    if encoder.weights_id != large.weights_id:
        return as_frame([])
    few, frames = dict(list(fnns.items())[:NETWORKS]), []
    learned = prompts.learned_for(settings, large, dataset, [""])
    others = prompts.squashed(settings, large, dataset)
    for category, other in zip(categories(settings, encoder, dataset), others, strict=True):
        frames.append(as_frame(with_random_words(category, other, few) + with_ensemble(other)))
        for (_, seed), own in learned.items():
            shots = [max(settings.shots)] if seed == FIRST_SEED else ()
            found = with_learned(category, own, large, shots)
            frames.append(found.assign(seed=found["seed"] + seed * (found["shots"] == 0)))
    return pd.concat(frames, ignore_index=True)


def measured_rows(settings: Settings, encoder: ClipEncoder, large: ClipEncoder) -> pd.DataFrame:
    """Rows of every system and category, and of means over categories with the deviation over seeds."""
    fnns, others, frames = random_words.default_runs(settings, encoder), [], []
    fnns = dict(list(fnns.items())[: settings.reference_seeds])  # as many as draws of references
    for stand_in, dataset in anomalyclip.first_datasets(dataset_names(settings, DATASETS)).items():
        found = [of_windows(settings, encoder, dataset), of_prompts(settings, large, dataset)]
        if "image" in set(found[0]["task"]):
            found.append(of_random_words(settings, encoder, dataset, fnns))
        if dataset in COMPARED:
            found.append(combined(settings, encoder, large, dataset, fnns))
            frames.append(_tidy(pd.concat(found, ignore_index=True), stand_in))
        else:
            others.append(pd.concat(found, ignore_index=True).assign(category=stand_in))
    return joined([*frames, *(_tidy(pd.concat(others, ignore_index=True), OTHERS) for _ in others[:1])])


def _tidy(records: pd.DataFrame, dataset: str) -> pd.DataFrame:
    return tidy(records, dataset, "all", paper="side_by_side", keep="both", metrics=("auroc", "pro"))


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of the mean of values, from 9,999 draws."""
    found = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return tuple(map(float, found.confidence_interval))


def interval_rows(measured: pd.DataFrame) -> pd.DataFrame:
    """Rows `bound=low` and `bound=high` for each mean over `ENOUGH` categories: drawn anew."""
    by, found = [key for key in KEYS if key != "category"], []
    for names, own in measured[measured["category"] != "mean"].groupby(by, sort=False):
        for side, value in zip(("low", "high"), bootstrap(own["mean"]) if len(own) >= ENOUGH else ()):
            row = dict(zip(by, names)) | {"category": "mean", "mean": value, "std": np.nan}
            found.append(row | {"variant": f"{row['variant']};bound={side}".strip(";")})
    return pd.DataFrame(found, columns=measured.columns).astype(measured.dtypes)


def pass_extractors(settings: Settings, encoder: ClipEncoder, large: ClipEncoder) -> dict[str, Extractor]:
    """By the names of the column `passes`: the networks through which an image goes."""
    windows, backbone = Category(settings, encoder, None, "").clip, backbone_of(settings)
    image, texts = clip_extractor(encoder, ()), torch.eye(2, encoder.dim)
    tokens = clip_extractor(encoder, (), windows.key["layers"])

    def relevance(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return trans_mm(encoder.model, pixels, texts)

    return {
        **{"image": image, "views": view_extractor(encoder), "windows": windows},
        "tokens": tokens if backbone is None else backbone_extractor(backbone),
        "trans_mm": replace(image, features=relevance),
        **{kind: prompts.clip_features(large, kind) for kind in ("qk", "vv")},
        "vand": vand_extractor(large),
    }


def cost_rows(settings: Settings, encoder: ClipEncoder, large: ClipEncoder) -> dict[str, pd.DataFrame]:
    """Rows of multiply-accumulates and of milliseconds for one image, by metric: of all networks that it goes
    through. What is done with the features afterwards is left out."""
    steps, macs = {}, {}
    for name, own in pass_extractors(settings, encoder, large).items():
        pixels = random_pixels(own.network, 1 + CROPS if own.zoom else 1)
        steps[name] = partial(own.features, pixels.to(own.network.device))
        with FlopCounterMode(display=False) as counter:
            steps[name]()
        macs[name] = counter.get_total_flops() / 2e9
    names = {"paper": "side_by_side", "artifact": "cost", "dataset": "", "task": ""}
    found = {}
    for metric, of in {"macs_G": macs, "time_ms": latencies(steps)}.items():
        frames = []
        for own in SYSTEMS[SYSTEMS["passes"] != ""].itertuples():
            value = pd.DataFrame([{metric: sum(of[name] for name in own.passes.split())}])
            frames.append(rows(value, method=own.method, variant=own.variant, **names))
        found[metric] = joined(frames)
    return found


def systems(measured: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """A line for each dataset, system, number of references and metric: the columns of `SYSTEMS`, mean, std,
    low, high, macs_G, time_ms and of (the metric's name). measured: with `interval_rows`."""
    own = measured[measured["category"] == "mean"]
    parts = own["variant"].str.extract(r"^(.*?);?(?:bound=(low|high))?$")
    own = own.assign(variant=parts[0], side=parts[1].fillna("mean"))
    by = ["method", "variant", "dataset", "shots", "task", "metric"]
    wide = own.pivot(index=by, columns="side", values="mean").reindex(columns=["mean", "low", "high"])
    wide = wide.join(own[own["side"] == "mean"].set_index(by)["std"]).reset_index()
    cost = costs.pivot(index=["method", "variant"], columns="metric", values="mean").reset_index()
    found = SYSTEMS.assign(order=range(len(SYSTEMS))).merge(wide).merge(cost, how="left")
    full, few = found["shots"] == FULL_SHOT, (found["shots"] > 0) & (found["group"] == "zero-shot")
    found.loc[few, ["group", "needs"]] = ["few-shot", "name; references"]
    found.loc[full, ["group", "needs"]] = ["full-shot", "all normal images"]
    found["group"] = pd.Categorical(found["group"], GROUPS, ordered=True)
    found["system"] = found["name"] + found["shots"].map(_references).astype(str)
    found["of"] = [METRICS[pair] for pair in zip(found["task"], found["metric"])]
    return found.sort_values(["dataset", "group", "order", "shots"], kind="stable")


def _references(shots: int) -> str:
    return {0: "", FULL_SHOT: ", all images"}.get(shots, f", {shots}-shot")


def most_references(frame: pd.DataFrame) -> pd.DataFrame:
    """Of few-shot methods those with the most references, and all others."""
    return frame[frame["shots"].isin([0, frame["shots"].max(), FULL_SHOT])]


def table_of(found: pd.DataFrame) -> pd.DataFrame:
    """`systems` of one dataset for readers: mean ± deviation over seeds [95% interval over categories]."""
    texts = [mean_std(*own) for own in zip(found["mean"], found["std"])]
    bounds = zip(found["low"], found["high"])
    bounds = ["" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]" for low, high in bounds]
    names = {"system": "system", "needs": "knows or sees", "macs_G": "G", "time_ms": "ms"}
    own = found.assign(text=[text + bound for text, bound in zip(texts, bounds)]).rename(columns=names)
    order = pd.MultiIndex.from_frame(own[list(names.values())].drop_duplicates())
    wide = own.pivot(index=list(names.values()), columns="of", values="text")
    wide = wide.reindex(index=order, columns=list(METRICS.values())).fillna("-").rename_axis(columns=None)
    return wide.reset_index(["knows or sees", "G", "ms"])


def by_category(measured: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """Means over seeds: a line for each category of the datasets with all methods, a column for each system
    that has them all: its name, and its references in words."""
    own = most_references(measured[(measured["dataset"] != OTHERS) & (measured["category"] != "mean")])
    own = own[(own["task"] == task) & (own["metric"] == metric)]
    columns = ["method", "variant", "shots"]
    table = own.pivot(index=["dataset", "category"], columns=columns, values="mean").dropna(axis="columns")
    shown = [(NAMES[method, variant], _references(shots)) for method, variant, shots in table]
    return table.set_axis(pd.MultiIndex.from_tuples(shown, names=["name", "references"]), axis="columns")


def rank_test(table: pd.DataFrame) -> pd.DataFrame:
    """Friedman's test and Nemenyi's critical difference (Demšar 2006) of a table (n categories, systems): a
    line a system, best first, with its mean rank, 1 for the best; and in all lines critical, n and p. Two
    systems differ at 5% if their ranks are further apart than `critical`. p: if all were alike."""
    n, k = table.shape
    ranks = table.rank(axis="columns", ascending=False).mean().sort_values().rename("rank")
    critical = stats.studentized_range.ppf(0.95, k, np.inf) * np.sqrt(k * (k + 1) / (12 * n))
    p = stats.friedmanchisquare(*table.to_numpy().T).pvalue
    return ranks.rename_axis("system").reset_index().assign(critical=critical, n=n, p=p)


def rank_tests(measured: pd.DataFrame) -> pd.DataFrame:
    """`rank_test` of each metric, in the column `of`; no line without a dataset that has all methods."""
    frames = []
    for (task, metric), of in METRICS.items():
        table = by_category(measured, task, metric)
        table.columns = ["".join(system) for system in table]
        frames += [rank_test(table).assign(of=of)] if len(table) else []
    columns = ["system", "rank", "critical", "n", "p", "of"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def tries(measured: pd.DataFrame) -> pd.DataFrame:
    """`TRIES`: the mean paired difference over categories, its interval, and a verdict: ahead of or behind,
    where the interval leaves 0 out."""
    lines = []
    for own in TRIES.itertuples():
        table = by_category(measured, own.task, own.metric).droplevel("references", axis="columns")
        if {own.new, own.beside} <= set(table):
            change = table[own.new] - table[own.beside]
            low, high = bootstrap(change)
            verdict = "ahead of" if low > 0 else "behind" if high < 0 else "not distinguishable from"
            numbers = {"measure": METRICS[own.task, own.metric], "difference": change.mean()}
            numbers |= {"low": low, "high": high}
            lines.append({"new": own.new, "verdict": verdict, "beside": own.beside, **numbers})
    return pd.DataFrame(lines)


def takeaway(found: pd.DataFrame, ranks: pd.DataFrame, changes: pd.DataFrame) -> list[str]:
    """Sentences by rule: the best of each kind, what the rank test separates, and what each try gave."""
    lines, own = [], found[(found["dataset"] != OTHERS) & (found["metric"] == "auroc")]
    for (dataset, of), part in own.groupby(["dataset", "of"]):
        best = part.loc[part.groupby("group", observed=True)["mean"].idxmax()]
        named = [f"{row.group}: {row.system}, {row.mean:.1f}" for row in best.itertuples(index=False)]
        lines.append(f"**{of} on {dataset}**, the best of each kind. {'; '.join(named)}.")
    for of, part in ranks.groupby("of", sort=False):
        first = part.iloc[0]
        alike = (part["rank"] <= first["rank"] + first["critical"]).sum() - 1
        differ = "differ" if first["p"] < 0.05 else "do not differ clearly"
        lines.append(
            f"**Ranks by {of}** {differ} (p = {first['p']:.1g}, {first['n']} categories). {first['system']} "
            f"leads; {alike} of {len(part) - 1} others lie within the critical difference."
        )
    lines += [
        f"**{row.new}** is {row.verdict} {row.beside} by {row.measure}: {row.difference:+.1f} points "
        f"[{row.low:.1f}, {row.high:.1f}]."
        for row in changes.itertuples()
    ]
    return lines or ["Nothing was measured in this run."]
