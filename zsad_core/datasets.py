"""Prepared folders: images, masks and labels of one anomaly detection dataset, listed in a `meta.csv`.

    <root>/meta.csv                                    one row an image, see COLUMNS
    <root>/<category>/train/good/…  test/good/…  test/<defect>/…
    <root>/<category>/ground_truth/<defect>/…          masks, if the dataset has any

`data_scripts/` makes such folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from zsad_core.cache import sha256_of, write_atomically
from zsad_core.images import image_size, read_image, read_mask

COLUMNS = ("category", "split", "label", "defect", "image", "mask")
"""split: train or test; label: 0 normal, 1 anomalous; defect: "good" or the kind of defect; image, mask:
paths relative to the root with forward slashes, mask empty when there is none."""


class Digests:
    """SHA-256 of the files below `root`; kept in `folder` between runs, None: only as long as this object.
    Each call that computes some writes a file of its own, so any number of workers may do so at once."""

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
        self.root, self.folder, self._name = root, folder, f"{root.name}-{place[:8]}"
        self._known: dict[str, str] = {}
        for file in sorted(folder.glob(f"{self._name}-*.json")) if folder else ():
            self._known |= json.loads(file.read_text(encoding="utf-8"))

    def of(self, relatives: Iterable[str]) -> list[str]:
        """64 hexadecimal digits for each path relative to `root`; files that are not known are read."""
        now, found, new = time.time_ns(), [], {}
        for relative in relatives:
            stat = (self.root / relative).stat()
            key = f"{relative} {stat.st_size} {stat.st_mtime_ns}"
            digest = self._known.get(key) or new.get(key) or sha256_of(self.root / relative)
            # a file that changed just now could change once more within one tick of its clock, unseen
            if key not in self._known and now - stat.st_mtime_ns > 2 * 10**9:
                new[key] = digest
            found.append(digest)
        self._known |= new
        if new and self.folder is not None:
            text = json.dumps(new)
            file = self.folder / f"{self._name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
            write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return found


@dataclass(frozen=True, eq=False)
class AnomalyDataset:
    """Images, masks and labels of a prepared folder, or of a part of it. Index i counts the rows of `meta`.
    name: the folder's, or `folder/category` if one category stands in for a published dataset."""

    root: Path
    name: str
    meta: pd.DataFrame
    digests: Digests = field(repr=False)

    def __len__(self) -> int:
        return len(self.meta)

    @property
    def categories(self) -> list[str]:
        return self.meta["category"].unique().tolist()

    @property
    def labels(self) -> np.ndarray:
        return self.meta["label"].to_numpy(int)

    @property
    def has_masks(self) -> bool:
        """Whether there are anomalous images and each has a mask, so that pixel metrics are defined."""
        masks = self.meta["mask"][self.meta["label"] == 1]
        return bool(len(masks)) and bool((masks != "").all())

    def select(self, category: str | None = None, split: str | None = None) -> AnomalyDataset:
        """The part with this category and split ("train" or "test"); None: all. ValueError if it is empty."""
        if (category, split) in self._kept:
            return self._kept[category, split]
        keep = np.ones(len(self), bool)
        for column, value in (("category", category), ("split", split)):
            keep &= value is None or self.meta[column] == value
        if not keep.any():
            expected = f"expected one of {', '.join(self.categories)}, and 'train' or 'test'"
            raise ValueError(f"{self.name} has no images with {category=} and {split=}: {expected}")
        return self._kept.setdefault((category, split), self.where(keep))

    def limit(self, n: int) -> AnomalyDataset:
        """At most n test images of each category and label, evenly spaced; every training image."""
        keep = (self.meta["split"] == "train").to_numpy(copy=True)
        for rows in self.meta[~keep].groupby(["category", "label"]).groups.values():
            keep[rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int)]] = True
        return self.where(keep)

    def where(self, keep: np.ndarray | slice) -> AnomalyDataset:
        """The images at which `keep` (n,) bool is True, or in a slice."""
        return replace(self, meta=self.meta[keep].reset_index(drop=True))

    def cut(self, size: int) -> list[AnomalyDataset]:
        """The images in order, in parts of this size; the last may be smaller."""
        if size not in self._kept:
            self._kept[size] = [self.where(slice(i, i + size)) for i in range(0, len(self), size)]
        return self._kept[size]

    @cached_property
    def _kept(self) -> dict[Any, Any]:
        """Of `select` and `cut`: a part that is read again keeps its fingerprint."""
        return {}

    @cached_property
    def square(self) -> bool:
        """Whether all images are, from their headers."""
        return all(width == height for width, height in map(self.size, range(len(self))))

    def image(self, i: int) -> Image.Image:
        return read_image(self.root / self.meta["image"].iloc[i])

    def size(self, i: int) -> tuple[int, int]:
        """(W, H) of image i, from its header alone."""
        return image_size(self.root / self.meta["image"].iloc[i])

    def mask(self, i: int) -> np.ndarray:
        """(H, W) bool, True where image i is anomalous, all False without a mask; errors of `read_mask`."""
        size, path = self.size(i), self.meta["mask"].iloc[i]
        return read_mask(self.root / path, size=size) if path else np.zeros(size[::-1], bool)

    @property
    def files(self) -> list[str]:
        """Paths of all images, then of all masks."""
        return [path for column in ("image", "mask") for path in self.meta[column] if path]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the rows and the content of every file they name."""
        rows = self.meta.to_csv(index=False, lineterminator="\n").encode()
        return hashlib.sha256(rows + bytes.fromhex("".join(self.digests.of(self.files)))).hexdigest()


def load_dataset(root: str | Path, digests: str | Path | None = None) -> AnomalyDataset:
    """Read and check a prepared folder, whose name becomes the dataset's.
    digests: a folder where those of its files are kept between runs (`Digests`); None: nowhere.
    Raises FileNotFoundError for a missing folder, meta.csv or file named there, ValueError for other values.
    """
    root = Path(root)
    file = root / "meta.csv"
    if not file.is_file():
        found = f"no prepared dataset {root.name!r}: {file if root.is_dir() else root} does not exist"
        raise FileNotFoundError(f"{found}. {how_to_prepare(root.name)}, or correct the path")
    try:
        # all text: category "01" stays "01" and a category called "nan" stays a name
        options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
        meta = pd.read_csv(file, usecols=COLUMNS, **options)[list(COLUMNS)]
    except ValueError as error:
        raise ValueError(f"{file} is no CSV file with the columns {', '.join(COLUMNS)}: {error}") from error
    _check_rows(meta, file)
    known = Digests(root, None if digests is None else Path(digests))
    return AnomalyDataset(root, root.name, meta.assign(label=meta["label"].astype(int)), known)


def how_to_prepare(name: str) -> str:
    """How a user gets a prepared folder of this name."""
    return f"`zsad prepare {name} --help` says how to get it, the page on datasets how to add one"


def stretched_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool stretched to (h, w): bilinear with antialiasing, then more than one half.
    AnomalyCLIP's code does so, for training and for metrics. A small defect can shrink or vanish."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size[::-1], Image.Resampling.BILINEAR)) > 127.5


def _check_rows(meta: pd.DataFrame, file: Path) -> None:
    """Each rule with the rows that break it, then the files that are missing."""
    if meta.empty:
        raise ValueError(f"{file} lists no images: expected one row for each")
    required, paths = meta[["category", "defect", "image"]], meta[["image", "mask"]]
    is_good = meta["defect"] == "good"
    rules = {
        "an empty category, defect or image": (required == "").any(axis=1),
        "a split other than train and test": ~meta["split"].isin(["train", "test"]),
        "a label other than 0 and 1": ~meta["label"].isin(["0", "1"]),
        "a label that contradicts its defect (0 goes with good only)": is_good != (meta["label"] == "0"),
        "an image that is listed before": meta["image"].duplicated(),
        "a path that is not relative, with forward slashes": ~paths.map(_is_inside).all(axis=1),
    }
    for rule, broken in rules.items():
        if broken.any():
            rows = [f"line {row + 2}: {','.join(meta.loc[row])}" for row in meta.index[broken]]
            raise ValueError(f"{file}: {len(rows)} row(s) with {rule}: {_shown(rows)}")
    named = dict.fromkeys([*meta["image"], *meta["mask"]])
    missing = [path for path in named if path and not (file.parent / path).is_file()]
    if missing:
        found = f"{file} names {len(missing)} file(s) that do not exist beside it: {_shown(missing)}"
        raise FileNotFoundError(f"{found}. Prepare the dataset again, or remove these rows")


def _is_inside(path: str) -> bool:
    whole = PureWindowsPath(path)  # it knows drives as well
    return not (whole.anchor or ".." in whole.parts or "\\" in path)


def _shown(texts: Sequence[str]) -> str:
    return "; ".join(texts[:5]) + ("; …" if len(texts) > 5 else "")
