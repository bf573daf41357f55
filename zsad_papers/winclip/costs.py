"""Milliseconds that WinCLIP and its ablations take for one image: the last column of WinCLIP's Table 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch

from zsad_core.encoders import ClipEncoder
from zsad_core.methods import token_map
from zsad_core.windows import winclip_map
from zsad_papers.baselines.tiling import tile_embeddings, tiling_map
from zsad_papers.common.costs import latencies
from zsad_papers.common.results import rows
from zsad_papers.common.settings import Settings


def time_rows(settings: Settings, encoder: ClipEncoder, dataset: str, repeats: int = 20) -> pd.DataFrame:
    """Rows of Table 8's last column: milliseconds for one image, from pixels to map, texts known."""
    pixels = torch.randn(1, 3, *encoder.image_size, generator=torch.Generator().manual_seed(0))
    normal, anomalous = encoder.embed_text(["a photo of an object", "a photo of a damaged object"])
    small, middle, depth = settings.scales[0], settings.scales[-1], encoder.depth
    options = {"normal": normal, "anomalous": anomalous, "temperature": 0.01}

    def windows(scales: Sequence[int] = settings.scales, **changes) -> Callable[[], object]:
        return lambda: winclip_map(encoder, pixels, scales=scales, **options, **changes)

    def patch_token() -> object:
        tokens = encoder.embed_scales(pixels, (), whole=False, layers=(depth,)).layers[depth]
        return token_map(encoder.project_tokens(tokens), encoder.grid, (normal, anomalous))

    def image_tiling() -> object:
        cosine = lambda x: torch.sigmoid((x @ (anomalous - normal)) / 0.01)  # noqa: E731
        scores = {size: cosine(tile_embeddings(encoder, pixels, size)) for size in settings.scales}
        return tiling_map(scores, cosine(encoder.embed_images(pixels)), encoder.grid)

    measured = latencies(
        {
            "": windows(),
            "wo_image_scale": windows(image_scale=False),
            "wo_mid_scale": windows((small,)),
            "wo_small_scale": windows((middle,)),
            "wo_harmonic": windows(aggregate="arithmetic"),
            "patch_token": patch_token,
            "image_tiling": image_tiling,
        },
        repeats,
    )
    names = {"paper": "winclip", "artifact": "T8", "dataset": dataset, "method": "winclip", "task": "pixel"}
    frames = [rows(pd.DataFrame([{"time_ms": ms}]), variant=v, **names) for v, ms in measured.items()]
    return pd.concat(frames, ignore_index=True)
