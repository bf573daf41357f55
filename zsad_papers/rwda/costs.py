"""What CLIP, RWDA and both together cost for one image on this machine: RWDA's Table 3."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.prompts import prompt_pair
from zsad_core.scores import average_views, prompt_score
from zsad_papers.common.costs import (
    VisionTower,
    latencies,
    multiply_accumulates,
    parameters,
    random_pixels,
    tower_of,
    window_sequences,
)
from zsad_papers.common.results import joined, rows


def cost_rows(encoder: ClipEncoder, fnn: FNN, *, views: int = 6, repeats: int = 20) -> pd.DataFrame:
    """Rows of Table 3 for CLIP, RWDA and their sum: image-side parameters (M), multiply-accumulates (G) and
    latency (ms) of one image.

    One image is `views` views in one batch; prompts are embedded beforehand, as in the paper. The counts are
    exact and the same in every run; the latencies are this machine's.
    """
    tower, added = tower_of(encoder), fnn_counts(fnn)
    clip_parameters = sum(p.numel() for p in encoder.model.visual.parameters())
    clip_macs = multiply_accumulates(tower, views * [(1, tower.tokens)], patch_embeddings=views)
    pixels = random_pixels(encoder, views)
    normal, anomalous = encoder.embed_text(list(prompt_pair())).cpu()

    def guided(embeddings: torch.Tensor) -> torch.Tensor:
        return average_views(prompt_score(embeddings[None], normal, anomalous))

    def learned(embeddings: torch.Tensor) -> torch.Tensor:
        return average_views(fnn.score(embeddings[None]))

    scores = {"clip": (guided,), "rwda": (learned,), "clip_rwda": (guided, learned)}

    def detect(parts: tuple[Callable, ...]) -> object:
        embeddings = encoder.embed_images(pixels, normalize=False).cpu()  # (views, d)
        return sum(part(embeddings) for part in parts)

    measured = latencies({name: partial(detect, parts) for name, parts in scores.items()}, repeats)
    frames = []
    for method, parts in scores.items():
        with_fnn = learned in parts
        values = {
            "params_M": (clip_parameters + with_fnn * added["params_M"]) / 1e6,
            "macs_G": (clip_macs + with_fnn * views * added["macs_G"]) / 1e9,
            "latency_ms": measured[method],
        }
        frames.append(rows(pd.DataFrame([values]), paper="rwda", artifact="T3", dataset="", method=method))
    return joined(frames)


def fnn_counts(fnn: FNN) -> dict[str, int]:
    """Parameters of RWDA's network, and its multiply-accumulates for one embedding.

    >>> fnn_counts(FNN(640))
    {'params_M': 297473, 'macs_G': 295168}
    """
    linear = [part for part in fnn.modules() if isinstance(part, torch.nn.Linear)]
    numbers = sum(parameter.numel() for parameter in fnn.parameters())
    return {"params_M": numbers, "macs_G": sum(part.weight.numel() for part in linear)}


def complexity_table() -> pd.DataFrame:
    """Table 3's first two columns for the paper's models, counted both ways: method, metric, profiler, all
    (millions and 10^9).

    Six views are the only small number that gives the printed 105.4, and three widths of 256 the only equal
    ones that fit the total. WinCLIP is counted as the table does: its windows once, on one patch embedding.
    """
    tower, added, views = VisionTower(), fnn_counts(FNN(640)), 6
    whole, windows = (views * [(1, tower.tokens)], views), (window_sequences(tower), 1)
    records = []
    for method, with_fnn in (("clip", 0), ("winclip", 0), ("rwda", 1), ("clip_rwda", 1)):
        sequences, images = windows if method == "winclip" else whole
        numbers = {"params_M": {}, "macs_G": {}}
        for counted in ("profiler", "all"):
            macs = multiply_accumulates(tower, sequences, patch_embeddings=images, counted=counted)
            numbers["macs_G"][counted] = (macs + with_fnn * views * added["macs_G"]) / 1e9
            numbers["params_M"][counted] = (parameters(tower, counted) + with_fnn * added["params_M"]) / 1e6
        records += [{"method": method, "metric": metric, **own} for metric, own in numbers.items()]
    return pd.DataFrame(records)
