"""VAND's mosaics: 2 x 2 images of one category in one picture, a quarter each.

The original draws a new mosaic whenever it wants one. Here each image gets one, drawn once, so that mosaics
too go through the frozen tower a single time; which images are replaced by theirs is drawn in every epoch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from zsad_core.cache import content_key, write_atomically
from zsad_core.datasets import COLUMNS, AnomalyDataset, load_dataset, stretched_mask


def mosaics_of(
    dataset: AnomalyDataset, size: tuple[int, int], folder: str | Path, *, seed: int = 111
) -> AnomalyDataset:
    """One mosaic for each image of the dataset, category by category, at `size` (H, W) in pixels.

    Its four images are drawn without replacement (with, from a category of fewer than four) and scaled to a
    quarter each; the mask is made of theirs, and the mosaic is anomalous where one of them is. Kept as a
    prepared folder below `folder`, under a key of all that it depends on; written once.
    """
    key = content_key(images=dataset.fingerprint, size=list(size), seed=seed)
    root = Path(folder) / "mosaics" / f"{dataset.root.name}-{key}"
    if not (root / "meta.csv").is_file():  # written last
        rows = [
            row for category in dataset.categories for row in _category(dataset, category, size, root, seed)
        ]
        meta = pd.DataFrame(rows, columns=list(COLUMNS))
        write_atomically(root / "meta.csv", lambda path: meta.to_csv(path, index=False, lineterminator="\n"))
    return load_dataset(root)


def _category(
    dataset: AnomalyDataset, category: str, size: tuple[int, int], root: Path, seed: int
) -> list[tuple[str, str, int, str, str, str]]:
    part = dataset.select(category=category)
    number = dataset.categories.index(category)
    rows = []
    for i in range(len(part)):
        generator = np.random.default_rng([seed, number, i])  # its own: a rerun may begin anywhere
        picture, mask = _mosaic(part, generator.choice(len(part), 4, replace=len(part) < 4), size)
        defect = "mosaic" if mask.any() else "good"
        names = [
            f"{category}/test/{defect}/{i:05d}.png",
            f"{category}/ground_truth/{defect}/{i:05d}_mask.png",
        ]
        _save(picture, root / names[0])
        if mask.any():
            _save(Image.fromarray(mask.astype(np.uint8) * 255), root / names[1])
        rows.append((category, "test", int(mask.any()), defect, names[0], names[1] if mask.any() else ""))
    return rows


def _mosaic(part: AnomalyDataset, four: np.ndarray, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    height, width = size
    picture, mask = Image.new("RGB", (width, height)), np.zeros(size, bool)
    for place, i in enumerate(four):
        rows, columns = divmod(place, 2)
        top, left = rows * (height // 2), columns * (width // 2)
        bottom, right = (height if rows else height // 2), (width if columns else width // 2)
        quarter = (bottom - top, right - left)
        picture.paste(part.image(i).resize(quarter[::-1], Image.Resampling.BICUBIC), (left, top))
        mask[top:bottom, left:right] = stretched_mask(part.mask(i), quarter)
    return picture, mask


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda temporary: picture.save(temporary))
