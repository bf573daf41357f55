"""What CLIP, RWDA and both together cost for one image on this machine: RWDA's Table 3."""

from collections.abc import Callable
from functools import partial

import pandas as pd
from open_clip.transformer import VisionTransformer

from zsad_core import methods
from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.prompts import prompt_pair
from zsad_papers.common import costs
from zsad_papers.common.costs import Counted, latencies
from zsad_papers.common.results import joined, rows

VIEWS = 6  # of one image: the only small number that gives the printed 105.4


def cost_rows(encoder: ClipEncoder, fnn: FNN, *, repeats: int = 8) -> pd.DataFrame:
    """Rows of Table 3: one image's six views in one batch, prompts embedded beforehand, as in the paper.
    Counted as by the paper's profiler and, as a variant, in full; the latencies are this machine's."""
    pixels, tower = costs.random_pixels(encoder, VIEWS), costs.tower_of(encoder)
    guided = partial(methods.clip, texts=encoder.embed_text(list(prompt_pair())).cpu())
    learned = partial(methods.rwda, fnn=fnn)
    scores = {"clip": (guided,), "rwda": (learned,), "clip_rwda": (guided, learned)}

    def detect(parts: tuple[Callable, ...]) -> object:
        embeddings = encoder.embed_images(pixels, normalize=False).cpu()[None]  # (1, views, d)
        return sum(part(embeddings).scores for part in parts)

    measured = latencies({name: partial(detect, parts) for name, parts in scores.items()}, repeats)
    frames = []
    for method, ms in measured.items():
        names = {"paper": "rwda", "artifact": "T3", "dataset": "", "method": method}
        values = image_counts(tower, fnn, method, "profiler") | {"latency_ms": ms}
        everything = image_counts(tower, fnn, method, "all")
        frames.append(rows(pd.DataFrame([values]), **names))
        frames.append(rows(pd.DataFrame([everything]), **names, variant="counted=all"))
    return joined(frames)


def image_counts(tower: VisionTransformer, fnn: FNN, method: str, counted: Counted) -> dict[str, float]:
    """Parameters (millions) and multiply-accumulates (10^9) of a method for one image. WinCLIP is counted as
    the paper does: its windows once, on one patch embedding."""
    views, sequences = VIEWS, VIEWS * [(1, len(tower.positional_embedding))]
    if method == "winclip":
        views, sequences = 1, costs.window_sequences(tower)
    numbers = costs.parameters(tower, counted)
    macs = costs.multiply_accumulates(tower, sequences, patch_embeddings=views, counted=counted)
    for value in fnn.parameters() if "rwda" in method else ():
        numbers += value.numel()
        macs += views * value.numel() * (value.ndim == 2)
    return {"params_M": numbers / 1e6, "macs_G": macs / 1e9}


def complexity_table() -> pd.DataFrame:
    """Table 3's first two columns for the paper's models, counted both ways: method, metric, profiler, all.
    Three widths of 256 are the only equal ones that fit the printed total."""
    tower, frames = costs.paper_tower(), []
    for method in ("clip", "winclip", "rwda", "clip_rwda"):
        ways = {way: image_counts(tower, FNN(640), method, way) for way in ("profiler", "all")}
        frames.append(pd.DataFrame(ways).rename_axis("metric").reset_index().assign(method=method))
    return pd.concat(frames, ignore_index=True)
