"""WinCLIP and WinCLIP+: zero- and few-shot anomaly classification and segmentation with windows."""

from __future__ import annotations

from functools import partial

from zsad_papers import start_page
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

start = partial(start_page, PAPER)


EXPERIMENTS = {
    dataset: {
        "needs": (dataset,),
        "features": dict.fromkeys(("views", "winclip", "backbone"), (dataset,)),
        "after": (),
    }
    for dataset in ("mvtec", "visa")
}
"""The experiments that run before the notebooks, by dataset: the datasets that they need, the features
to compute first, with their datasets, and the experiments, `paper-dataset`, that run before."""
