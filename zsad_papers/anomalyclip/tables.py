"""AnomalyCLIP's tables as tidy rows, of what `anomalyclip_studies` measured."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import pandas as pd

from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_papers.anomalyclip import INDUSTRIAL, MEDICAL_IMAGE, MEDICAL_PIXEL
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.anomalyclip.experiments import SWITCHES, WORDS, study, sweep_variants
from zsad_papers.baselines.backbones import Backbone, backbone_of
from zsad_papers.baselines.rd4ad import LAYERS, rd4ad_detector, rd4ad_extractor
from zsad_papers.common import data
from zsad_papers.common.data import dataset_of, encoder_of
from zsad_papers.common.experiment import Category, categories
from zsad_papers.common.results import COLUMNS, FULL_SHOT, rows, tidy
from zsad_papers.common.settings import Settings
from zsad_papers.winclip.experiments import full_shot, language, zero_shot

ROLES = (*INDUSTRIAL, *MEDICAL_IMAGE, *MEDICAL_PIXEL)

METHODS = ("clip", "clip_ac", "winclip", "vand", "coop", "anomalyclip")
METRICS = ("auroc", "ap", "pro")

MAIN = ("baselines", "", "coop", "vand")
"""Variants of `anomalyclip_studies.study` for Tables 1 and 2; WinCLIP has its own records."""
TUNED = ("tuned=medical", "vand;tuned=medical")
"""Those of Table 3."""

_VV = "attention=vv"
ABLATIONS: dict[str, tuple[str, ...]] = {
    "T4": ("base", "+T1", "+T2", "+T3", "+T4"),
    "T5": ("local=0;global=0", "local=0;global=1", "local=1;global=0", "local=1;global=1"),
    "T7": ("", "-T1", "-T2", "-T3", "-T4"),
    "T9": ("shared", "unshared"),
    "T10": ("attention=qk", _VV, "attention=qq+kk+vv", "attention=qk+qq+kk+vv"),
    "T11": ("focal=0;dice=0", "focal=0;dice=1", "focal=1;dice=0", "focal=1;dice=1"),
    "F6": ("attention=qq", "attention=kk", _VV),
    "sec3.3": ("attention=qk;local=0", "attention=qk;local=1"),
}
"""Variants of each ablation, measured on MVTec AD and VisA."""

CLASSWISE = {
    "mvtec": {
        ("pixel", "auroc"): "T15",
        ("pixel", "pro"): "T16",
        ("image", "auroc"): "T17",
        ("image", "ap"): "T18",
    },
    "visa": {
        ("pixel", "auroc"): "T19",
        ("pixel", "pro"): "T20",
        ("image", "auroc"): "T21",
        ("image", "ap"): "T22",
    },
    "mpdd": {
        ("pixel", "auroc"): "T23",
        ("pixel", "pro"): "T24",
        ("image", "auroc"): "T25",
        ("image", "ap"): "T26",
    },
}
"""The tables of Appendix F, by role, task and metric."""


def variants_of(settings: Settings, role: str) -> list[str]:
    """Everything that is measured of the dataset in a role."""
    words = [f"word={word}" for word in WORDS]
    everywhere = [*MAIN, "object_aware", "class_name_at_test", *words]
    if (
        role in MEDICAL_IMAGE + MEDICAL_PIXEL
        and settings.datasets[role] != settings.datasets[anomalyclip_experiments.MEDICAL]
    ):
        everywhere += TUNED
    if role not in ("mvtec", "visa"):
        return everywhere
    ablations = [
        variant for name in ABLATIONS for variant in ABLATIONS[name] if variant not in ("base", "+T1")
    ]
    sweeps = sweep_variants(settings) if role == "mvtec" else []
    return list(
        dict.fromkeys([*everywhere, *ablations, "wo_dpam", *sweeps, *(f"code:{s}" for s in SWITCHES)])
    )


def present_roles(settings: Settings, roles: Sequence[str] = ROLES) -> dict[str, str]:
    """{role: dataset} of those roles whose dataset is prepared."""
    return {role: settings.datasets[role] for role in roles if dataset_of(settings, role) is not None}


def first_roles(names: Mapping[str, str]) -> dict[str, str]:
    """{dataset: the first of its roles}: one that stands in several is measured once. names: {role: dataset}.

    >>> first_roles({"kvasir": "polyp", "endo": "polyp", "tn3k": "thyroid"})
    {'polyp': 'kvasir', 'thyroid': 'tn3k'}
    """
    found: dict[str, str] = {}
    for role, dataset in names.items():
        found.setdefault(dataset, role)
    return found


def winclip_records(settings: Settings, encoder: ClipEncoder, role: str) -> pd.DataFrame:
    """WinCLIP, from its own part of the book, on any dataset. encoder: that of WinCLIP."""
    records: list[dict] = []
    for c in categories(settings, encoder, role):
        if len(set(c.test.labels.tolist())) == 2:
            records += [r for r in language(c) if (r["method"], r["variant"]) == ("winclip", "")]
        if data.has_masks(c.test):
            records += [r for r in zero_shot(c) if (r["method"], r["variant"]) == ("winclip", "")]
    frame = pd.DataFrame(records)
    return frame.assign(ap=frame["aupr"]) if "aupr" in frame else frame


def full_shot_records(settings: Settings, encoder: ClipEncoder, role: str) -> pd.DataFrame:
    """PatchCore and RD4AD with all normal training images (Table 12). encoder: that of WinCLIP.

    RD4AD distils a trained network, so it is left out where the baselines run on the CLIP's own tokens, and,
    with a warning, where its extra is not installed.
    """
    found = [c for c in categories(settings, encoder, role) if len(c.train)]
    backbone = backbone_of(settings)
    records = [record for c in found for record in full_shot(c, backbone)]
    if backbone is not None and find_spec("anomalib") is None:
        warnings.warn("RD4AD is left out: pip install '.[baselines]'", stacklevel=2)
    elif backbone is not None:
        records += [record for c in found for record in rd4ad(c, backbone)]
    frame = pd.DataFrame(records)
    return frame.assign(ap=frame["aupr"]) if "aupr" in frame else frame


def rd4ad(c: Category, backbone: Backbone) -> list[dict]:
    """RD4AD trained on the category's normal images."""
    # the few-shot baselines read one layer more
    c, extractor = replace(c, whole="squash"), rd4ad_extractor(c.train, replace(backbone, layers=LAYERS))
    found = c.measured("rd4ad", lambda: rd4ad_detector, extractor, kinds=())
    image = c.record(found["/scores"], "image", "rd4ad", shots=FULL_SHOT)
    return [image, c.record(found["/pixel"], "pixel", "rd4ad", shots=FULL_SHOT)]


def rows_of(
    records: pd.DataFrame, dataset: str, artifact: str | Mapping[str, str], **where: object
) -> pd.DataFrame:
    """Rows of one artifact of this paper; where and keep: as in `winclip_tables.tidy`."""
    if records.empty:
        return pd.DataFrame(columns=COLUMNS)
    return tidy(records, dataset, artifact, paper="anomalyclip", **{"metrics": METRICS, **where})


def ablation_rows(records: pd.DataFrame, dataset: str, artifact: str) -> pd.DataFrame:
    """Rows of a table in `ABLATIONS`."""
    return rows_of(records, dataset, artifact, method="anomalyclip", variant=ABLATIONS[artifact])


def main_rows(records: pd.DataFrame, dataset: str, artifact: str) -> pd.DataFrame:
    """Rows of Tables 1 or 2: six methods without their variants."""
    return rows_of(records, dataset, artifact, method=METHODS, variant="", shots=0)


def classwise_rows(records: pd.DataFrame, role: str, dataset: str) -> pd.DataFrame:
    """Rows of the four tables of Appendix F for one dataset."""
    frames = [
        rows_of(
            records,
            dataset,
            artifact,
            method=METHODS,
            variant="",
            shots=0,
            task=task,
            metrics=[metric],
            keep="both",
        )
        for (task, metric), artifact in CLASSWISE[role].items()
    ]
    return pd.concat(frames, ignore_index=True)


def score_rows(records: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Rows of claim 48: how scores are spread, over all categories."""
    metrics = ["score_mean", "score_std", "score_overlap"]
    return rows_of(
        records, dataset, "appE", method=["clip", "anomalyclip"], variant="", task="image", metrics=metrics
    )


def count_rows(settings: Settings) -> pd.DataFrame:
    """Rows of Table 6 for the datasets of this run."""
    frames = []
    for role, name in present_roles(settings).items():
        test = dataset_of(settings, role).select(split="test")
        counts = {"n_categories": len(test.categories), "n_normal": (test.labels == 0).sum()}
        counts["n_anomalous"] = (test.labels == 1).sum()
        names = {"paper": "anomalyclip", "artifact": "T6", "dataset": name, "method": "", "task": ""}
        frames.append(rows(pd.DataFrame([counts]), **names))
    return pd.concat([pd.DataFrame(columns=COLUMNS), *frames], ignore_index=True).drop_duplicates()


def gain(beside: pd.DataFrame, better: str, worse: str, metrics: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """By dataset and metric, how much one variant of AnomalyCLIP is above another (Figures 5, 9)."""
    own = beside[(beside["method"] == "anomalyclip") & (beside["category"] == "mean")]
    wide = own.pivot_table(index=["dataset", "task", "metric"], columns="variant", values="mean", sort=False)
    change = (wide[better] - wide[worse]).rename("gain").reset_index()
    return change[[tuple(pair) in set(metrics) for pair in change[["task", "metric"]].to_numpy()]]


def sources(settings: Settings, roles: Sequence[str]) -> list[AnomalyDataset]:
    """The datasets in these roles, each once, for `records.write_record`."""
    found = {settings.datasets[role]: dataset_of(settings, role) for role in roles}
    return [dataset for dataset in found.values() if dataset is not None]


def measure_everything(settings: Settings, role: str) -> pd.DataFrame:
    """All records of the dataset in a role, for the notebooks to read."""
    encoder, windows = data.prompt_encoder(settings), encoder_of(settings)
    frames = [
        study(settings, encoder, role, variants_of(settings, role)),
        winclip_records(settings, windows, role),
    ]
    if role in ("mvtec", "visa"):
        frames.append(full_shot_records(settings, windows, role))
    return pd.concat(frames, ignore_index=True)


def run(settings: Settings, target: str) -> str:
    """Measure everything of the dataset in a role, or of all `others`; a line for each."""
    others = [role for role in ROLES if role not in ("mvtec", "visa")]
    names = present_roles(settings, others if target == "others" else [target])
    # a dataset in several places is measured once
    lines = [
        f"{n}: {len(measure_everything(settings, role))} measurements"
        for n, role in first_roles(names).items()
    ]
    return "\n".join(lines)
