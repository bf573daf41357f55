"""anomalib's WinCLIP around this project's open_clip module, to compare with: same weights, no download.

anomalib's `WinClipModel` takes the windows' tokens from (windows, length, width) to (length, windows, width)
before it calls open_clip's transformer and back afterwards. That was right until open_clip 2.25. From 2.26 on
the transformer takes (batch, length, width), and the same lines let a token attend to the tokens at its place
in all other *windows* instead of those in its own: every window's class token sees copies of itself only, and
all windows get one embedding (anomalib #2571; anomalib 2.7 still asks for open_clip < 2.26.1).

`LengthFirst` undoes that permutation while anomalib embeds windows; the whole image, which open_clip encodes
by itself, goes through as it is. Nothing else of anomalib's code is changed: its masks, tokens, prompts,
scores and maps are its own. Two permutations of the same axes cost no copy, so its time is its own as well.
"""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

from anomalib.models.image.winclip import torch_model
from torch import Tensor, nn

from zsad_core.encoders import ClipEncoder


class LengthFirst(nn.Module):
    """A batch-first transformer that takes (length, batch, width) while `on`."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.on = False

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if not self.on:
            return self.transformer(x, *arguments, **options)
        return self.transformer(x.permute(1, 0, 2), *arguments, **options).permute(1, 0, 2)


def anomalib_model(
    encoder: ClipEncoder,
    class_name: str | None,
    references: Tensor | None = None,
    *,
    adapted: bool = True,
) -> torch_model.WinClipModel:
    """anomalib's model with the encoder's weights, which both share; the encoder stays as it is.

    class_name: whose sentences to embed; None for none yet (`model.setup` gives them later).
    references: (k, 3, H, W) preprocessed normal images for WinCLIP+; None for WinCLIP.
    adapted: False leaves out `LengthFirst`, to show its effect.
    """
    shared = {id(tensor): tensor for tensor in (*encoder.model.parameters(), *encoder.model.buffers())}
    clip = copy.deepcopy(encoder.model, shared)  # own modules: anomalib sets `output_tokens`
    with mock.patch.object(
        torch_model.open_clip, "create_model_and_transforms", lambda *_, **__: (clip, None, None)
    ):
        model = torch_model.WinClipModel(class_name).eval()
    if adapted:
        _adapt(model)
    if references is not None:
        model.setup(reference_images=references)
    return model


def _adapt(model: torch_model.WinClipModel) -> None:
    """Turn `LengthFirst` on around anomalib's own `_get_window_embeddings`."""
    visual = model.clip.visual
    visual.transformer = LengthFirst(visual.transformer)
    embed_windows = model._get_window_embeddings

    def adapted(feature_map: Tensor, masks: Tensor) -> Tensor:
        visual.transformer.on = True
        try:
            return embed_windows(feature_map, masks)
        finally:
            visual.transformer.on = False

    model._get_window_embeddings = adapted
