"""The files below a user's folder: all of them listed, read unless they have changed, and cut into tiles."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from zsad_core.images import BadImage, Photo, read_photo
from zsad_core.views import Preprocessor, Whole, boxes_of, test_views

MADE_BY = "zsad_predict"
"""In the `run.json` of a folder of results, which is never read as a folder of images."""


class FileChanged(Exception):
    """The file is no longer the one that its digest was taken of."""


@dataclass(frozen=True)
class Entry:
    """A file below a folder. name: its path there, with forward slashes, printable. status, error: set when
    it is not to be opened, "left out" or "unreadable"."""

    name: str
    path: Path
    status: str = ""
    error: str = ""


@dataclass(frozen=True)
class Listing:
    """Entries sorted by name, and how much was passed over: hidden files and folders, folders of earlier
    results, files and folders that have another part in the run (references, masks, labels)."""

    entries: list[Entry]
    hidden: int = 0
    results: int = 0
    other: int = 0


def find_files(
    folder: str | Path, *, follow_links: bool = False, other: Sequence[str | Path] = ()
) -> Listing:
    """All files below a folder. Raises FileNotFoundError or NotADirectoryError, PermissionError when the
    folder itself cannot be listed; one further down becomes an entry with an error.

    follow_links: whether links that leave the folder, and links to folders, are followed. By default they are
        left out, since a folder from elsewhere could point at anything.
    other: files and folders that are not images to score.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}: correct the path")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: expected a folder of images")
    root, own = folder.resolve(), {Path(path).resolve() for path in other}
    entries: list[Entry] = []
    counts = {"hidden": 0, "results": 0, "other": 0}
    waiting, seen = [folder], {root}
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as found:
                items = list(found)
        except OSError as error:
            if current == folder:
                raise type(error)(error.errno, f"cannot list the folder {folder}: {error.strerror}") from None
            reason = f"the folder cannot be listed: {error.strerror}"
            entries.append(Entry(_name(current, folder) + "/", current, "unreadable", reason))
            continue
        for item in items:
            path = Path(item.path)
            name, target = _name(path, folder), path.resolve() if item.is_symlink() else None
            if item.name.startswith("."):
                counts["hidden"] += 1
            elif (target or root / path.relative_to(folder)) in own:
                counts["other"] += 1
            elif target is not None and not target.exists():
                entries.append(Entry(name, path, "unreadable", "a link to a file that does not exist"))
            elif target is not None and not follow_links and (path.is_dir() or not _below(target, root)):
                what = "a link to a folder" if path.is_dir() else "a link that leaves the folder"
                entries.append(Entry(name, path, "left out", f"{what}: pass follow_links to follow it"))
            elif path.is_dir():
                if is_result_folder(path):
                    counts["results"] += 1
                elif (real := path.resolve()) not in seen:  # a link may lead back to where it is
                    seen.add(real)
                    waiting.append(path)
            elif not path.is_file():
                entries.append(Entry(name, path, "left out", "no regular file"))
            else:
                entries.append(Entry(name, path))
    return Listing(sorted(entries, key=lambda entry: entry.name), **counts)


def is_result_folder(folder: Path) -> bool:
    """Whether a run of this module's users has written it."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8")).get("made_by") == MADE_BY
    except (OSError, ValueError, AttributeError):
        return False


def digest_of(path: Path) -> str:
    """SHA-256 of a file; raises BadImage when it cannot be opened."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadImage("unreadable", f"it cannot be opened: {error.strerror}") from None


def _name(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _below(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder)


class Cut(NamedTuple):
    """An image as square tiles: pixels (t, 3, H, W), views (t v, 3, H, W) or None, boxes in it, (height,
    width)."""

    tiles: Tensor
    views: Tensor | None
    boxes: list[tuple[int, int, int, int]]
    size: tuple[int, int]


@dataclass(frozen=True)
class Reader:
    """How files are opened and cut; the options are those of `images.read_photo` and of `views`."""

    whole: Whole
    bits: int
    max_pixels: int

    def photo(self, path: Path, digest: str) -> Photo:
        """Raises BadImage, and FileChanged when the file has another SHA-256 digest than this one."""
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise FileChanged(str(path))
                file.seek(0)
                return read_photo(file, bits=self.bits, max_pixels=self.max_pixels)
        except OSError as error:
            raise BadImage("unreadable", f"it cannot be opened: {error.strerror or error}") from None

    def cut(self, image: Image.Image, encoder: Preprocessor, crops: bool | None) -> Cut:
        """What a method with this encoder needs of an RGB image; `crops` as in `detectors.Scorer`."""
        boxes, tiles = boxes_of(image.width, image.height, self.whole), []
        for box in boxes:
            tile = image.crop(box)
            if self.whole == "squash":
                tile = tile.resize(encoder.image_size[::-1], Image.Resampling.BICUBIC)
            tiles.append(encoder.preprocess(tile))
        views = None if crops is None else test_views(image, encoder, crops, whole=self.whole)
        return Cut(torch.stack(tiles), views, boxes, (image.height, image.width))

    @property
    def key(self) -> dict[str, object]:
        return {"reader": 1, "whole": self.whole, "bits": self.bits, "max_pixels": self.max_pixels}


def opened(
    file: tuple[Path, str], reader: Reader, encoder: Preprocessor, crops: bool | None
) -> tuple[Cut | None, dict]:
    """A file of that digest: what is seen of it, None for one that is no whole image, and its record (status,
    error and notes). Raises FileChanged."""
    try:
        photo = reader.photo(*file)
    except BadImage as error:
        return None, {"status": error.status, "error": str(error), "notes": []}
    record = {"status": "scored", "error": "", "notes": list(photo.notes)}
    return reader.cut(photo.image, encoder, crops), record
