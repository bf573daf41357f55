"""WinCLIP and WinCLIP+ on a dataset: prompts, image scores, and maps measured part by part.

Images have been embedded before (`zsad_core.image_features`). A detector is a function from the features of
some tiles to named `Output`s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Dense, Extractor, glocal_extractor, text_embeddings
from zsad_core.prompt_config import PromptConfig
from zsad_core.prompts import PromptKind, object_name, zero_shot_prompts
from zsad_core.references import Memory, build_memory, reference_maps, winclip_plus
from zsad_core.scores import Array, average_views, prompt_score, to_tensor
from zsad_core.windows import Average, upsample, zero_shot_map


def winclip_map(
    encoder: ClipEncoder,
    pixels: Tensor,
    normal: Array,
    anomalous: Array,
    scales: Sequence[int] = (2, 3),
    image_scale: bool = True,
    aggregate: Average = "harmonic",
    *,
    across: Average | None = None,
    temperature: float = 0.01,
) -> Tensor:
    """WinCLIP's zero-shot anomaly maps of preprocessed images (n, 3, H, W) -> (n, H, W) in [0, 1] (Sec. 4.2).

    normal, anomalous: text embeddings (d,), or (k, d) of an ensemble. scales: window sizes in patches.
    image_scale: whether the whole image's score takes part. The other options are those of `zero_shot_map`.
    Raises ValueError for a window larger than the grid, or no scale at all.
    """
    embedded = encoder.embed_scales(pixels, scales, whole=image_scale)
    maps = zero_shot_map(
        embedded.image,
        embedded.windows,
        encoder.grid,
        normal,
        anomalous,
        aggregate=aggregate,
        across=across,
        temperature=temperature,
    )
    return upsample(maps, encoder.image_size)


MAPS = {"P": ("P",), "P+Wm": ("P", "Wm"), "P+Wm+Ws": ("P", "Wm", "Ws")}
"""Sets of reference maps of WinCLIP+ by the names of Table 6: patch tokens, the largest windows (3 x 3) and
the smallest (2 x 2)."""

Texts = tuple[np.ndarray, np.ndarray]
"""Embeddings of the normal and of the anomalous sentences, (k, d) each, or their means (d,)."""


class Output(NamedTuple):
    """What a detector says of t tiles: scores (t,) and maps (t, rows, columns), either of them or both."""

    scores: Tensor | None = None
    maps: Tensor | None = None


Detector = Callable[[Dense], Mapping[str, Output]]


def category_sentences(
    category: str, kind: PromptKind = "prompt_ens", defects: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """What `category_texts` embeds: (normal, anomalous) sentences."""
    return zero_shot_prompts(object_name(category), kind, defects)


def category_texts(
    encoder: ClipEncoder,
    category: str,
    cache_dir: str | Path,
    kind: PromptKind = "prompt_ens",
    *,
    defects: Sequence[str] = (),
    normalize_sentences: bool = True,
) -> Texts:
    """Text embeddings of a category's two sides.

    normalize_sentences: True (default) gives all sentences, which scores bring to length 1 before they take
        the mean, so that none weighs more. False gives the mean of raw embeddings, as public code does. The
        paper says "average of text embeddings" only.
    """
    sides = category_sentences(category, kind, defects)
    vectors = text_embeddings(encoder, [*sides[0], *sides[1]], cache_dir, f"winclip-{kind}")
    normal, anomalous = vectors[: len(sides[0])], vectors[len(sides[0]) :]
    return (normal, anomalous) if normalize_sentences else (normal.mean(0), anomalous.mean(0))


def image_scores(views: np.ndarray, texts: Texts, temperature: float = 0.01) -> np.ndarray:
    """ascore_0 of n images (n,): the mean over their views (n, v, d) of the anomalous probability (Eq. 1).

    The paper's "multi-crop" cites a scheme of ten crops without numbers; here the views are those of
    `views.test_views`, mirror images left out.
    """
    return average_views(prompt_score(views, *texts, temperature))


def one_class_scores(views: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The one-class score of Table 3 (n,): half of 1 - cosine to the normal text alone, in [0, 1]."""
    text = F.normalize(F.normalize(to_tensor(normal), dim=-1).mean(0), dim=-1)  # (d,)
    cosines = F.normalize(to_tensor(views), dim=-1) @ text  # (n, v)
    return ((1 - cosines) / 2).mean(1).numpy()


def zero_shot_outputs(
    dense: Dense, texts: Texts, grid: tuple[int, int], *, temperature: float = 0.01
) -> dict[str, Output]:
    """WinCLIP and the ablations of Table 8 that need no other feature, by variant."""
    windows, image = dense.windows(), dense.tensor("image")
    options = {"grid": grid, "normal": texts[0], "anomalous": texts[1], "temperature": temperature}
    without = lambda size: {k: v for k, v in windows.items() if k != size}  # noqa: E731
    small, middle = min(windows), max(windows)
    found = {
        "": zero_shot_map(image, windows, **options),
        "wo_image_scale": zero_shot_map(None, windows, **options),
        "wo_mid_scale": zero_shot_map(image, without(middle), **options),
        "wo_small_scale": zero_shot_map(image, without(small), **options),
        "wo_harmonic": zero_shot_map(image, windows, aggregate="arithmetic", **options),
        "wo_harmonic_within": zero_shot_map(
            image, windows, aggregate="arithmetic", across="harmonic", **options
        ),
        "wo_harmonic_across": zero_shot_map(image, windows, across="arithmetic", **options),
    }
    return {variant: Output(maps=maps) for variant, maps in found.items()}


def patch_token_map(encoder: ClipEncoder, tokens: Tensor, texts: Texts, temperature: float = 0.01) -> Tensor:
    """The map (t, rows, columns) of patch tokens matched with the texts, "patch-token" in Table 8.

    tokens: (t, patches, width) as they leave the last block; the final layer norm and the projection take
    them to the joint space.
    """
    return token_map(encoder.project_tokens(tokens), encoder.grid, texts, temperature)


def token_map(tokens: Tensor, grid: tuple[int, int], texts: Texts, temperature: float = 0.01) -> Tensor:
    """The map (t, rows, columns) of one embedding (t, patches, d) a patch."""
    return prompt_score(tokens, *(torch.as_tensor(t) for t in texts), temperature).unflatten(1, grid)


def tiles_of(
    parts: Sequence[Dense], images: Sequence[int], read: Callable[[Dense], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """What `read` gives for the tiles of some images, which are counted through all parts."""
    found, first = [], 0
    for part in parts:
        own = torch.from_numpy(np.isin(part.owner + first, images))
        found.append({name: values[own] for name, values in read(part).items()})
        first += len(part.meta)
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def memory_of(parts: Sequence[Dense], images: Sequence[int], patches: Callable[[Dense], Tensor]) -> Memory:
    """WinCLIP+'s memories from some of the reference images."""
    chosen = tiles_of(parts, images, lambda part: {"P": patches(part), **part.starting("windows")})
    return build_memory(chosen.pop("P"), {int(size): values for size, values in chosen.items()})


def few_shot_outputs(
    dense: Dense,
    patches: Tensor,
    memory: Memory,
    zero_shot: Tensor,
    grid: tuple[int, int],
    *,
    variants: Sequence[str] = ("P+Wm+Ws",),
    aggregate: str = "harmonic",
    fuse: str = "harmonic",
) -> dict[str, Output]:
    """WinCLIP+ for each set of reference maps in `variants`, names of `MAPS`: max M^W as scores, and maps."""
    found = reference_maps(patches, dense.windows(), memory, grid, aggregate)
    sizes = sorted(memory.windows)
    found |= {"Ws": found[f"W{sizes[0]}"], "Wm": found[f"W{sizes[-1]}"]}
    nothing = torch.zeros(len(patches))
    outputs = {}
    for variant in variants:
        maps = [found[name] for name in MAPS[variant]]
        outputs[variant] = Output(*winclip_plus(nothing, zero_shot, maps, score="max_map", fuse=fuse))
    return outputs


SIGMA, SIGMA_AT = 4.0, 518
"""Of the Gaussian filter over a map of 518 pixels (App. A.1)."""


def smoothing(image_size: tuple[int, int]) -> float:
    """The sigma in pixels that is to a map of this size what 4 is to one of 518 pixels."""
    return SIGMA * image_size[0] / SIGMA_AT


def extractor_of(encoder: ClipEncoder, config: PromptConfig, attention: str | None = None) -> Extractor:
    """The features that prompts of such a config are compared with."""
    kinds = attention or config.attention
    return glocal_extractor(encoder, config.layers, kinds, config.first, config.final_norm)


def detector(
    texts: Tensor, grid: tuple[int, int], temperature: float = 0.07, *, maps: bool = True
) -> Detector:
    """Image scores and maps of features from `extractor_of`. texts: (2, d) unit rows, normal first.

    maps: False for data without masks.
    """
    direction = (texts[1] - texts[0]).double() / temperature  # (d,)
    # The softmax of two is the sigmoid of the difference. The features have unit length, or are means of unit
    # rows, whose cosine is the mean of theirs.
    probability = lambda features: torch.sigmoid(features.double() @ direction)  # noqa: E731

    def detect(dense: Dense) -> dict[str, Output]:
        local = [probability(v).unflatten(1, grid) for v in dense.starting("local").values()] if maps else []
        return {"": Output(probability(dense.tensor("global")), sum(local) / len(local) if local else None)}

    return detect
