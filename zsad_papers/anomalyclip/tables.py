"""AnomalyCLIP's tables as tidy rows, from the records of `anomalyclip.experiments`."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import pandas as pd

from zsad_core.encoders import ClipEncoder
from zsad_papers.anomalyclip import COMPARED, DATASETS, INDUSTRIAL, experiments, learning
from zsad_papers.baselines.backbones import Backbone, backbone_of
from zsad_papers.baselines.rd4ad import LAYERS, rd4ad_detector, rd4ad_extractor
from zsad_papers.common.data import dataset_names, dataset_of, encoder_of, has_masks
from zsad_papers.common.experiment import Category, as_frame, categories
from zsad_papers.common.results import FULL_SHOT, joined, rows, tidy
from zsad_papers.common.settings import Settings
from zsad_papers.common.tables import Table, comparison_table
from zsad_papers.winclip.experiments import full_shot, zero_shot, zero_shot_classification

METHODS = ("clip", "clip_ac", "winclip", "vand", "coop", "anomalyclip")
METRICS = ("auroc", "ap", "pro200")
"""The paper's PRO is the estimate of its code. Tables 1 and 2 measure the exact `pro` beside it."""
Artifact = str | Mapping[str, str]

MAIN = ("baselines", "", "coop", "vand")  # for Tables 1 and 2; WinCLIP has its own records
TUNED = ("tuned=medical", "vand;tuned=medical")  # for Table 3

CLASSWISE = {
    "mvtec": {"pixel": {"auroc": "T15", "pro200": "T16"}, "image": {"auroc": "T17", "ap": "T18"}},
    "visa": {"pixel": {"auroc": "T19", "pro200": "T20"}, "image": {"auroc": "T21", "ap": "T22"}},
    "mpdd": {"pixel": {"auroc": "T23", "pro200": "T24"}, "image": {"auroc": "T25", "ap": "T26"}},
}
"""The tables of Appendix F, by dataset, task and metric."""


def variants_of(settings: Settings, dataset: str) -> list[str]:
    """All variants to measure on a dataset's stand-in."""
    found = [*MAIN, "object_aware", "class_name_at_test", *(f"word={word}" for word in experiments.WORDS)]
    if dataset not in INDUSTRIAL and settings.datasets[dataset] != settings.datasets[learning.MEDICAL]:
        found += TUNED
    if dataset in COMPARED:
        ablations = [name for table in experiments.ABLATIONS.values() for name in table]
        found += [name for name in ablations if name in experiments.VARIANTS]
        found += ["wo_dpam", *(f"code:{name}" for name in experiments.SWITCHES)]
        found += experiments.sweep_variants(settings) if dataset == "mvtec" else []
    return list(dict.fromkeys(found))


def first_datasets(names: Mapping[str, str]) -> dict[str, str]:
    """{stand-in: its first dataset}: each stand-in is measured once. names: {dataset: stand-in}."""
    first: dict[str, str] = {}
    for dataset, stand_in in names.items():
        first.setdefault(stand_in, dataset)
    return first


def winclip_records(settings: Settings, encoder: ClipEncoder, dataset: str) -> pd.DataFrame:
    """WinCLIP's records on any dataset. encoder: that of WinCLIP."""
    records = []
    for category in categories(settings, encoder, dataset):
        records += zero_shot_classification(category) if len({*category.test.labels}) == 2 else []
        records += zero_shot(category, dataset in COMPARED) if has_masks(category.test) else []
    return as_frame([r for r in records if (r["method"], r["variant"]) == ("winclip", "")])


def full_shot_records(settings: Settings, encoder: ClipEncoder, dataset: str) -> pd.DataFrame:
    """PatchCore and RD4AD with all normal training images (Table 12). encoder: that of WinCLIP. RD4AD is left
    out where the baselines run on no ResNet, its teacher, and, with a warning, without its extra."""
    found = [category for category in categories(settings, encoder, dataset) if len(category.train)]
    backbone = backbone_of(settings)
    records = [record for category in found for record in full_shot(category, backbone)]
    has_teacher = backbone is not None and set(LAYERS) <= set(backbone.layers)
    if has_teacher and find_spec("anomalib") is None:
        warnings.warn("RD4AD is left out: pip install '.[baselines]'", stacklevel=2)
    elif has_teacher:
        records += [record for category in found for record in rd4ad(category, backbone)]
    return as_frame(records)


def rd4ad(category: Category, backbone: Backbone) -> list[dict]:
    """RD4AD trained on the category's normal images."""
    backbone = replace(backbone, layers=LAYERS)  # the few-shot baselines read one layer more
    category, extractor = replace(category, whole="squash"), rd4ad_extractor(category.train, backbone)
    found = category.measured("rd4ad", lambda: rd4ad_detector, extractor, kinds=())
    arrays = {"image": found["/scores"], "pixel": found["/pixel"]}
    return [category.record(own, task, "rd4ad", shots=FULL_SHOT) for task, own in arrays.items()]


def rows_of(records: pd.DataFrame, stand_in: str, artifact: Artifact, **where: object) -> pd.DataFrame:
    """Rows of one artifact over all seeds, of sweeps over their only one; where: as in `results.tidy`."""
    variants = [where["variant"]] if isinstance(where["variant"], str) else list(where["variant"])
    if any(name.startswith(experiments.ONE_SEED) for name in variants):
        records = records[records["seed"] <= learning.FIRST_SEED]
    return tidy(records, stand_in, artifact, paper="anomalyclip", **{"metrics": METRICS, **where})


def ablation_rows(records: pd.DataFrame, stand_in: str, artifact: str) -> pd.DataFrame:
    """Rows of a table in `ABLATIONS`."""
    where = {"method": "anomalyclip", "variant": experiments.ABLATIONS[artifact], "keep": "both"}
    return rows_of(records, stand_in, artifact, **where)


def main_rows(records: pd.DataFrame, stand_in: str, artifact: Artifact, **where: object) -> pd.DataFrame:
    """Rows of Tables 1 or 2: six methods without their variants."""
    return rows_of(records, stand_in, artifact, method=METHODS, variant="", shots=0, **where)


def classwise_rows(records: pd.DataFrame, dataset: str, stand_in: str) -> pd.DataFrame:
    """Rows of the four tables of Appendix F for one dataset."""
    return joined(
        main_rows(records, stand_in, artifacts, task=task, metrics=list(artifacts), keep="both")
        for task, artifacts in CLASSWISE.get(dataset, {}).items()
    )


def score_rows(records: pd.DataFrame, stand_in: str) -> pd.DataFrame:
    """Rows of claim 48: the spread of the scores over all categories."""
    where = {"method": ["clip", "anomalyclip"], "variant": "", "task": "image"}
    metrics = ["score_mean", "score_std", "score_overlap"]
    return rows_of(records, stand_in, "appE", metrics=metrics, **where)


def count_rows(settings: Settings) -> pd.DataFrame:
    """Rows of Table 6 for the datasets of this run."""
    frames = []
    for dataset, stand_in in dataset_names(settings, DATASETS).items():
        test = dataset_of(settings, dataset).select(split="test")
        counts = {"n_categories": len(test.categories), "n_normal": (test.labels == 0).sum()}
        counts["n_anomalous"] = (test.labels == 1).sum()
        names = {"paper": "anomalyclip", "artifact": "T6", "dataset": stand_in, "method": "", "task": ""}
        frames.append(rows(pd.DataFrame([counts]), **names))
    return joined(frames).drop_duplicates()


def guesses(counted: pd.DataFrame) -> pd.DataFrame:
    """The AP (%) of a detector that guesses, by dataset: the share of anomalous test images, published and
    measured; NaN without a normal image. counted : Table 6 as `compare` gives it."""
    wide = counted.pivot(index="dataset", columns="metric", values=["published", "measured"])
    normal, anomalous = (wide.xs(name, axis=1, level=1) for name in ("n_normal", "n_anomalous"))
    return (100 * anomalous / (normal + anomalous)).where(normal > 0).reindex(counted["dataset"].unique())


def gain(beside: pd.DataFrame, better: str, worse: str, metrics: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """One variant of AnomalyCLIP minus another, by dataset and metric (Figures 5, 9)."""
    own = beside[(beside["method"] == "anomalyclip") & (beside["category"] == "mean")]
    wide = own.pivot_table(index=["dataset", "task", "metric"], columns="variant", values="mean", sort=False)
    change = (wide[better] - wide[worse]).rename("gain").reset_index()
    return change[[tuple(pair) in set(metrics) for pair in change[["task", "metric"]].to_numpy()]]


def by_level(beside: pd.DataFrame, caption: str, **options: object) -> list[Table]:
    """Published beside measured, one table for images and one for pixels. options: of `comparison_table`."""
    options = {"index": ["dataset", "method"], "show": ("published", "measured"), **options}
    levels = {"image": "AUROC and AP", "pixel": "AUROC and PRO"}
    captions = {task: f"{caption}, {task} level, {metrics} in %" for task, metrics in levels.items()}
    own = {task: beside[beside["task"] == task] for task in levels}
    return [comparison_table(own[task], caption=captions[task], **options) for task in levels]


def run(settings: Settings, target: str) -> str:
    """Run all experiments on a dataset's stand-in, or on all `others`'; a line of summary for each."""
    datasets = [name for name in DATASETS if name not in COMPARED] if target == "others" else [target]
    encoder, windows, lines = encoder_of(settings, "prompt_"), encoder_of(settings), []
    for stand_in, dataset in first_datasets(dataset_names(settings, datasets)).items():
        records = experiments.run_experiment(settings, encoder, dataset, variants_of(settings, dataset))
        found = [records, winclip_records(settings, windows, dataset)]
        if dataset in COMPARED:
            found.append(full_shot_records(settings, windows, dataset))
        lines.append(f"{stand_in}: {sum(map(len, found))} measurements")
    return "\n".join(lines)
