"""What prompts are learned from: global and local features of the auxiliary images, and their masks.

The image tower is frozen and the images are not augmented, so each goes through it once. Features lie on the
disk in float16 and masks as bits, both memory-mapped: a step of training reads its own images, and however
many there are, the memory does not grow.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zsad_core.cache import cached_arrays
from zsad_core.datasets import AnomalyDataset, stretched_mask
from zsad_core.image_features import Extractor, FeaturePart, compute_features
from zsad_core.prompts import object_name


class Batch(NamedTuple):
    """heads: (b, d) global features. patches: {block: (b, p, d)}. masks: (b, H, W) bool. labels, names: (b,),
    names as places in `Auxiliary.names`."""

    heads: Tensor
    patches: dict[int, Tensor]
    masks: Tensor
    labels: Tensor
    names: Tensor


@dataclass(frozen=True)
class Auxiliary:
    """n images, category by category.

    parts: arrays `global` and `local/<block>` of `dense.PART` images each; masks: those of the same images,
    (images, bytes), one bit a pixel at mask_size. labels: (n,). owners: (n,) places in names, of objects.
    """

    parts: list[dict[str, np.ndarray]]
    masks: list[np.ndarray]
    labels: np.ndarray
    owners: np.ndarray
    names: list[str]
    mask_size: tuple[int, int]
    has_masks: bool

    def __len__(self) -> int:
        return len(self.labels)

    def followed_by(self, other: Auxiliary) -> Auxiliary:
        """These images, then the other ones, of the same objects and of the same size."""
        if (self.names, self.mask_size) != (other.names, other.mask_size):
            raise ValueError(
                f"cannot join {self.names}, {self.mask_size} with {other.names}, {other.mask_size}"
            )
        labels, owners = (
            np.concatenate([getattr(a, n) for a in (self, other)]) for n in ("labels", "owners")
        )
        parts, masks = self.parts + other.parts, self.masks + other.masks
        return replace(self, parts=parts, masks=masks, labels=labels, owners=owners)

    def batch(
        self, rows: np.ndarray, layers: Sequence[int], head: str = "global", patches: str = "local"
    ) -> Batch:
        """The images at these places (b,), in this order, with the local features of these blocks.

        head, patches: the arrays that are read, the latter `<patches>/<layer>`.
        """
        starts = np.cumsum([0, *map(len, self.masks)])
        part_of = np.searchsorted(starts, rows, "right") - 1
        where = list(zip(part_of, rows - starts[part_of], strict=True))
        stack = lambda name: np.stack([self.parts[p][name][i] for p, i in where])  # noqa: E731
        read = lambda name: torch.from_numpy(stack(name)).float()  # noqa: E731
        bits = np.stack([self.masks[p][i] for p, i in where])
        height, width = self.mask_size
        masks = np.unpackbits(bits, axis=1, count=height * width).reshape(-1, height, width)
        return Batch(
            read(head),
            {layer: read(f"{patches}/{layer}") for layer in layers},
            torch.from_numpy(masks).bool(),
            torch.from_numpy(self.labels[rows]),
            torch.from_numpy(self.owners[rows]),
        )


def auxiliary_of(
    dataset: AnomalyDataset, extractor: Extractor, cache_dir: str | Path, *, split: str | None = "test"
) -> Auxiliary:
    """The images of a split (None: all) as training material; features are computed now if nobody has yet.

    Raises ValueError when there is no image, or some anomalous images have masks and others none.
    """
    chosen = dataset if split is None else dataset.select(split=split)
    if not len(chosen):
        raise ValueError(f"{dataset.name} has no images in split {split!r}; choose another auxiliary set")
    anomalous = chosen.meta["label"] == 1
    masked = (chosen.meta["mask"] != "") & anomalous
    if masked.any() and (anomalous & ~masked).any():
        lacking = chosen.meta["image"][anomalous & ~masked]
        raise ValueError(
            f"{dataset.name}: {len(lacking)} of {anomalous.sum()} anomalous images have no mask, the first "
            f"is {lacking.iloc[0]}; give masks for all, or for none to learn from image labels alone"
        )
    features: list[dict[str, np.ndarray]] = []
    masks: list[np.ndarray] = []
    labels, owners = [], []
    for number, category in enumerate(chosen.categories):
        images = chosen.select(category=category)
        for part in compute_features(extractor, images, cache_dir, whole="squash"):
            features.append(part.map())
            masks.append(_masks(part, extractor.image_size, Path(cache_dir) / "masks"))
            labels.append(part.dataset.labels)
            owners.append(np.full(len(part.dataset), number))
    names = [object_name(category) for category in chosen.categories]
    shapes = np.concatenate(labels), np.concatenate(owners), names, extractor.image_size
    return Auxiliary(features, masks, *shapes, has_masks=bool(masked.any()))


def image_hashes(dataset: AnomalyDataset) -> np.ndarray:
    """(n,) int64: the first eight bytes of each image file's SHA-256."""
    files = dataset.digests.of(dataset.meta["image"])
    return np.array([int.from_bytes(bytes.fromhex(f[:16]), "big", signed=True) for f in files], np.int64)


def _masks(part: FeaturePart, size: tuple[int, int], folder: Path) -> np.ndarray:
    """(n, bytes) uint8: the masks of a part's images, one bit a pixel."""

    def compute() -> dict[str, np.ndarray]:
        masks = [stretched_mask(part.dataset.mask(i), size) for i in range(len(part.dataset))]
        masked = (part.dataset.meta["mask"] != "") & (part.dataset.labels == 1)
        empty = sum(not mask.any() for mask, has in zip(masks, masked, strict=True) if has)
        if empty:
            warnings.warn(
                f"{part.dataset.name}: {empty} masks are empty at {size[0]} x {size[1]} pixels; their "
                "pixels count as normal",
                stacklevel=2,
            )
        return {"masks": np.packbits(np.stack(masks).reshape(len(masks), -1), axis=1)}

    label = f"{part.dataset.root.name}-{part.dataset.meta['category'].iloc[0]}"
    key = {"images": part.dataset.fingerprint, "size": list(size)}
    return cached_arrays(folder, label, key, compute)["masks"]
