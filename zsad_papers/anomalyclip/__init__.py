"""AnomalyCLIP: object-agnostic prompts, learned on one dataset and tested on others."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from zsad_papers import start_page
from zsad_papers.anomalyclip.settings import AnomalyclipSettings
from zsad_papers.common.paper import Paper, seed_range


def _seeds(settings: Any) -> str:
    from zsad_core.prompt_config import PromptConfig  # here: pages without a model need not wait for torch

    first = PromptConfig().seed
    main = seed_range(first, settings.prompt_seeds)
    return f"trainings for Tables 1 and 2 with {main}, others with {first}"


INDUSTRIAL = ("mvtec", "visa", "mpdd", "btad", "sdd", "dagm", "dtd_synthetic")
MEDICAL_IMAGE = ("headct", "brainmri", "br35h", "covid19")
MEDICAL_PIXEL = ("isic", "cvc_colondb", "cvc_clinicdb", "kvasir", "endo", "tn3k")
DATASETS = (*INDUSTRIAL, *MEDICAL_IMAGE, *MEDICAL_PIXEL)
COMPARED = ("mvtec", "visa")  # with ablations and baselines; the prompts for each are learned on the other


def _also_missing(settings: Any, datasets: Sequence[str]) -> list[str]:
    from zsad_papers.anomalyclip.experiments import nothing_learned  # here: as above

    return nothing_learned(settings, datasets)


PAPER = Paper(
    key="anomalyclip",
    title="AnomalyCLIP",
    order=3,
    encoder=("ViT-L-14-336-quickgelu", "openai"),
    prefix="prompt_",
    also_missing=_also_missing,
    datasets=DATASETS,
    settings=AnomalyclipSettings,
    seeds=_seeds,
)

start = partial(start_page, PAPER)

_OTHERS = tuple(dataset for dataset in DATASETS if dataset not in COMPARED)

EXPERIMENTS = {
    dataset: {"needs": (dataset,), "features": {"anomalyclip": COMPARED}, "after": (f"winclip-{dataset}",)}
    for dataset in COMPARED
} | {
    # The prompts for VisA and for all other datasets are learned on MVTec AD: once, so one after the other.
    "others": {
        "needs": ("mvtec",),
        "features": dict.fromkeys(("views", "winclip", "anomalyclip"), _OTHERS),
        "after": ("winclip-mvtec", "anomalyclip-visa"),
    }
}
"""As of `winclip`; `others` is all datasets that have no ablations."""
