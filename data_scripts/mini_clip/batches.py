"""Batches of instance pairs, as full images and as windows, with captions; a function of (seed, step)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from data_scripts.mini_clip.pairs import Pairs

GENERIC_NOUNS = ("object", "item", "thing", "product", "part", "piece", "sample")
WINDOW_SIZES = (2, 3, 3, 4, 4, 5)  # patches a side, one drawn a step
LEAST_DEFECT_PIXELS = 12  # a window with fewer is not chosen as a damaged one
LARGEST_SHIFT = 4  # pixels of the random translation


@dataclass(frozen=True)
class Views:
    """Images with some of their patches: b views of n patches."""

    patches: Tensor  # (b, n, 3*p*p) normalised
    index: Tensor  # (b, n) places in the grid
    defect_pixels: Tensor  # (b, n) number of defect pixels in each patch


@dataclass(frozen=True)
class Batch:
    full: Views
    windows: Views
    damaged: Tensor  # (b,) bool, full views first
    tokens: Tensor  # (u + 2m, length): u distinct captions, m generic normal and m generic damaged prompts
    caption: Tensor  # (b,) row of each view's caption in `tokens`
    nouns: int  # m


@lru_cache(maxsize=1)
def tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@lru_cache(maxsize=200_000)
def token_ids(text: str, context: int = 77) -> tuple[int, ...]:
    """At most `context` token numbers with start and end mark; a long text loses its end, not the mark."""
    ids = [tokenizer().sot_token_id, *tokenizer().encode(text)][: context - 1]
    return (*ids, tokenizer().eot_token_id)


def new_nouns(caption: Callable, facts: list[dict], samples: int = 5000) -> tuple[str, ...]:
    """Words of CLIP's vocabulary that are in no caption, used as unknown names of objects.

    The captions of the first `samples` facts, in both states, give the words that have a meaning.
    """
    rng = np.random.default_rng(0)
    texts = [caption(fact, damaged, rng) for fact in facts[:samples] for damaged in (False, True)]
    used = {word for text in texts for word in re.findall("[a-z]+", text.lower())}
    words = (token.removesuffix("</w>") for token in tokenizer().encoder if token.endswith("</w>"))
    return tuple(word for word in words if re.fullmatch("[a-z]{3,12}", word) and word not in used)


def tokenize(texts: list[str], context: int = 77) -> Tensor:
    """Token rows (n, longest), padded with 0, cut to the longest text."""
    rows = [token_ids(text, context) for text in texts]
    tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(tokens)


def patchify(images: np.ndarray, patch: int) -> np.ndarray:
    """(b, g*p, g*p, 3) to (b, g*g, 3*p*p): patches row-major, channel first inside, as a convolution's."""
    b, side, _, _ = images.shape
    grid = side // patch
    split = images.reshape(b, grid, patch, grid, patch, 3)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(b, grid * grid, 3 * patch * patch)


def normalise(patches: np.ndarray, contrast: float = 1.0, brightness: float = 0.0) -> Tensor:
    """uint8 patches (..., 3*p*p) to CLIP's normalised float32; the contrast changes about mid-grey."""
    x = torch.from_numpy(np.ascontiguousarray(patches)).float().div_(255)
    if contrast != 1.0 or brightness:
        x.sub_(0.5).mul_(contrast).add_(0.5 + brightness).clamp_(0, 1)
    area = x.shape[-1] // 3
    mean = torch.tensor(OPENAI_DATASET_MEAN).repeat_interleave(area)
    std = torch.tensor(OPENAI_DATASET_STD).repeat_interleave(area)
    return x.sub_(mean).div_(std)


def augment(images: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same horizontal flip and small translation (borders mirrored) for both partners and the mask."""
    side = mask.shape[0]
    m = LARGEST_SHIFT
    top, left = rng.integers(0, 2 * m + 1, size=2)
    images = np.pad(images, ((0, 0), (m, m), (m, m), (0, 0)), mode="reflect")[
        :, top : top + side, left : left + side
    ]
    mask = np.pad(mask, m, mode="reflect")[top : top + side, left : left + side]
    if rng.random() < 0.5:
        images, mask = images[:, :, ::-1], mask[:, ::-1]
    return images, mask


def keep_patches(defect_pixels: np.ndarray, kept: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted places (kept,) of the patches of a pair that stay: those with a defect first, others at random.

    Both partners keep the same places, so the choice does not reveal the state.
    """
    order = rng.random(defect_pixels.size) - (defect_pixels > 0)
    return np.sort(np.argpartition(order, kept - 1)[:kept])


def choose_windows(
    defect_pixels: np.ndarray, size: int, clean_share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Two windows of one pair: the damaged one, and its clean partner.

    defect_pixels: (g, g). Returns places (size*size,) of the damaged window in the anomalous image, places of
    the clean window, and whether the clean window lies in the anomalous image too (with probability
    `clean_share`, if there is a clean place) and not at the same place of the normal image.
    """
    grid = defect_pixels.shape[0]
    sums = sliding_window_view(defect_pixels, (size, size)).sum(axis=(2, 3))  # (g-size+1, g-size+1)
    places = sliding_window_view(np.arange(grid * grid).reshape(grid, grid), (size, size))

    def pick(candidates: np.ndarray) -> np.ndarray:
        row, column = candidates[rng.integers(len(candidates))]
        return places[row, column].ravel()

    damaged = pick(np.argwhere(sums >= min(LEAST_DEFECT_PIXELS, sums.max())))
    clean_places = np.argwhere(sums == 0)
    elsewhere = bool(rng.random() < clean_share and len(clean_places))
    return damaged, pick(clean_places) if elsewhere else damaged, elsewhere


def make_batch(
    pairs: Pairs,
    caption: Callable,
    *,
    seed: int,
    step: int,
    patch: int,
    full_pairs: int,
    window_pairs: int,
    kept: int | None,
    clean_share: float = 0.25,
    nouns: int = 2,
    context: int = 77,
) -> Batch:
    """The batch of a step. kept: patches of a full image that stay (None: all)."""
    rng = np.random.default_rng([seed, step])
    chosen = rng.choice(len(pairs), size=full_pairs + window_pairs, replace=False)
    size = int(rng.choice(WINDOW_SIZES))
    groups: list[list[tuple[Tensor, np.ndarray, np.ndarray]]] = [
        [],
        [],
    ]  # full, windows: patches, places, pixels
    captions, states = [], []
    for i, which in enumerate(chosen):
        images, mask, facts = pairs[which]
        images, mask = augment(images, mask, rng)
        grid = mask.shape[0] // patch
        patches = patchify(images, patch)  # (2, g*g, 3*p*p)
        pixels = mask.reshape(grid, patch, grid, patch).sum(axis=(1, 3))  # (g, g)
        window = i >= full_pairs
        if window:
            damaged, clean, elsewhere = choose_windows(pixels, size, clean_share, rng)
            sources, places = (int(elsewhere), 1), (clean, damaged)
        else:
            keep = np.arange(grid * grid) if kept is None else keep_patches(pixels.ravel(), kept, rng)
            sources, places = (0, 1), (keep, keep)
        contrast, brightness = rng.uniform(0.85, 1.15), rng.uniform(-0.08, 0.08)
        for source, place in zip(sources, places, strict=True):
            seen = pixels.ravel()[place] * source  # (n,)
            groups[window].append((normalise(patches[source, place], contrast, brightness), place, seen))
            states.append(bool(seen.sum() > 0))
            captions.append(caption(facts, states[-1], rng, window=window))
    distinct = list(dict.fromkeys(captions))
    row = {text: j for j, text in enumerate(distinct)}
    generic = rng.choice(GENERIC_NOUNS, size=nouns, replace=False)
    prompts = [f"a photo of {article(n)} {n}" for n in generic] + [
        f"a photo of a damaged {n}" for n in generic
    ]
    full, windows = (
        Views(
            torch.stack([v[0] for v in g]), *(torch.from_numpy(np.stack([v[k] for v in g])) for k in (1, 2))
        )
        for g in groups
    )
    return Batch(
        full=full,
        windows=windows,
        damaged=torch.tensor(states),
        tokens=tokenize(distinct + prompts, context),
        caption=torch.tensor([row[text] for text in captions]),
        nouns=nouns,
    )


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
