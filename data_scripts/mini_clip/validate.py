"""Scores on fresh images while training: the validation categories, and naming the training categories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import open_clip
import torch
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.metrics import roc_auc_score
from torch import Tensor

from data_scripts.mini_clip.batches import article, normalise, patchify, tokenize
from data_scripts.mini_clip.towers import encode_patches, encode_tokens, grid_of

FIRST_SEED = 10**9  # pairs for training have their index as seed, far below
NORMAL_WORDS = ("an", "a normal", "a good", "a flawless")
ANOMALY_WORDS = ("a damaged", "a broken", "a defective", "an anomalous")
WINDOW = 3  # patches a side


@dataclass(frozen=True)
class ValidationSet:
    """Pairs of the validation categories, and normal images of the training categories to be named."""

    images: np.ndarray  # (c, n, 2, s, s, 3) uint8, normal first
    masks: np.ndarray  # (c, n, s, s) bool
    categories: tuple[str, ...]  # (c,)
    named: np.ndarray  # (k * m, s, s, 3) uint8, m images of each of k categories in turn
    names: tuple[str, ...]  # (k,)


def render_validation(
    render_pair: Callable,
    validation: tuple[str, ...],
    train: tuple[str, ...],
    *,
    size: int,
    pairs: int = 24,
    named: int = 4,
) -> ValidationSet:
    """`pairs` pairs a validation category and `named` normal images a training category; always the same."""
    rendered = [[render_pair(c, FIRST_SEED + i, size) for i in range(pairs)] for c in validation]
    seeds = range(FIRST_SEED, FIRST_SEED + named)
    return ValidationSet(
        images=np.stack([np.stack([np.stack([p.normal, p.anomalous]) for p in row]) for row in rendered]),
        masks=np.stack([np.stack([p.mask for p in row]) for row in rendered]),
        categories=tuple(validation),
        named=np.stack([render_pair(c, seed, size).normal for c in train for seed in seeds]),
        names=tuple(train),
    )


def embed(
    model: open_clip.CLIP, images: np.ndarray, places: np.ndarray | None = None, batch: int = 128
) -> Tensor:
    """Unit embeddings of images (n, s, s, 3): (n, d), or (n, w, d) of windows with `places` (w, k)."""
    grid, patch = grid_of(model)
    whole = np.arange(grid * grid)[None] if places is None else places
    rows = []
    for start in range(0, len(images), max(1, batch // len(whole))):
        x = normalise(patchify(images[start : start + max(1, batch // len(whole))], patch))  # (b, g*g, 3*p*p)
        views = x[:, torch.from_numpy(whole)].flatten(0, 1)  # (b*w, k, 3*p*p)
        index = torch.from_numpy(np.tile(whole, (len(x), 1)))
        rows.append(encode_patches(model, views, index)[0].view(len(x), len(whole), -1))
    out = torch.cat(rows)
    return out[:, 0] if places is None else out


def embed_text(model: open_clip.CLIP, texts: list[str]) -> Tensor:
    return encode_tokens(model, tokenize(texts, model.context_length))


def window_maps(scores: np.ndarray, places: np.ndarray, grid: int) -> np.ndarray:
    """Means (n, g, g) over the windows that cover each patch, of window scores (n, w) with places (w, k)."""
    covers = np.zeros((places.shape[0], grid * grid))
    np.put_along_axis(covers, places, 1.0, axis=1)
    return (scores @ covers / covers.sum(axis=0)).reshape(-1, grid, grid)


def validate(model: open_clip.CLIP, data: ValidationSet, *, bf16: bool, mapped: int = 6) -> dict[str, float]:
    """Measures of a model, AUROC as fractions.

    auroc, auroc_<category>: prompt-guided, "a photo of an object" against "a photo of a damaged object";
    pairs_min, pairs_max, spread: mean over the categories for the worst and best of 16 word pairs, and their
    distance; naming: share of normal images of training categories named rightly among all of them; pixel:
    mean over the categories of the 3x3 window maps' pixel AUROC, on `mapped` pairs a category.
    """
    c, n = data.images.shape[:2]
    labels = np.tile([0, 1], n)
    grid, patch = grid_of(model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        images = embed(model, data.images.reshape(c * n * 2, *data.images.shape[3:])).view(c, n * 2, -1)
        normal = embed_text(model, [f"a photo of {word} object" for word in NORMAL_WORDS])
        anomalous = embed_text(model, [f"a photo of {word} object" for word in ANOMALY_WORDS])
        names = [name.replace("_", " ") for name in data.names]
        named_text = embed_text(model, [f"a photo of {article(name)} {name}" for name in names])
        named = embed(model, data.named)
        cells = np.arange(grid * grid).reshape(grid, grid)
        places = sliding_window_view(cells, (WINDOW, WINDOW)).reshape(-1, WINDOW * WINDOW)
        windows = embed(model, data.images[:, :mapped].reshape(-1, *data.images.shape[3:]), places)
    aurocs = np.array(
        [[[roc_auc_score(labels, (x @ (b - a)).numpy()) for x in images] for b in anomalous] for a in normal]
    )  # (4, 4, c)
    pairs = aurocs.mean(axis=2)
    guess = (named @ named_text.T).argmax(dim=1).numpy()
    truth = np.repeat(np.arange(len(names)), len(data.named) // len(names))
    maps = window_maps((windows @ (anomalous[0] - normal[0])).numpy(), places, grid)
    maps = maps.repeat(patch, axis=1).repeat(patch, axis=2).reshape(c, -1)  # (c, pixels)
    masks = data.masks[:, :mapped]
    truths = np.stack([np.zeros_like(masks), masks], axis=2).reshape(c, -1)  # (c, pixels)
    return {
        "auroc": float(pairs[0, 0]),
        "pairs_min": float(pairs.min()),
        "pairs_max": float(pairs.max()),
        "spread": float(np.ptp(pairs)),
        "naming": float((guess == truth).mean()),
        "pixel": float(np.mean([roc_auc_score(t, m) for t, m in zip(truths, maps, strict=True)])),
        **{f"auroc_{name}": float(value) for name, value in zip(data.categories, aurocs[0, 0], strict=True)},
    }
