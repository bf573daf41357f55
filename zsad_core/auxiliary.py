"""What prompts are learned from: features and masks of the auxiliary images; a step reads its own only."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zsad_core.cache import cached_arrays
from zsad_core.datasets import AnomalyDataset, stretched_mask
from zsad_core.image_features import Extractor, compute_features
from zsad_core.prompts import object_name


class Batch(NamedTuple):
    """(b, d) global, {block: (b, p, d)} local features, (b, H, W) bool, (b,), (b,) places in the names."""

    heads: Tensor
    patches: dict[int, Tensor]
    masks: Tensor
    labels: Tensor
    names: Tensor


@dataclass(frozen=True)
class Auxiliary:
    """n images, category by category. parts: features of `image_features.PART` images each, and their `masks`
    (images, H, W) bool. labels: (n,). owners: (n,) places in names, of objects."""

    parts: list[dict[str, np.ndarray]]
    labels: np.ndarray
    owners: np.ndarray
    names: list[str]
    has_masks: bool

    def batch(
        self, rows: np.ndarray, layers: Sequence[int], head: str = "global", patches: str = "local"
    ) -> Batch:
        """The images at these places (b,); read are the arrays `<head>` and `<patches>/<layer>`."""
        starts = np.cumsum([0, *(len(part["masks"]) for part in self.parts)])
        numbers = np.searchsorted(starts, rows, "right") - 1

        def read(name: str) -> Tensor:
            own = [self.parts[p][name][row - starts[p]] for p, row in zip(numbers, rows, strict=True)]
            return torch.from_numpy(np.stack(own))

        local = {layer: read(f"{patches}/{layer}").float() for layer in layers}
        labels, owners = torch.from_numpy(self.labels[rows]), torch.from_numpy(self.owners[rows])
        return Batch(read(head).float(), local, read("masks"), labels, owners)


def auxiliary_of(images: AnomalyDataset, extractor: Extractor, cache_dir: str | Path) -> Auxiliary:
    """Images as training material; features that the cache does not have are computed. Raises ValueError when
    there is no image, or some anomalous images have masks and others none."""
    if not len(images):
        raise ValueError(f"{images.name} has no images; choose another auxiliary set")
    lacking = images.meta["image"][(images.meta["label"] == 1) & (images.meta["mask"] == "")]
    anomalous = images.labels.sum()
    if 0 < len(lacking) < anomalous:
        found = f"{len(lacking)} of {anomalous} anomalous images have no mask, the first is {lacking.iloc[0]}"
        raise ValueError(f"{images.name}: {found}; give masks for all, or for none to learn from labels")
    found = compute_features(extractor, images, cache_dir, whole="squash")
    size, folder = extractor.network.image_size, Path(cache_dir) / "masks"
    parts = [part.map() | {"masks": stretched_masks(part.dataset, size, folder)} for part in found]
    labels = np.concatenate([part.dataset.labels for part in found])
    names = [object_name(category) for category in images.categories]
    owners = np.repeat(np.arange(len(names)), [len(images.select(own)) for own in images.categories])
    return Auxiliary(parts, labels, owners, names, images.has_masks)


def image_hashes(dataset: AnomalyDataset) -> np.ndarray:
    """(n,) int64: the first eight bytes of each image file's SHA-256."""
    files = dataset.digests.of(dataset.meta["image"])
    return np.array([int.from_bytes(bytes.fromhex(f[:16]), "big", signed=True) for f in files], np.int64)


def stretched_masks(images: AnomalyDataset, size: tuple[int, int], folder: str | Path) -> np.ndarray:
    """(n, H, W) bool: the masks of images of a category, stretched to a size; read from `folder` if kept.
    Warns of those of anomalous images that this leaves empty."""

    def compute() -> dict[str, np.ndarray]:
        return {"masks": np.stack([stretched_mask(images.mask(i), size) for i in range(len(images))])}

    key = {"images": images.fingerprint, "mask_size": list(size)}
    masks = cached_arrays(folder, images.root.name, key, compute)["masks"]
    empty = (images.meta["mask"] != "") & (images.labels == 1) & ~masks.any((1, 2))
    if empty.any():
        where = f"{empty.sum()} masks are empty at {size[0]} x {size[1]} pixels"
        first = f"the first that of {images.meta['image'][empty].iloc[0]}"
        warnings.warn(f"{images.name}: {where}, {first}; their pixels count as normal", stacklevel=2)
    return masks
