"""WinCLIP and WinCLIP+: zero- and few-shot anomaly classification and segmentation with windows."""

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
    seeds=lambda own: f"{seed_range(own.seed, own.reference_seeds)} for drawing reference images",
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
"""What the experiments on a dataset need: datasets, their features, other experiments (`paper-dataset`)."""
