"""Milliseconds that WinCLIP and its ablations take for one image: the last column of WinCLIP's Table 8."""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from zsad_core.encoders import ClipEncoder
from zsad_core.methods import token_map
from zsad_core.windows import winclip_map
from zsad_papers.baselines.tiling import tile_embeddings, tiling_map
from zsad_papers.common.costs import latencies, random_pixels
from zsad_papers.common.results import joined, rows
from zsad_papers.common.settings import Settings

PAIR = ["a photo of an object", "a photo of a damaged object"]


def map_step(encoder: ClipEncoder, scales: Sequence[int], **options: object) -> Callable[[], Tensor]:
    """WinCLIP's map of one image, texts known. options: of `winclip_map`."""
    pixels, texts = random_pixels(encoder, 1), encoder.embed_text(PAIR)
    return partial(winclip_map, encoder, pixels, *texts, scales=scales, temperature=0.01, **options)


def time_rows(settings: Settings, encoder: ClipEncoder, dataset: str, repeats: int = 8) -> pd.DataFrame:
    """Rows of Table 8's last column: milliseconds for one image, from pixels to map, texts known."""
    pixels, depth, scales = random_pixels(encoder, 1), encoder.depth, settings.scales
    normal, anomalous = encoder.embed_text(PAIR)

    def patch_token() -> Tensor:
        tokens = encoder.embed_scales(pixels, (), whole=False, layers=(depth,)).layers[depth]
        return token_map(encoder.project_tokens(tokens), encoder.grid, (normal, anomalous))

    def probability(embeddings: Tensor) -> Tensor:
        return torch.sigmoid((embeddings @ (anomalous - normal)) / 0.01)

    def image_tiling() -> Tensor:
        scores = {size: probability(tile_embeddings(encoder, pixels, size)) for size in scales}
        return tiling_map(scores, probability(encoder.embed_images(pixels)), encoder.grid)

    steps = {
        "": map_step(encoder, scales),
        "wo_image_scale": map_step(encoder, scales, image_scale=False),
        "wo_mid_scale": map_step(encoder, scales[:1]),
        "wo_small_scale": map_step(encoder, scales[-1:]),
        "wo_harmonic": map_step(encoder, scales, aggregate="arithmetic"),
        "patch_token": patch_token,
        "image_tiling": image_tiling,
    }
    names = {"paper": "winclip", "artifact": "T8", "dataset": dataset, "method": "winclip", "task": "pixel"}
    measured = latencies(steps, repeats).items()
    return joined(rows(pd.DataFrame([{"time_ms": ms}]), variant=v, **names) for v, ms in measured)
