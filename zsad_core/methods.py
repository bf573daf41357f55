"""The methods, each as ONE function from features to image scores and maps.

clip          two texts                                   (RWDA Sec. 3.1, WinCLIP Sec. 4.1)
rwda          a network trained on random-word prompts    (RWDA Sec. 3.3)
winclip       texts against windows of patches            (WinCLIP Sec. 4.2)
winclip_plus  the same, with normal reference images      (WinCLIP Sec. 4.3)
anomalyclip   learned prompts against local features      (AnomalyCLIP Sec. 3.3, App. A)
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zsad_core import references
from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.image_features import Extractor, TileFeatures, glocal_extractor, text_embeddings
from zsad_core.prompt_config import PromptConfig
from zsad_core.prompts import PromptKind, object_name, zero_shot_prompts
from zsad_core.references import Memory, reference_maps
from zsad_core.scores import Array, average_views, prompt_score
from zsad_core.windows import Average, zero_shot_map

Texts = tuple[Array, Array]
"""Embeddings of the normal and of the anomalous sentences, (k, d) each, or their means (d,)."""


class Output(NamedTuple):
    """Scores (n,) of n images or tiles, maps (n, rows, columns), or both. Both rise with anomaly."""

    scores: Array | None = None
    maps: Tensor | None = None


Detector = Callable[[TileFeatures], Mapping[str, Output]]
"""Takes the features of tiles; returns outputs by name, one for each variant or draw of references."""


def detector(method: Callable[..., Output], *arguments: object, **options: object) -> Detector:
    """A method as a detector with one output, named ""."""
    return lambda features: {"": method(features, *arguments, **options)}


def clip(views: Array, texts: Texts, temperature: float = 0.01) -> Output:
    """CLIP with two texts: s_pr of RWDA (Sec. 3.1) and ascore_0 of WinCLIP (Sec. 4.1, Eq. 1): the mean over
    the views (n, v, d). WinCLIP cites ten crops without numbers; here are six (`images.inference_views`)."""
    return Output(average_views(prompt_score(views, *texts, temperature)))


def token_map(tokens: Tensor, grid: tuple[int, int], texts: Texts, temperature: float = 0.01) -> Tensor:
    """The map (n, rows, columns) of the patches' embeddings (n, patches, d)."""
    return prompt_score(tokens, *texts, temperature).unflatten(1, grid)


def rwda(views: Array, fnn: FNN) -> Output:
    """RWDA's s_FNN (Sec. 3.3): the mean over the raw views (n, v, d) of the network's probability."""
    return Output(average_views(fnn.score(views)))


def winclip(
    features: TileFeatures,
    texts: Texts,
    grid: tuple[int, int],
    temperature: float = 0.01,
    *,
    sizes: Sequence[int] | None = None,
    image_scale: bool = True,
    **averages: Average,
) -> Output:
    """WinCLIP: maps of windows (Sec. 4.2) and, where `features` has `views`, the scores of `clip`.
    sizes: of the windows to use; None: all. image_scale: use the whole image too. averages: see `window_map`.
    """
    image = features.tensor("image") if image_scale else None
    windows = {size: v for size, v in features.windows().items() if sizes is None or size in sizes}
    scores = clip(features.tensor("views"), texts, temperature).scores if "views" in features.arrays else None
    maps = zero_shot_map(image, windows, grid, *texts, temperature=temperature, **averages)
    return Output(scores, maps)


MAPS = {"P": ("P",), "P+Wm": ("P", "Wm"), "P+Wm+Ws": ("P", "Wm", "Ws")}
"""Reference maps of WinCLIP+ (Table 6): patch tokens, the largest windows (3 x 3), the smallest (2 x 2)."""


def winclip_plus(
    features: TileFeatures,
    patches: Tensor,
    memory: Memory,
    zero_shot: Output,
    grid: tuple[int, int],
    *,
    variants: Sequence[str] = ("P+Wm+Ws",),
    aggregate: Average = "harmonic",
    fuse: str = "harmonic",
) -> dict[str, Output]:
    """WinCLIP+ (Sec. 4.3, Eq. 4 to 6) for each set of reference maps in `variants`, names of `MAPS`.

    patches: (n, p, width) tokens of the last block. memory: of `fit_references`. zero_shot: what `winclip`
    gives for the same tiles, with scores or without. aggregate, fuse: of `references`.
    """
    found = reference_maps(patches, features.windows(), memory, grid, aggregate)
    sizes = sorted(memory.windows)
    found |= {"Ws": found[f"W{sizes[0]}"], "Wm": found[f"W{sizes[-1]}"]}
    chosen = {name: [found[k] for k in MAPS[name]] for name in variants}
    return {name: Output(*references.winclip_plus(*zero_shot, maps, fuse)) for name, maps in chosen.items()}


def fit_references(
    parts: Sequence[TileFeatures], images: Sequence[int], patches: Callable[[TileFeatures], Tensor]
) -> Memory:
    """WinCLIP+'s memories (Sec. 4.3) of some normal images, which are counted through all parts. patches:
    takes the tokens of the last block (t, p, width) from a part."""
    if not len(images):
        raise ValueError("no reference images: WinCLIP+ needs at least one; WinCLIP needs none")
    chosen = tiles_of(parts, images, lambda part: {"P": patches(part), **part.starting("windows")})
    rows = {name: values.flatten(0, 1) for name, values in chosen.items()}
    return Memory(rows.pop("P"), {int(size): values for size, values in rows.items()})


def tiles_of(
    parts: Sequence[TileFeatures], images: Sequence[int], read: Callable[[TileFeatures], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """What `read` gives for the tiles of some images, which are counted through all parts."""
    found, first = [], 0
    for part in parts:
        own = torch.from_numpy(np.isin(part.owner + first, images))
        found.append({name: values[own] for name, values in read(part).items()})
        first += len(part.meta)
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def anomalyclip(
    features: TileFeatures, texts: Tensor, grid: tuple[int, int], temperature: float = 0.07, maps: bool = True
) -> Output:
    """AnomalyCLIP (Sec. 3.3, App. A): the anomalous probability of the global feature and of local ones.
    texts: (2, d) unit rows, normal first. A map is the mean over layers, which ranks like the paper's sum."""
    direction = (texts[1] - texts[0]).double() / temperature  # (d,); a softmax of two is a sigmoid
    scores = torch.sigmoid(features.tensor("global").double() @ direction)  # (t,)
    layers = [torch.sigmoid(v.double() @ direction) for v in features.starting("local").values() if maps]
    return Output(scores, (sum(layers) / len(layers)).unflatten(1, grid) if layers else None)


def extractor_of(encoder: ClipEncoder, config: PromptConfig, attention: str | None = None) -> Extractor:
    """The features that prompts of a configuration are compared with."""
    kinds = attention or config.attention
    return glocal_extractor(encoder, config.layers, kinds, config.first, config.final_norm)


def smoothing(image_size: tuple[int, int]) -> float:
    """Sigma in pixels of AnomalyCLIP's Gaussian filter: 4 at 518 pixels (App. A.1), else in proportion."""
    return 4 * image_size[0] / 518


def category_texts(
    encoder: ClipEncoder,
    category: str,
    cache_dir: str | Path,
    kind: PromptKind = "prompt_ens",
    *,
    defects: Sequence[str] = (),
    normalize_sentences: bool = True,
) -> Texts:
    """WinCLIP's text embeddings of a category's two sides (Sec. 4.1).
    normalize_sentences: True gives all sentences, whose unit vectors scores average; False the mean of raw
    embeddings, as public code does. The paper says "average of text embeddings" only."""
    sides = zero_shot_prompts(object_name(category), kind, defects)
    vectors = text_embeddings(encoder, [*sides[0], *sides[1]], cache_dir)
    normal, anomalous = vectors[: len(sides[0])], vectors[len(sides[0]) :]
    return (normal, anomalous) if normalize_sentences else (normal.mean(0), anomalous.mean(0))
