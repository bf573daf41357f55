"""WinCLIP and WinCLIP+ on a dataset: prompts, image scores, and maps measured part by part.

Images have been embedded before (`zsad_core.embeddings` for views, `zsad_core.dense` for windows and patch
tokens). A detector is a function from the features of some tiles to named `Output`s; `measure` runs it over
a category and keeps numbers, never maps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zsad_core.datasets import stretched_mask
from zsad_core.dense import Dense, DensePart
from zsad_core.embeddings import text_embeddings
from zsad_core.encoders import ClipEncoder
from zsad_core.metrics import auroc, f1_max
from zsad_core.pixel_metrics import PixelHistogram
from zsad_core.prompts import PromptKind, object_name, zero_shot_prompts
from zsad_core.references import Memory, build_memory, reference_maps, winclip_plus
from zsad_core.scores import average_views, prompt_score, to_tensor
from zsad_core.windows import zero_shot_map

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


def measure(
    parts: Sequence[DensePart],
    detect: Detector,
    *,
    map_size: int | tuple[int, int] | None = None,
    sigma: float = 0.0,
    each: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Run a detector over a category's test images, one part at a time.

    Arrays by name: `<output>/scores` (n,), the mean over an image's tiles; `<output>/pixel` (6,): AUROC, PRO
    and F1-max of all pixels as fractions, and a bound on what the histogram may have changed in each;
    `<output>/each` (n, 3), for outputs in `each`: of each image by itself the pixel AUROC and F1-max (NaN
    where its mask is empty) and the map's maximum.

    map_size: shorter edge in pixels at which maps meet masks; None: the masks' own size (WinCLIP does not say
        what it used); (height, width): maps and masks are stretched to it (AnomalyCLIP).
    sigma: of a Gaussian filter over the maps, in pixels at that size; 0: none.
    Raises ValueError when maps are to be measured and an anomalous image has no mask file. One whose mask is
    there but empty counts as anomalous for the image metrics and as normal pixels for the others, with a
    warning.
    """
    scores: dict[str, list[np.ndarray]] = {}
    histograms: dict[str, PixelHistogram] = {}
    within: dict[str, list[tuple[float, float, float]]] = {name: [] for name in each}
    for part in parts:
        dense = part.load()
        outputs = detect(dense)
        for name, output in outputs.items():
            if output.scores is not None:
                scores.setdefault(name, []).append(dense.mean_of_tiles(output.scores))
        with_maps = {name: output.maps for name, output in outputs.items() if output.maps is not None}
        masks = _masks(part, map_size) if with_maps else []
        for name, maps in with_maps.items():
            histogram = histograms.setdefault(name, PixelHistogram())
            for mask, anomaly_map in zip(masks, image_maps(dense, maps, map_size, sigma), strict=True):
                histogram.add(mask, anomaly_map)
                if name in within:
                    within[name].append(_of_image(mask, anomaly_map))
    unknown = [name for name in each if name not in histograms]
    if unknown:
        raise ValueError(f"each={list(each)}: expected names of outputs with maps, {', '.join(histograms)}")
    arrays = {f"{name}/scores": np.concatenate(values) for name, values in scores.items()}
    for name, histogram in histograms.items():
        found = (histogram.pixel_auroc(), histogram.aupro(), histogram.f1_max())
        arrays[f"{name}/pixel"] = np.array([m.value for m in found] + [m.error for m in found])
    return arrays | {f"{name}/each": np.array(values) for name, values in within.items()}


def _of_image(mask: np.ndarray, anomaly_map: np.ndarray) -> tuple[float, float, float]:
    highest = float(anomaly_map.max())
    if not mask.any() or mask.all():
        return np.nan, np.nan, highest
    labels, scores = mask.ravel(), anomaly_map.ravel()
    return auroc(labels, scores), f1_max(labels, scores), highest


def image_maps(
    dense: Dense, maps: Tensor, map_size: int | tuple[int, int] | None = None, sigma: float = 0.0
) -> Iterator[np.ndarray]:
    """One map (h, w) float32 for each image from maps (t, rows, columns) of its tiles.

    Bilinear; where tiles overlap their mean (supplement A); 0 where no tile lies. sigma: as in `measure`.
    """
    for i, (height, width) in enumerate(dense.sizes.tolist()):
        h, w = scaled_size(height, width, map_size)
        total, count = torch.zeros(h, w), torch.zeros(h, w)
        for tile in np.flatnonzero(dense.owner == i):
            edges = zip(dense.boxes[tile].tolist(), (w / width, h / height) * 2, strict=True)
            left, upper, right, lower = (round(edge * scale) for edge, scale in edges)
            size = (lower - upper, right - left)
            total[upper:lower, left:right] += _resize(maps[tile], size)
            count[upper:lower, left:right] += 1
        whole = (total / count.clamp(min=1)).numpy()
        yield gaussian_filter(whole, sigma) if sigma else whole


def scaled_size(height: int, width: int, map_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) with `map_size` as the shorter edge; None keeps the size, (h, w) is taken as it is."""
    if isinstance(map_size, tuple):
        return map_size
    scale = 1 if map_size is None else map_size / min(height, width)
    return round(height * scale), round(width * scale)


def _resize(image: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    options = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(image[None, None].float(), size, mode=mode, **options)[0, 0]


def _masks(part: DensePart, map_size: int | tuple[int, int] | None) -> list[np.ndarray]:
    """(h, w) bool masks of a part's images."""
    dataset = part.dataset
    lacking = dataset.meta[(dataset.meta["label"] == 1) & (dataset.meta["mask"] == "")]
    if len(lacking):
        raise ValueError(
            f"{dataset.name}, category {lacking['category'].iloc[0]!r}: {lacking['image'].iloc[0]} is "
            "anomalous and has no mask, so pixel metrics are undefined; measure image scores, or add masks"
        )
    masks = []
    for i in range(len(dataset)):
        mask = dataset.mask(i)
        size = scaled_size(*mask.shape, map_size)
        if isinstance(map_size, tuple):
            mask = stretched_mask(mask, size)
        elif size != mask.shape:
            mask = _resize(torch.from_numpy(mask), size, "nearest-exact").numpy() > 0.5
        if dataset.labels[i] and not mask.any():
            warnings.warn(
                f"the mask of the anomalous {dataset.meta['image'].iloc[i]} is empty at {size}: its pixels "
                "count as normal",
                stacklevel=3,
            )
        masks.append(mask)
    return masks
