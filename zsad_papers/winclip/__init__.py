"""WinCLIP and WinCLIP+: zero- and few-shot anomaly classification and segmentation with windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zsad_papers.common.paper import Paper, seed_range
from zsad_papers.winclip.settings import WinclipSettings

PAPER = Paper(
    key="winclip",
    title="WinCLIP",
    order=2,
    encoder=("ViT-B-16-plus-240", "laion400m_e32"),
    datasets=("mvtec", "visa"),
    settings=WinclipSettings,
    seeds=lambda settings: (
        f"{seed_range(settings.seed, settings.reference_seeds)} for drawing reference images"
    ),
)


def start(parameters: Mapping[str, Any], datasets: Sequence[str] | None = None) -> Any:
    """What a notebook begins with, a `common.page.Page`. parameters: its `globals()`. datasets: the published
    ones that it is about; None: all of the paper."""
    from zsad_papers.common.page import start  # here: the workflow need not wait for torch

    return start(parameters, PAPER.datasets if datasets is None else datasets, PAPER)


EXPERIMENTS = {
    role: {
        "needs": (role,),
        "features": dict.fromkeys(("views", "winclip", "backbone"), (role,)),
        "after": (),
    }
    for role in ("mvtec", "visa")
}
"""The experiments that run before the notebooks, by dataset: the roles that they need, the features to
compute first, with the roles of their datasets, and the experiments, `paper-dataset`, that run before."""
