"""Numbers that explain AnomalyCLIP: prompts token by token, attention, losses, false alarms."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.ndimage import binary_propagation
from scipy.ndimage import label as components
from torch import Tensor

from zsad_core.auxiliary import auxiliary_of
from zsad_core.datasets import stretched_mask
from zsad_core.dpam import KINDS
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import PromptDesign, initial_parameters
from zsad_core.losses import PARTS
from zsad_core.methods import extractor_of
from zsad_core.pixel_metrics import image_maps
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts, glocal_loss
from zsad_core.vit_windows import heads, run_block
from zsad_papers.anomalyclip.experiments import method_of
from zsad_papers.common.data import has_masks
from zsad_papers.common.experiment import Category
from zsad_papers.common.results import rows, tidy

KIND_LABELS = {"qk": "q-k (CLIP's own)", "qq": "q-q", "kk": "k-k", "vv": "v-v"}


def token_table(encoder: ClipEncoder, design: PromptDesign) -> pd.DataFrame:
    """The two templates token by token: position, and for each side the token and whether it is learned."""
    columns, sides = {}, zip("VW", ("normal", "anomalous"), encoder.tokenize(design.sentences("object")))
    for letter, side, tokens in sides:
        pieces = [encoder.tokenizer.decoder[t].removesuffix("</w>") for t in tokens]
        learned = [0 < i <= design.context_length for i in range(len(pieces))]
        columns[side] = [f"[{letter}_{i}]" if own else t for i, (t, own) in enumerate(zip(pieces, learned))]
        columns[f"{side}: from"] = ["learned" if own else "fixed" for own in learned]
    table = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in columns.items()})
    return table.fillna("").rename_axis("position").reset_index()


def learned_numbers(encoder: ClipEncoder, design: PromptDesign) -> dict[str, int]:
    """How many numbers are learned: in the contexts, and in the tokens of deeper blocks."""
    drawn = initial_parameters(encoder, design, torch.Generator().manual_seed(0))
    words = sum(values.numel() for name, values in drawn.items() if name.startswith("context/"))
    return {"words": words, "deep tokens": sum(values.numel() for values in drawn.values()) - words}


def preset_differences(encoder: ClipEncoder) -> pd.DataFrame:
    """The named options in which the presets "released" and "paper" differ: option, and the value in each."""
    values = {}
    for preset in ("released", "paper"):
        key = prompt_config_of(encoder, preset).key()
        values[preset] = pd.Series({**key.pop("design"), **key}, dtype="object").map(_words)
    table = pd.DataFrame(values).rename_axis("option").reset_index()
    return table[table["released"] != table["paper"]].reset_index(drop=True)


def _words(value: object) -> str:
    if isinstance(value, bool) or value == "":
        return {True: "yes", False: "no"}.get(value, "(nothing)")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@torch.no_grad()
def attention_weights(encoder: ClipEncoder, pixels: Tensor) -> Iterator[dict[str, Tensor]]:
    """For each block in turn {kind: (n, heads, t, t)}: how much a token (row) takes from each (column)."""
    x = encoder.model.visual._embeds(pixels.to(encoder.device))  # (n, t, width)
    for block in encoder.model.visual.transformer.resblocks:
        parts = dict(zip("qkv", heads(block, block.ln_1(x)), strict=True))  # (n, heads, t, 64) each
        scale = parts["q"].shape[-1] ** -0.5
        yield {kind: (parts[kind[0]] @ parts[kind[1]].mT * scale).softmax(-1) for kind in KINDS}
        x = run_block(block, x)


def attention_matrices(encoder: ClipEncoder, pixels: Tensor, block: int) -> dict[str, np.ndarray]:
    """{kind: (p, p)}: what a patch (row) takes from each, over images (n, 3, H, W), heads; block from 1."""
    (found,) = islice(attention_weights(encoder, pixels), block - 1, block)
    return {kind: w[:, :, 1:, 1:].mean((0, 1)).float().cpu().numpy() for kind, w in found.items()}


@torch.no_grad()
def self_attention_records(encoder: ClipEncoder, chosen: Sequence[Category], images: int = 4) -> pd.DataFrame:
    """The mean weight in [0, 1] that a patch gives itself, by category, block and kind: over heads, patches
    and the first `images` test images, one at a time to save memory."""
    lines = []
    for category in chosen:
        for i in range(min(images, len(category.test))):
            pixels = encoder.preprocess(category.test.image(i).resize(encoder.image_size[::-1]))[None]
            for block, weights in enumerate(attention_weights(encoder, pixels), start=1):
                patches = {kind: w[:, :, 1:, 1:].diagonal(dim1=-2, dim2=-1) for kind, w in weights.items()}
                lines += [(category.name, block, kind, w.mean().item()) for kind, w in patches.items()]
    frame = pd.DataFrame(lines, columns=["category", "block", "kind", "weight"])
    return frame.groupby(["category", "block", "kind"], sort=False, as_index=False)["weight"].mean()


def self_attention_rows(records: pd.DataFrame, dataset: str, first: int) -> pd.DataFrame:
    """Rows of claim 28: the mean over the blocks from `first` on. records: of `self_attention_records`."""
    own = records[records["block"] >= first].groupby(["category", "kind"], sort=False, as_index=False)
    table = own.agg(self_attention=("weight", "mean"))
    table = table.assign(method="clip", variant="attention=" + table["kind"], shots=0, task="", seed=0)
    return tidy(table, dataset, "appC", paper="anomalyclip", keep="both", metrics=["self_attention"])


def loss_parts(category: Category, prompts: LearnedPrompts, image: int) -> dict[str, float]:
    """The parts of the glocal loss of one image, a training image or not, lambda left out."""
    encoder, config = category.encoder, prompts.config
    found = auxiliary_of(category.test, extractor_of(encoder, config), category.settings.cache_dir)
    batch, texts = found.batch(np.array([image]), config.layers), prompts.texts(encoder).to(encoder.device)
    alone = {part: replace(config, global_loss=False, local=(part,), local_weight=1.0) for part in PARTS}
    parts = {"image": replace(config, global_loss=True, local=()), **alone}
    return {name: glocal_loss(encoder, own, texts, batch).item() for name, own in parts.items()}


TOLERANCE = 24  # grey levels of 256 in which each channel may differ from the border's colour
BINS = 20_000  # of scores in [0, 1]; the threshold of the best F1 is one of their edges
# Least shares, medians over a category's images: of the border that has its colour; of the image that is
# background; of the image that the largest foreground piece takes, which is tiny in a texture.
UNIFORM, LEAST, PIECE = 0.9, 0.05, 0.02


def background(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The background (H, W) bool of an image (H, W, 3) uint8: what is joined (4-neighbours) to a frame of 2 %
    of the shorter edge, within `TOLERANCE` of its median colour; and the share of the frame that is."""
    frame = np.ones(image.shape[:2], bool)
    edge = max(1, round(0.02 * min(frame.shape)))
    frame[edge:-edge, edge:-edge] = False
    colour = np.median(image[frame], axis=0)
    close = (np.abs(image.astype(float) - colour) <= TOLERANCE).all(axis=2)
    return binary_propagation(frame & close, mask=close), float(close[frame].mean())


def background_shares(category: Category, prompts: LearnedPrompts) -> tuple[float, float] | None:
    """The background's share of AnomalyCLIP's false-positive pixels, at the threshold of the category's best
    pixel F1, and of all normal pixels. None if the category does not count or has no masks."""
    size, sides = category.encoder.image_size, []
    for i in range(len(category.test)):
        image = category.test.image(i).resize(size[::-1], Image.Resampling.BILINEAR)
        sides.append(background(np.asarray(image)))
    behind = np.stack([found for found, _ in sides])
    medians = ([share for _, share in sides], behind.mean((1, 2)), [_largest(~found) for found in behind])
    if (np.median(medians, axis=1) < (UNIFORM, LEAST, PIECE)).any() or not has_masks(category.test):
        return None
    method, place = method_of(category, prompts), 0
    by_score = np.zeros((3, BINS))  # anomalous pixels, normal ones of the background, other normal ones
    for part in category.computed(method.extractor, category.test):
        features = part.load()
        for found in image_maps(features, method.detect(features)[""].maps, size, method.sigma):
            anomalous = stretched_mask(category.test.mask(place), size)
            groups = (anomalous, behind[place] & ~anomalous, ~behind[place] & ~anomalous)
            by_score += [np.histogram(found[group], BINS, (0, 1))[0] for group in groups]
            place += 1
    return shares_above(by_score)


def shares_above(counts: np.ndarray) -> tuple[float, float]:
    """The background's share of the normal pixels above the threshold of the best F1, and of all of them.
    counts: (3, b) of anomalous, background and other normal pixels by score, ascending."""
    hits, behind, other = np.cumsum(counts[:, ::-1], axis=1)
    best = np.argmax(2 * hits / np.maximum(hits + behind + other + hits[-1], 1))
    false = behind[best] + other[best]
    normal = float(behind[-1] / (behind[-1] + other[-1]))
    return float(behind[best] / false) if false else float("nan"), normal


def background_rows(categories: Sequence[Category], prompts: LearnedPrompts, dataset: str) -> pd.DataFrame:
    """Rows of claim 49: a line for each category that counts, and their mean. categories: squashed ones."""
    names = ["background_false_positives", "background_normal"]
    shares = {own.name: background_shares(own, prompts) or (np.nan, np.nan) for own in categories}
    table = pd.DataFrame.from_dict(shares, orient="index", columns=names).dropna()
    names = {"paper": "anomalyclip", "artifact": "appD", "dataset": dataset, "method": "anomalyclip"}
    return rows(table.rename_axis("category").reset_index(), task="pixel", **names)


def _largest(foreground: np.ndarray) -> float:
    """The share of the image that the largest piece of the foreground takes."""
    numbers, _ = components(foreground)
    return float(np.bincount(numbers.ravel(), minlength=2)[1:].max() / foreground.size)
