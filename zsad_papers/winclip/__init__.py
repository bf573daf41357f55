"""WinCLIP and WinCLIP+: zero- and few-shot anomaly classification and segmentation with windows."""

from zsad_papers.common.paper import Paper, seed_range
from zsad_papers.winclip.settings import WinclipSettings

PAPER = Paper(
    key="winclip",
    title="WinCLIP",
    order=2,
    encoder=("ViT-B-16-plus-240", "laion400m_e32"),
    encoder_parameters=("model", "weights"),
    datasets=("mvtec", "visa"),
    settings=WinclipSettings,
    seeds=lambda settings: (
        f"{seed_range(settings.seed, settings.reference_seeds)} for drawing reference images"
    ),
)

EXPERIMENTS = {
    role: {
        "needs": (role,),
        "features": dict.fromkeys(("views", "winclip", "backbone"), (role,)),
        "after": (),
    }
    for role in ("mvtec", "visa")
}
"""What is measured before the notebooks run, by dataset: the roles without which it is left out, the features
that are computed before, with the roles of their datasets, and the experiments, `paper-dataset`, that come
first."""
