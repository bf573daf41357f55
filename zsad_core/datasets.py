"""Prepared folders: images, masks and labels of one anomaly detection dataset, listed in a `meta.csv`.

    <root>/meta.csv                                    one row an image, see COLUMNS
    <root>/<category>/train/good/…  test/good/…  test/<defect>/…
    <root>/<category>/ground_truth/<defect>/…          masks, if the dataset has any

`data_scripts/` makes such folders. Nothing is decoded before it is asked for.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image

from zsad_core.cache import sha256_of, write_atomically
from zsad_core.images import image_size, read_image, read_mask

COLUMNS = ("category", "split", "label", "defect", "image", "mask")
"""split: train or test; label: 0 normal, 1 anomalous; defect: "good" or the kind of defect; image, mask:
paths relative to the root with forward slashes, mask empty when there is none."""

_SHOWN = 5  # faulty rows that an error lists


@dataclass(frozen=True, eq=False)
class AnomalyDataset:
    """Images, masks and labels of a prepared folder, or of a part of it. Index i counts the rows of
    `meta`.

    name: the folder's; `folder/category` where one category stands for a published dataset. So it is no file
    name: that is `root.name`. digests: of its files, shared by all parts.
    """

    root: Path
    name: str
    meta: pd.DataFrame
    digests: Digests | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.digests is None:
            object.__setattr__(self, "digests", Digests(self.root))

    def __len__(self) -> int:
        return len(self.meta)

    @property
    def categories(self) -> list[str]:
        """Names of the categories, in the order of meta.csv."""
        return self.meta["category"].unique().tolist()

    @property
    def labels(self) -> np.ndarray:
        """(n,) 0 normal, 1 anomalous."""
        return self.meta["label"].to_numpy(int)

    @property
    def has_masks(self) -> bool:
        """Whether there are anomalous images and each has a mask, so that pixel metrics are defined."""
        anomalous = self.meta[self.meta["label"] == 1]
        return bool(len(anomalous)) and bool((anomalous["mask"] != "").all())

    def select(
        self, category: str | None = None, split: Literal["train", "test"] | None = None
    ) -> AnomalyDataset:
        """The part with this category and split; None selects all.

        Raises ValueError for an unknown category or split, and when nothing is left.
        """
        keep = np.ones(len(self), bool)
        if category is not None:
            self._check_category(category)
            keep &= (self.meta["category"] == category).to_numpy()
        if split is not None:
            if split not in ("train", "test"):
                raise ValueError(f"split={split!r}: expected 'train' or 'test'")
            keep &= (self.meta["split"] == split).to_numpy()
        if not keep.any():
            raise ValueError(f"{self.name} has no images with category={category!r} and split={split!r}")
        return self.where(keep)

    def limit(self, n: int) -> AnomalyDataset:
        """At most n test images of each category and label, evenly spaced; every training image."""
        if n < 1:
            raise ValueError(f"n={n}: expected at least 1 image of each category and label")
        keep = (self.meta["split"] == "train").to_numpy(copy=True)
        for rows in self.meta[~keep].groupby(["category", "label"]).groups.values():
            keep[rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int)]] = True
        return self.where(keep)

    def where(self, keep: np.ndarray) -> AnomalyDataset:
        """The images at which `keep` (n,) bool is True."""
        return replace(self, meta=self.meta[keep].reset_index(drop=True))

    def cut(self, size: int) -> list[AnomalyDataset]:
        """The images in order, in parts of this size, the last one smaller; none of no images."""
        starts = range(0, len(self), size)
        return [replace(self, meta=self.meta[i : i + size].reset_index(drop=True)) for i in starts]

    def image(self, i: int) -> Image.Image:
        """Image i in RGB; errors as in `read_image`."""
        return read_image(self.root / self.meta["image"].iloc[i])

    def mask(self, i: int) -> np.ndarray:
        """(H, W) bool, True where image i is anomalous; all False without a mask; errors as in `read_mask`.

        Raises ValueError when the mask has another size than its image.
        """
        width, height = self.size(i)
        relative = self.meta["mask"].iloc[i]
        if not relative:
            return np.zeros((height, width), bool)
        mask = read_mask(self.root / relative)
        if mask.shape != (height, width):
            raise ValueError(
                f"mask {self.root / relative} is {mask.shape[1]} x {mask.shape[0]} (W x H), its image "
                f"{self.meta['image'].iloc[i]} is {width} x {height}: expected equal sizes; prepare it again"
            )
        return mask

    @property
    def files(self) -> list[str]:
        """Paths of all images, then of all masks."""
        return [path for column in ("image", "mask") for path in self.meta[column] if path]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the rows and the content of every file they name; computed when first asked for, from
        `digests`, so that the files of a dataset are read once for all its parts."""
        digest = hashlib.sha256(self.meta.to_csv(index=False, lineterminator="\n").encode())
        for found in self.digests.of(self.files):
            digest.update(bytes.fromhex(found))
        return digest.hexdigest()

    def size(self, i: int) -> tuple[int, int]:
        """(W, H) of image i, from its header alone."""
        return image_size(self.root / self.meta["image"].iloc[i])

    def _check_category(self, category: str) -> None:
        if category not in self.categories:
            raise ValueError(
                f"{self.name} has no category {category!r}: expected one of {', '.join(self.categories)}"
            )


def load_dataset(root: str | Path, digests: str | Path | None = None) -> AnomalyDataset:
    """Read and check a prepared folder. Its name becomes the dataset's.

    digests: a folder where those of its files are kept between runs (`Digests`); None: nowhere.

    Raises FileNotFoundError when the folder, its meta.csv or a file named there is missing, and ValueError
    when meta.csv has other columns or values than COLUMNS says, rows that repeat an image, or paths that
    leave the folder.
    """
    root = Path(root)
    file = root / "meta.csv"
    if not file.is_file():
        raise FileNotFoundError(
            f"no prepared dataset {root.name!r}: {file if root.is_dir() else root} does not exist. "
            f"{how_to_prepare(root.name)}, or correct the path"
        )
    try:
        # all text: category "01" stays "01" and a category called "nan" stays a name
        meta = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} is not a CSV file with the columns {', '.join(COLUMNS)}: {error}"
        ) from error
    if sorted(meta.columns) != sorted(COLUMNS):
        raise ValueError(f"{file} has the columns {', '.join(meta.columns)}: expected {', '.join(COLUMNS)}")
    if meta.empty:
        raise ValueError(f"{file} lists no images: expected one row for each")
    meta = meta[list(COLUMNS)]
    _check_rows(meta, file)
    _check_files(meta, root)
    known = Digests(root, None if digests is None else Path(digests))
    return AnomalyDataset(root, root.name, meta.assign(label=meta["label"].astype(int)), known)


def fingerprints(parts: Sequence[AnomalyDataset]) -> list[str]:
    """Those of parts of one dataset; the digests of all their files are found, and kept, in one go."""
    if parts:
        parts[0].digests.of(path for part in parts for path in part.files)
    return [part.fingerprint for part in parts]


def how_to_prepare(name: str) -> str:
    """Where a user learns how to get a prepared folder of this name."""
    script = "mini" if name.startswith("mini_") else name
    try:
        known = script.isidentifier() and find_spec(f"data_scripts.{script}") is not None
    except ModuleNotFoundError:  # zsad_core without the scripts
        known = False
    if known:
        help = f"`zsad prepare {name} --help`"
        return f"{help} tells how to get it, the page on datasets how to add one"
    return "no script makes it: the page on datasets tells how to add one"


def stretched_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool stretched to (h, w): bilinear with antialiasing, then more than one half.

    So AnomalyCLIP's code brings masks to the size of the model's input, for training and for its metrics; a
    small defect can shrink in it, or vanish. A mask that has the size already is not changed.
    """
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size[::-1], Image.Resampling.BILINEAR)) > 127.5


def _check_rows(meta: pd.DataFrame, file: Path) -> None:
    """Each rule with the rows that break it."""
    paths = pd.concat([meta["image"], meta["mask"][meta["mask"] != ""]])
    rules = (
        ("an empty category, defect or image", (meta[["category", "defect", "image"]] == "").any(axis=1)),
        ("a split other than train and test", ~meta["split"].isin(["train", "test"])),
        ("a label other than 0 and 1", ~meta["label"].isin(["0", "1"])),
        ("a label that contradicts its defect (0 goes with good, 1 with any other)",
         (meta["label"] == "0") != (meta["defect"] == "good")),
        ("an image that is listed before", meta["image"].duplicated()),
        ("a path that is not relative to the folder, with forward slashes",
         meta.index.isin(paths.index[~paths.map(_is_inside)])),
    )  # fmt: skip
    for rule, broken in rules:
        if np.any(broken):
            rows = meta.index[broken]
            shown = "; ".join(f"line {row + 2}: {','.join(meta.loc[row])}" for row in rows[:_SHOWN])
            raise ValueError(
                f"{file}: {len(rows)} row(s) with {rule}: {shown}{'; …' if len(rows) > _SHOWN else ''}"
            )


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    drive = parts.parts[:1] and parts.parts[0].endswith(":")
    return not (parts.is_absolute() or ".." in parts.parts or "\\" in path or drive)


def _check_files(meta: pd.DataFrame, root: Path) -> None:
    named = [path for column in ("image", "mask") for path in meta[column] if path]
    missing = [path for path in named if not (root / path).is_file()]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise FileNotFoundError(
            f"{root / 'meta.csv'} names {len(missing)} file(s) that do not exist below {root}: {shown}. "
            "Prepare the dataset again, or remove these rows"
        )


_YOUNG = 2 * 10**9
"""Nanoseconds. A file that changed just now could change once more within one tick of its clock, unseen."""


@dataclass(frozen=True, eq=False)
class Digests:
    """Digests of the files below `root`; kept in `folder` between runs, None: only as long as this object.

    Whoever computes some writes them as a file of their own, so any number of workers may do so at once.
    """

    root: Path
    folder: Path | None = None
    _known: dict[tuple[str, int, int], str] = field(default_factory=dict, repr=False)

    def of(self, relatives: Iterable[str]) -> list[str]:
        """64 hexadecimal digits for each path relative to `root`; files that are not known are read."""
        now, found, new = time.time_ns(), [], {}
        for relative in relatives:
            stat = (self.root / relative).stat()
            key = (relative, stat.st_size, stat.st_mtime_ns)
            digest = self._known.get(key) or self._kept.get(key)
            if digest is None:
                digest = sha256_of(self.root / relative)
                if now - stat.st_mtime_ns > _YOUNG:
                    self._known[key] = new[key] = digest
            found.append(digest)
        if new and self.folder is not None:
            self._keep(new)
        return found

    @cached_property
    def _kept(self) -> dict[tuple[str, int, int], str]:
        """What the folder holds: lines of digest, size, nanoseconds and path."""
        kept = {}
        for path in sorted(self.folder.glob(f"{self._name}-*.txt")) if self.folder else ():
            for line in path.read_text(encoding="utf-8").splitlines():
                digest, size, changed, relative = line.split(" ", 3)
                kept[relative, int(size), int(changed)] = digest
        return kept

    @property
    def _name(self) -> str:
        place = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()
        return f"{self.root.name}-{place[:8]}"

    def _keep(self, new: dict[tuple[str, int, int], str]) -> None:
        text = "".join(f"{digest} {size} {changed} {path}\n" for (path, size, changed), digest in new.items())
        file = self.folder / f"{self._name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
        write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
