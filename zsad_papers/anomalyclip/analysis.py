"""What AnomalyCLIP's pages explain: the prompts token by token, attention matrices, the loss of one image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import label as components
from torch import Tensor

from zsad_core.datasets import stretched_mask
from zsad_core.dpam import KINDS, attention_weights, check_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import feature_parts
from zsad_core.learnable_prompts import PromptDesign, initial_parameters
from zsad_core.losses import image_loss, local_loss
from zsad_core.maps import image_maps
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts
from zsad_papers.anomalyclip.figures import Mapper, features_of, image_map, mapper
from zsad_papers.common import data
from zsad_papers.common.experiment import Category
from zsad_papers.common.galleries import Example, _short
from zsad_papers.common.plots import MARKERS, PALETTE, STYLE, new_figure, or_words
from zsad_papers.common.results import COLUMNS, rows


@torch.no_grad()
def self_attention(
    encoder: ClipEncoder, pixels: Tensor, kinds: Sequence[str], first: int
) -> dict[str, float]:
    """The weight in [0, 1] that a patch gives itself, by kind: the mean over images (n, 3, H, W), heads,
    patches and the blocks from `first` on. It tells how prominent the diagonal is (App. C)."""
    if not encoder.has_class_token:
        raise ValueError(f"self-attention reads the class token, but {encoder.model_id} has none")
    visual, tokens = encoder.model.visual, 1 + math.prod(encoder.grid)
    blocks = visual.transformer.resblocks
    check_blocks(blocks, (len(blocks),), first)
    total = dict.fromkeys(kinds, 0.0)
    images = max(1, 2**19 // (tokens**2 * blocks[0].attn.num_heads))  # bounds the memory of the weights
    for batch in pixels.split(images):
        batch = batch.to(encoder.device, torch.float32)
        for number, weights in enumerate(attention_weights(visual, batch, kinds), start=1):
            for kind in kinds if number >= first else ():
                own = weights[kind].diagonal(dim1=-2, dim2=-1)[..., 1:]  # (b, heads, patches)
                total[kind] += own.mean((1, 2)).sum().item()
    return {kind: value / (len(pixels) * (len(blocks) - first + 1)) for kind, value in total.items()}


KIND_LABELS = {"qk": "q-k (CLIP's own)", "qq": "q-q", "kk": "k-k", "vv": "v-v"}


def token_table(encoder: ClipEncoder, design: PromptDesign, name: str = "object") -> pd.DataFrame:
    """The two templates token by token: position, and of each side the token and whether it is learned."""
    sequences = encoder.tokenize(design.sentences(name))
    columns = {}
    for letter, side, tokens in zip("VW", ("normal", "anomalous"), sequences, strict=True):
        pieces = [encoder.tokenizer.decoder[t].removesuffix("</w>") for t in tokens]
        learned = [0 < i <= design.context_length for i in range(len(pieces))]
        columns[side] = [f"[{letter}_{i}]" if own else t for i, (t, own) in enumerate(zip(pieces, learned))]
        columns[f"{side}: from"] = ["learned" if own else "fixed" for own in learned]
    table = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in columns.items()})
    return table.fillna("").rename_axis("position").reset_index()


def learned_numbers(encoder: ClipEncoder, design: PromptDesign) -> dict[str, int]:
    """How many numbers are learned: in the contexts, and in the tokens of deeper blocks."""
    drawn = initial_parameters(encoder, design, torch.Generator().manual_seed(0))
    count = lambda prefix: sum(v.numel() for name, v in drawn.items() if name.startswith(prefix))  # noqa: E731
    return {"words": count("context/"), "deep tokens": count("deep/")}


def preset_differences(encoder: ClipEncoder, one: str = "released", other: str = "paper") -> pd.DataFrame:
    """The named options in which two presets differ: option, and the value in each."""
    flat = []
    for preset in (one, other):
        key = prompt_config_of(encoder, preset).key()
        flat.append({**key.pop("design"), **key})
    lines = [(name, *(_words(side[name]) for side in flat)) for name in flat[0]]
    return pd.DataFrame([line for line in lines if line[1] != line[2]], columns=["option", one, other])


def _words(value: object) -> str:
    if isinstance(value, bool) or value == "":
        return {True: "yes", False: "no"}.get(value, "(nothing)")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@torch.no_grad()
def attention_matrices(
    encoder: ClipEncoder, pixels: Tensor, block: int, kinds: Sequence[str] = KINDS
) -> dict[str, np.ndarray]:
    """{kind: (patches, patches)}: how much a patch (row) takes from each, the mean over images and heads.

    pixels: (n, 3, H, W). block: 1-based. What a patch gives the class token is left out.
    """
    weights = attention_weights(encoder.model.visual, pixels.to(encoder.device), kinds)
    for number, found in enumerate(weights, start=1):
        if number == block:
            return {kind: w[:, :, 1:, 1:].mean((0, 1)).float().cpu().numpy() for kind, w in found.items()}
    raise ValueError(f"block={block}: expected 1 to {encoder.depth}")


def self_attention_records(
    encoder: ClipEncoder, chosen: Sequence[Category], images: int = 4, kinds: Sequence[str] = KINDS
) -> pd.DataFrame:
    """Of the first test images of each category, by category, block and kind: the mean weight in [0, 1] that
    a patch gives itself, over images, heads and patches. One image at a time, since a matrix is large."""
    lines = []
    for c in chosen:
        for i in range(min(images, len(c.test))):
            pixels = encoder.preprocess(c.test.image(i).resize(encoder.image_size[::-1]))[None]
            with torch.no_grad():
                found = attention_weights(encoder.model.visual, pixels.to(encoder.device), kinds)
                for block, weights in enumerate(found, start=1):
                    own = {k: w.diagonal(dim1=-2, dim2=-1)[..., 1:].mean().item() for k, w in weights.items()}
                    lines += [(c.name, block, kind, value) for kind, value in own.items()]
    frame = pd.DataFrame(lines, columns=["category", "block", "kind", "weight"])
    return frame.groupby(["category", "block", "kind"], sort=False, as_index=False)["weight"].mean()


def self_attention_rows(records: pd.DataFrame, dataset: str, first: int) -> pd.DataFrame:
    """Rows of claim 28: the mean over the blocks from `first` on. records: of `self_attention_records`."""
    refined = records[records["block"] >= first]
    frames = [pd.DataFrame(columns=COLUMNS)]
    for kind, own in refined.groupby("kind", sort=False):
        values = own.groupby("category", sort=False)["weight"].mean().rename("self_attention").reset_index()
        names = {"paper": "anomalyclip", "artifact": "appC", "method": "clip", "task": ""}
        frames.append(rows(values, dataset=dataset, variant=f"attention={kind}", **names))
    return pd.concat(frames[1:] or frames, ignore_index=True)


@or_words
def self_attention_lines(records: pd.DataFrame, first: int, uniform: float) -> Figure:
    """The weight that a patch gives itself by block, on a logarithmic axis, a line a kind. uniform: what it
    would be if every token took the same from all."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(height=3.8)
        axis = axes[0, 0]
        means = records.groupby(["kind", "block"], sort=False)["weight"].mean()
        for number, kind in enumerate(dict.fromkeys(records["kind"])):
            style = {
                "marker": MARKERS[number],
                "ls": ("-", "--", ":", "-.")[number],
                "color": PALETTE[number],
            }
            axis.plot(means[kind].index, means[kind], label=KIND_LABELS[kind], **style)
        axis.axhline(uniform, color="grey", lw=1)
        above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "fontsize": 8}
        axis.annotate("evenly spread", (records["block"].max(), uniform), **above)
        axis.axvline(first - 0.5, color="grey", ls=":", lw=1)
        axis.annotate("DPAM from here", (first - 0.45, 0.97), xycoords=("data", "axes fraction"), fontsize=8)
        axis.set(xlabel="block of the image tower", ylabel="weight of a patch on itself", yscale="log")
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure


def attention_figure(
    found: Example, matrices: Mapping[str, np.ndarray], maps: Mapping[str, Mapping[str, np.ndarray]]
) -> Figure:
    """Figure 3: a column a kind of attention; above its matrix, below the maps of some prompts with it.

    matrices: {kind: (p, p)}, each with its own colour scale. maps: {row: {kind: (H, W)}}, one
    scale a row. Large matrices are drawn in at most 144 cells a side, each the largest weight in it.
    """
    kinds, n_rows = list(matrices), 1 + len(maps)
    with mpl.rc_context({**STYLE, "axes.grid": False, "font.size": 8}):
        figure, axes = new_figure(n_rows, 1 + len(kinds), 9.0, 2.2 * n_rows - 0.2)
        axes[0, 0].set_axis_off()
        for axis, kind in zip(axes[0, 1:], kinds, strict=True):
            drawn = axis.imshow(
                _coarse(matrices[kind], 144), cmap="viridis", norm=mpl.colors.PowerNorm(0.5, 0)
            )
            axis.set_title(KIND_LABELS[kind], fontsize=9)
            axis.set(xticks=[], yticks=[], xlabel="patch looked at")
            bar = figure.colorbar(drawn, ax=axis, location="bottom", fraction=0.07, label="weight")
            top = float(drawn.norm.vmax)
            bar.set_ticks([0, top / 4, top], labels=[_short(v) for v in (0, top / 4, top)])
        axes[0, 1].set_ylabel("patch that looks")
        for row, (name, own) in zip(axes[1:], maps.items(), strict=True):
            row[0].imshow(found.image)
            row[0].set_title(found.label.replace("\n", ", "), fontsize=8)
            scale = {"vmin": min(m.min() for m in own.values()), "vmax": max(m.max() for m in own.values())}
            for axis, kind in zip(row[1:], kinds, strict=True):
                drawn = axis.imshow(own[kind], cmap="inferno", **scale)
            for axis in row:
                axis.contour(found.mask, [0.5], colors="black", linewidths=1.6)
                axis.contour(found.mask, [0.5], colors="white", linewidths=0.7)
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
            row[0].set_ylabel(name, fontsize=9)
            figure.colorbar(drawn, ax=row.tolist(), fraction=0.05, pad=0.01, label="score")
        return figure


def _coarse(matrix: np.ndarray, cells: int) -> np.ndarray:
    """At most `cells` cells a side, the largest value in each."""
    step = -(-len(matrix) // cells)
    short = -len(matrix) % step
    padded = np.pad(matrix, ((0, short), (0, short)), constant_values=-np.inf)
    return padded.reshape(len(padded) // step, step, len(padded) // step, step).max((1, 3))


def loss_parts(c: Category, prompts: LearnedPrompts, image: int) -> dict[str, float]:
    """The parts of the glocal loss of one image, lambda left out; for a look at training images, too."""
    encoder, config = c.encoder, prompts.config
    dense = features_of(c, mapper(c, prompts, look_at_training=True).extractor, image)
    texts = prompts.texts(encoder)[0]  # (2, d)
    cosines = dense.tensor("global") @ texts.T  # (1, 2)
    parts = {"image": image_loss(cosines, torch.tensor([int(c.test.labels[image])]), config.temperature)}
    mask = torch.from_numpy(stretched_mask(c.test.mask(image), encoder.image_size))[None]
    for patches in dense.starting("local").values():
        cosine = patches @ ((texts[1] - texts[0]) / config.temperature)  # (1, p)
        maps = torch.sigmoid(cosine).unflatten(1, encoder.grid)
        for part in ("focal", "dice_anomalous", "dice_normal"):
            parts[part] = parts.get(part, 0) + local_loss(maps, mask, (part,))
    return {name: float(value) for name, value in parts.items()}


def before_and_after(
    c: Category, image: int, drawn: LearnedPrompts, learned: LearnedPrompts
) -> tuple[Example, pd.DataFrame]:
    """Maps and losses of one image, a training image or not, by prompts as drawn and as learned."""
    sides = {"before training": drawn, "after training": learned}
    makes: dict[str, Mapper] = {name: mapper(c, own, look_at_training=True) for name, own in sides.items()}
    maps = {name: image_map(c, own, image) for name, own in makes.items()}
    picture, mask = np.asarray(c.test.image(image)), c.test.mask(image)
    table = pd.DataFrame({name: loss_parts(c, own, image) for name, own in sides.items()})
    return Example(c.name.replace("_", " "), picture, mask, picture, maps), table.rename_axis("part")


TOLERANCE = 24
"""Grey levels of 256 in which each channel may differ from the border's colour."""

UNIFORM, LEAST, PIECE = 0.9, 0.05, 0.02
"""Of the border the share that must have its colour, of the image the least share of the background, and that
of the largest piece of the rest, which in a texture is a speck; medians over a category's images."""

BINS = 20_000
"""Of scores in [0, 1], among which the threshold of the best F1 is looked for."""


def background(image: np.ndarray, tolerance: int = TOLERANCE) -> tuple[np.ndarray, float]:
    """The estimated background (H, W) bool of an image (H, W, 3) uint8, and the share in [0, 1] of the border
    that has its colour.

    The border is a frame of 2 % of the shorter edge, its colour the median of each channel. Background is
    what differs from it by at most `tolerance` in each channel and is joined to the frame (4-neighbours).
    """
    frame = np.ones(image.shape[:2], bool)
    edge = max(1, round(0.02 * min(frame.shape)))
    frame[edge:-edge, edge:-edge] = False
    colour = np.median(image[frame], axis=0)
    close = (np.abs(image.astype(float) - colour) <= tolerance).all(axis=2)
    numbers, _ = components(close)
    joined = np.isin(numbers, np.setdiff1d(numbers[frame & close], [0]))
    return joined, float(close[frame].mean())


@dataclass(frozen=True)
class Shares:
    """Of one category: whether it counts, and the background's share of false positives and of normal pixels
    (NaN where it does not count, or nothing is falsely marked)."""

    uniform: float
    share: float
    piece: float
    false_positives: float = float("nan")
    normal: float = float("nan")

    @property
    def counts(self) -> bool:
        return self.uniform >= UNIFORM and self.share >= LEAST and self.piece >= PIECE


def background_shares(c: Category, prompts: LearnedPrompts) -> Shares:
    """Where AnomalyCLIP marks normal pixels, at the threshold of the category's best pixel F1.

    All at the size of the model's input, as it is measured.
    """
    size, sides = c.encoder.image_size, []
    for i in range(len(c.test)):
        image = c.test.image(i).resize(size[::-1], Image.Resampling.BILINEAR)
        sides.append(background(np.asarray(image)))
    behind = np.stack([found for found, _ in sides])
    uniform = float(np.median([share for _, share in sides]))
    pieces = [_largest(~found) for found in behind]
    rough = Shares(uniform, float(np.median(behind.mean((1, 2)))), float(np.median(pieces)))
    if not rough.counts or not data.has_masks(c.test):
        return rough
    makes, place = mapper(c, prompts), 0
    counts = np.zeros((3, BINS))  # anomalous pixels, normal ones of the background, other normal ones
    for part in feature_parts(makes.extractor, c.test, c.settings.cache_dir, whole=c.whole):
        dense = part.load()
        for i, found in enumerate(image_maps(dense, makes.detect(dense)[""].maps, size, makes.sigma)):
            anomalous = stretched_mask(part.dataset.mask(i), size)
            groups = (anomalous, behind[place] & ~anomalous, ~behind[place] & ~anomalous)
            for number, group in enumerate(groups):
                counts[number] += np.histogram(found[group], BINS, (0, 1))[0]
            place += 1
    return Shares(rough.uniform, rough.share, rough.piece, *shares_above(counts))


def shares_above(counts: np.ndarray) -> tuple[float, float]:
    """The background's share of the normal pixels above the threshold of the best F1, and of all of them.

    counts: (3, b) of anomalous, background and other normal pixels by score, ascending.
    """
    hits, behind, other = np.cumsum(counts[:, ::-1], axis=1)
    best = np.argmax(2 * hits / np.maximum(hits + behind + other + hits[-1], 1))
    false = behind[best] + other[best]
    return float(behind[best] / false) if false else float("nan"), float(
        behind[-1] / (behind[-1] + other[-1])
    )


def background_rows(categories: Sequence[Category], prompts: LearnedPrompts, dataset: str) -> pd.DataFrame:
    """Rows of claim 49 for one dataset: a line for each category that counts, and their mean.

    categories: seen squashed (`anomalyclip_figures.squashed`). None counts: no rows.
    """
    found = {c.name: background_shares(c, prompts) for c in categories}
    values = [
        {"category": name, "background_false_positives": s.false_positives, "background_normal": s.normal}
        for name, s in found.items()
        if s.counts and not np.isnan(s.false_positives)
    ]
    if not values:
        return pd.DataFrame(columns=COLUMNS)
    names = {"paper": "anomalyclip", "artifact": "appD", "dataset": dataset, "method": "anomalyclip"}
    return rows(pd.DataFrame(values), task="pixel", **names)


def _largest(foreground: np.ndarray) -> float:
    """The share of the image that the largest piece of the foreground takes."""
    numbers, _ = components(foreground)
    return float(np.bincount(numbers.ravel(), minlength=2)[1:].max() / foreground.size)
