"""RWDA: random word data augmentation for zero-shot anomaly detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zsad_papers.common.paper import Paper, seed_range
from zsad_papers.rwda.settings import RwdaSettings

PAPER = Paper(
    key="rwda",
    title="Random word data augmentation (RWDA)",
    order=1,
    encoder=("ViT-B-16-plus-240", "laion400m_e32"),
    datasets=("mvtec", "visa", "sewerml"),
    settings=RwdaSettings,
    seeds=lambda settings: seed_range(settings.seed, settings.seeds),  # of networks that are trained
)


def start(parameters: Mapping[str, Any], datasets: Sequence[str] | None = None) -> Any:
    """What a notebook begins with, a `common.page.Page`. parameters: its `globals()`. datasets: the published
    ones that it is about; None: all of the paper."""
    from zsad_papers.common.page import start  # here: the workflow need not wait for torch

    return start(parameters, PAPER.datasets if datasets is None else datasets, PAPER)
