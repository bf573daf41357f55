"""WinCLIP's tables as tidy rows, from the records of `winclip.experiments`."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.metrics import auroc, f1_max
from zsad_papers.baselines.backbones import backbone_of
from zsad_papers.common import results
from zsad_papers.common.data import encoder_of
from zsad_papers.common.experiment import Category, run_experiment
from zsad_papers.common.galleries import Example
from zsad_papers.common.results import FULL_SHOT, joined, read_table, rows
from zsad_papers.common.settings import Settings
from zsad_papers.common.tables import LABELS, Table, as_table, mean_std
from zsad_papers.winclip import experiments

CLASSWISE = {
    ("mvtec", "image"): {"auroc": "T10", "aupr": "T11", "f1max": "T12"},
    ("mvtec", "pixel"): {"auroc": "T13", "pro": "T14", "f1max": "T15"},
    ("visa", "image"): {"auroc": "T16", "aupr": "T17", "f1max": "T18"},
    ("visa", "pixel"): {"auroc": "T19", "pro": "T20", "f1max": "T21"},
}
"""The tables of supplement D, by dataset, task and metric."""

PRINTED = "of_classes"  # of `results.SPREADS`: the paper's own ±, in Tables 1, 4, S8 and 10 to 21
FULL = {"score=ascore0+max_map": "", "maps=P+Wm+Ws": ""}  # the full method's name in the ablations

tidy = partial(results.tidy, paper="winclip")


def all_records(settings: Settings, encoder: ClipEncoder, dataset: str) -> pd.DataFrame:
    """All records for Tables 1 to 8 and 10 to 21 of a dataset; empty without it."""
    backbone, few_shot = backbone_of(settings), experiments.few_shot_design(settings, dataset)
    designs = [
        (experiments.zero_shot_classification,),
        (experiments.zero_shot,),
        (experiments.other_localization,),
        (experiments.few_shot, *few_shot),
        (experiments.few_shot_by_defect, *few_shot),
        (experiments.few_shot_baselines, settings.shots, backbone),
    ]
    designs += [(experiments.tiling,), (experiments.full_shot, backbone)] if dataset == "mvtec" else []
    frames = [run_experiment(settings, encoder, dataset, *design) for design in designs]
    return pd.concat(frames, ignore_index=True)


def main_records(records: pd.DataFrame) -> pd.DataFrame:
    """The methods of Tables 1 and 4 without their ablations, under an empty variant."""
    records = records.assign(variant=records["variant"].replace(FULL))
    return records[(records["variant"] == "") & ~records["method"].isin(["patchcore_last"])]


def comparison_rows(
    records: pd.DataFrame, stand_in: str, task: str, shots: Sequence[int], spread: str = PRINTED
) -> pd.DataFrame:
    """Rows of Table 1 (task image) or Table 4 (task pixel)."""
    own = {"task": task, "shots": [0, *shots], "spread": spread}
    return tidy(main_records(records), stand_in, {"image": "T1", "pixel": "T4"}[task], **own)


def classwise_rows(records: pd.DataFrame, dataset: str, stand_in: str, shots: Sequence[int]) -> pd.DataFrame:
    """Rows of the six tables of supplement D for one dataset."""
    main, frames = main_records(records), []
    where = {"shots": [0, *shots], "method": ["winclip", "winclip_plus", "spade", "padim", "patchcore"]}
    for task in ("image", "pixel"):
        own = CLASSWISE[dataset, task]
        how = {"task": task, "metrics": list(own), "keep": "both", "spread": PRINTED}
        frames.append(tidy(main, stand_in, own, **where, **how))
    return joined(frames)


def classwise_table(beside: pd.DataFrame, artifact: str) -> Table:
    """A table of supplement D as the paper lays it out: a line a category, columns by shots and method; first
    the published categories, then those of this run, then differences. beside: of `Page.compare`."""
    own = beside[beside["artifact"] == artifact]
    metric, dataset, task = own[["metric", "dataset", "task"]].iloc[0]
    texts = {side: map(mean_std, own[side], own[f"{side}_std"]) for side in ("published", "measured")}
    texts["difference"] = map("{:+.1f}".format, own["difference"])
    cells = pd.DataFrame({side: list(values) for side, values in texts.items()}, index=own.index)
    long = cells.where(own[list(cells)].notna()).assign(
        category=own["category"].str.replace("_", " "),
        shots=own["shots"].astype(str) + "-shot",
        method=own["method"].map(LABELS["method"]),
    )
    long = long.melt(["category", "shots", "method"], var_name="side", value_name="text")
    keys = {"index": ["side", "category"], "columns": ["shots", "method"], "values": "text"}
    wide = long.dropna().pivot_table(**keys, aggfunc="first", sort=False)
    frame = wide.rename_axis(["", "category"]).rename_axis(columns=[None, None]).fillna("-")
    what = f"{task} {LABELS['metric'][metric]} on {LABELS['dataset'][dataset]}"
    caption = f"Table {artifact[1:]}: {what}, by category"
    stand_in = own.loc[own["measured_on"] != "", "measured_on"].unique()
    missing = "; dataset missing, nothing measured" if own["status"].eq("dataset missing").all() else ""
    return as_table(frame, caption + (f"; measured on {', '.join(stand_in)}" if len(stand_in) else missing))


def many_shot_rows(records: pd.DataFrame, stand_in: str) -> pd.DataFrame:
    """Rows of Table 2 that a run can give: WinCLIP, WinCLIP+ and PatchCore with all normal images."""
    own = {"winclip": [0], "winclip_plus": [1, 4], "patchcore": [FULL_SHOT]}
    main, names = main_records(records), {"artifact": "T2", "metrics": ["auroc"]}
    return joined(tidy(main, stand_in, method=method, shots=k, **names) for method, k in own.items())


def ablation_rows(records: pd.DataFrame, dataset: str, stand_in: str, shots: Sequence[int]) -> pd.DataFrame:
    """Rows of Tables 3, 5, 6 and 8 (mvtec) or 7 (visa), and of claims without a table: `ablations.csv`, where
    `default` is the method itself. shots: of WinCLIP+."""
    frames, table = [], read_table("winclip", "ablations.csv")
    for row in table[table["dataset"].isin([dataset, ""])].itertuples(index=False):
        own = {"method": row.method, "task": row.task, "metrics": row.metrics}
        where = {column: value.split(" | ") for column, value in own.items() if value}
        where |= {"shots": shots} if row.method == "winclip_plus" else {}
        variants = row.variants.replace("default", "").split(" | ")
        frames.append(tidy(records, stand_in, row.artifact, variant=variants, keep="both", **where))
    return joined(frames)


def patchcore_rows(
    settings: Settings, encoder: ClipEncoder, records: pd.DataFrame, stand_in: str
) -> pd.DataFrame:
    """Rows of Table S8: PatchCore on its own backbone and on the CLIP, beside WinCLIP+."""
    name = f"backbone={published_name(encoder.model_id)}"
    is_clip = settings.backbone == "clip"  # then patchcore on it is among the records
    options = (settings.shots, None, ["patchcore_last"] if is_clip else ["patchcore", "patchcore_last"])
    on_clip = run_experiment(settings, encoder, "mvtec", experiments.few_shot_baselines, *options)
    if is_clip:
        on_clip = pd.concat([records[records["method"] == "patchcore"], on_clip])
    renamed = {"patchcore": "patchcore_clip_hidden", "patchcore_last": "patchcore_clip_last"}
    plus = main_records(records).query("method == 'winclip_plus'")
    parts = [pd.concat([on_clip.replace({"method": renamed}), plus]).assign(variant=name)]
    if not is_clip:
        own = main_records(records).query("method == 'patchcore'")
        parts.append(own.assign(variant=f"backbone={published_name(settings.backbone)}"))
    return tidy(pd.concat(parts), stand_in, "S8", shots=settings.shots, spread=PRINTED)


PUBLISHED = {"wide_resnet50_2": "wrn_50_2", "ViT-B-16-plus-240": "vit_b_16_plus"}
PUBLISHED |= {"tf_efficientnet_lite0": "efficientnet_lite0", "clip": "tokens_of_the_CLIP"}
"""A backbone's name in the paper's tables."""


def published_name(model: str) -> str:
    return PUBLISHED.get(model, model.split("@")[0].replace("-", "_").lower())


def baseline_labels(settings: Settings) -> dict[str, dict[str, str]]:
    """Names of the few-shot baselines that tell the network which this run gives them."""
    network = published_name(settings.backbone).replace("_", " ")
    names = {name: LABELS["method"][name] for name in ("spade", "padim", "patchcore")}
    return {"method": {name: f"{label} (measured on {network})" for name, label in names.items()}}


def backbone_rows(
    settings: Settings, encoder: ClipEncoder, records: pd.DataFrame, stand_in: str
) -> pd.DataFrame:
    """Rows of Table S9: single-crop WinCLIP on this run's CLIP and on `settings.clip_backbones`."""
    of_run = {published_name(encoder.model_id): records}
    for name, text in settings.clip_backbones.items():
        if name not in of_run:
            model, weights = text.split()
            other = load_encoder(model, weights, device=settings.device, precision=settings.precision)
            runs = (experiments.zero_shot_classification, experiments.zero_shot)
            of_run[name] = pd.concat(run_experiment(settings, other, "mvtec", run) for run in runs)
    shown, frames = {"image": "prompt_ens", "pixel": ""}, []
    for name, found in of_run.items():
        own = (found["method"] == "winclip") & (found["variant"] == found["task"].map(shown))
        frames.append(found[own].assign(variant=f"backbone={name}"))
    return tidy(pd.concat(frames), stand_in, "S9", metrics=["auroc"])


def open_choice_rows(settings: Settings, encoder: ClipEncoder, dataset: str, stand_in: str) -> pd.DataFrame:
    """Rows of 'What the paper leaves open': artifact `open`, one variant for each option."""
    options = (experiments.open_choices, backbone_of(settings), dataset == "mvtec")
    return tidy(run_experiment(settings, encoder, dataset, *options), stand_in, "open")


def failure_rows(chosen: Sequence[Category]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of claims 40 (Spearman's correlation of a defect's size with how well it is found) and 43 (image
    AUROC by the maxima of the maps); and the anomalous images as of `within_images`. Both may be empty."""
    from scipy.stats import spearmanr  # here: it takes as long as pandas

    keys = ["dataset", "category"]
    parts = {(own.dataset.name, own.name): experiments.within_images(own) for own in chosen}
    if not parts:
        return joined([]), pd.DataFrame(columns=[*keys, "area", "auroc"])
    images = pd.concat(parts, names=keys).reset_index(keys)
    own = {"paper": "winclip", "artifact": "suppC", "method": "winclip", "keep": "mean"}
    frames = []
    for dataset, part in images.groupby("dataset", sort=False):
        categories = part.groupby("category")[["label", "maximum"]]
        maxima = categories.apply(lambda own: auroc(own["label"], own["maximum"]))
        values = maxima.rename("auroc").reset_index()
        frames.append(rows(values, dataset=dataset, variant="score=max_map", **own))
    images = images.dropna()
    value = spearmanr(images["area"], images["auroc"]).statistic
    frames.append(rows(pd.DataFrame([{"spearman": value}]), dataset="", task="pixel", **own))
    return joined(frames), images


def figure_rows(shown: Sequence[tuple[Category, Example]]) -> pd.DataFrame:
    """Rows of claim 41: the best pixel F1 of each map of Figure 5, over the pixels that all methods see."""
    frames = []
    for category, example in shown:
        maps = {name: example.maps[f"{LABELS['method'][name]} (1)"] for name in FIGURE_5}
        seen = np.all(np.isfinite(list(maps.values())), axis=0)
        mask = example.mask[seen]
        names = {"paper": "winclip", "artifact": "F5", "dataset": category.dataset.name, "task": "pixel"}
        names |= {"variant": "figure=5", "shots": 1, "keep": "categories"}
        for method, found in maps.items() if mask.any() else ():
            values = pd.DataFrame([{"category": category.name, "f1max": f1_max(mask, found[seen])}])
            frames.append(rows(values, method=method, **names))
    return joined(frames)


FIGURE_5 = ("winclip_plus", "spade", "padim", "patchcore")


def run(settings: Settings, dataset: str) -> str:
    """Run all experiments on a dataset's stand-in, for the notebooks to read; returns a line of summary."""
    encoder = encoder_of(settings)
    records = all_records(settings, encoder, dataset)
    if dataset == "mvtec":
        patchcore_rows(settings, encoder, records, settings.datasets[dataset])
    open_choice_rows(settings, encoder, dataset, settings.datasets[dataset])
    return f"{settings.datasets[dataset]}: {len(records)} measurements, {encoder.weights_id}"
