"""What CLIP, RWDA and both together cost for one image on this machine: RWDA's Table 3."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch

from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.scores import average_views, prompt_score
from zsad_papers.common.costs import (
    fnn_multiply_accumulates,
    fnn_parameters,
    latencies,
    multiply_accumulates,
    tower_of,
)
from zsad_papers.common.results import rows


def cost_rows(encoder: ClipEncoder, fnn: FNN, *, views: int = 6, repeats: int = 20) -> pd.DataFrame:
    """Rows of Table 3 for CLIP, RWDA and their sum: image-side parameters (M), multiply-accumulates (G) and
    latency (ms) of one image.

    One image is `views` views in one batch; prompts are embedded beforehand, as in the paper. The counts are
    exact and the same in every run; the latencies are this machine's.
    """
    tower, hidden = tower_of(encoder), tuple(layer[0].out_features for layer in fnn.layers)
    clip_parameters = sum(p.numel() for p in encoder.model.visual.parameters())
    clip_macs = multiply_accumulates(tower, views * [(1, tower.tokens)], patch_embeddings=views)
    pixels = torch.randn(views, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))
    normal, anomalous = encoder.embed_text(["a photo of an object", "a photo of a damaged object"]).cpu()

    def guided(embeddings: torch.Tensor) -> torch.Tensor:
        return average_views(prompt_score(embeddings[None], normal, anomalous))

    def learned(embeddings: torch.Tensor) -> torch.Tensor:
        return average_views(fnn.score(embeddings[None]))

    scores = {"clip": (guided,), "rwda": (learned,), "clip_rwda": (guided, learned)}

    def detect(parts: tuple[Callable, ...]) -> Callable[[], object]:
        def step() -> object:
            embeddings = encoder.embed_images(pixels, normalize=False).cpu()  # (views, d)
            return sum(part(embeddings) for part in parts)

        return step

    measured = latencies({name: detect(parts) for name, parts in scores.items()}, repeats)
    frames = []
    for method, parts in scores.items():
        with_fnn = learned in parts
        values = {
            "params_M": (clip_parameters + with_fnn * fnn_parameters(encoder.dim, hidden)) / 1e6,
            "macs_G": (clip_macs + with_fnn * views * fnn_multiply_accumulates(encoder.dim, hidden)) / 1e9,
            "latency_ms": measured[method],
        }
        frames.append(rows(pd.DataFrame([values]), paper="rwda", artifact="T3", dataset="", method=method))
    return pd.concat(frames, ignore_index=True)
