"""RWDA: random word data augmentation for zero-shot anomaly detection."""

from functools import partial

from zsad_papers import start_page
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

start = partial(start_page, PAPER)

FEATURES = ("views", "texts")  # for `zsad_papers.precompute`: all images, sentences of random words
