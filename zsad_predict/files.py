"""The files below a user's folder: all of them listed, read unless they have changed, and cut into tiles."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from zsad_core.cache import sha256_of
from zsad_core.images import ZOOM, BadImage, Whole, boxes_of, inference_views, read_photo

MADE_BY = "zsad_predict"  # by which a `run.json` marks a folder of results
PREPARED = re.compile(rb"(\xef\xbb\xbf)?category,split,label,")  # how the `meta.csv` of a dataset begins


class FileChanged(BadImage):
    """The file at the path `file` has changed since its digest was taken."""


@dataclass(frozen=True)
class ImageFile:
    """name: the printable path in its folder. problem: why it is not opened, "left out" or "unreadable"."""

    name: str
    path: Path
    problem: BadImage | None = None


def find_files(folder: str | Path, other: Sequence[str | Path] = ()) -> tuple[list[ImageFile], Counter[str]]:
    """All files below a folder, sorted by name, and the numbers of skipped entries by reason.

    other: files and folders that are not images to score. Links that leave the folder, and links to folders,
    are not followed: a folder from elsewhere could point at anything. Raises OSError, ValueError."""
    folder, apart = Path(folder), {os.path.realpath(path) for path in other}
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}: correct the path")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: expected a folder of images")
    if (folder / "meta.csv").is_file() and PREPARED.match((folder / "meta.csv").read_bytes()):
        own = "<category>/test in it, with the labels `folders` and the masks <category>/ground_truth"
        raise ValueError(f"{folder} is a prepared dataset: give {own}")
    files, passed_over, waiting = [], Counter(), [folder]
    while waiting:
        current = waiting.pop()
        try:
            paths = list(current.iterdir())
        except OSError as error:
            if current == folder:
                raise type(error)(error.errno, f"cannot list the folder {folder}: {error.strerror}") from None
            problem = BadImage("unreadable", f"the folder cannot be listed: {error.strerror}")
            files.append(ImageFile(_name(current, folder) + "/", current, problem))
            continue
        for path in paths:
            if path.name.startswith("."):
                passed_over["hidden"] += 1
            elif os.path.realpath(path) in apart:
                passed_over["the references, masks or labels of this run"] += 1
            elif not path.is_dir() or path.is_symlink():
                files.append(ImageFile(_name(path, folder), path, _problem(path, folder)))
            elif is_result_folder(path):
                passed_over["the results of an earlier run"] += 1
            else:
                waiting.append(path)
    return sorted(files, key=lambda file: file.name), passed_over


def _problem(path: Path, folder: Path) -> BadImage | None:
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    if path.is_symlink() and not path.exists():
        return BadImage("unreadable", "a link to a file that does not exist")
    if path.is_symlink() and (path.is_dir() or not inside):
        what = "a link to a folder" if path.is_dir() else "a link that leaves the folder"
        return BadImage("left out", f"{what}: copy the original here")
    return None if path.is_file() else BadImage("left out", "no regular file")


def _name(path: Path, folder: Path) -> str:
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def is_result_folder(folder: Path) -> bool:
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8")).get("made_by") == MADE_BY
    except (OSError, ValueError, AttributeError):
        return False


def digest_of(path: Path) -> str:
    """SHA-256 of a file; raises BadImage when it cannot be opened."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise BadImage("unreadable", f"it cannot be opened: {error.strerror}") from None


def record_of(problem: BadImage) -> dict[str, str]:
    return {"status": problem.status, "error": problem.reason, "notes": ""}


class Tiles(NamedTuple):
    views: Tensor  # (t, v, 3, H, W) of t square tiles, view 0 the whole tile
    boxes: list[tuple[int, int, int, int]]
    size: tuple[int, int]  # the image's (height, width)


@dataclass(frozen=True)
class Reader:
    """How files are read and cut. whole: see `images.boxes_of`. bits: see `images.read_photo`."""

    whole: Whole = "tiles"
    bits: int = 16

    def photo(self, path: Path, digest: str) -> tuple[Image.Image, list[str]]:
        """As `images.read_photo`. Raises FileChanged if the file has another digest."""
        if digest_of(path) != digest:
            raise FileChanged("unreadable", "it changed while it was read", str(path))
        try:
            return read_photo(path, bits=self.bits)
        except OSError:
            raise FileChanged("unreadable", "it is gone", str(path)) from None

    def tiles(
        self, file: tuple[Path, str], image_size: tuple[int, int], transform: Callable, crops: bool | None
    ) -> tuple[Tiles | None, dict]:
        """The tiles of a file with that digest, None if it is no whole image, and its record (status, error
        and notes). image_size, transform: of an encoder. crops: as in `scorers.Scorer`."""
        try:
            image, notes = self.photo(*file)
        except FileChanged:
            raise
        except BadImage as problem:
            return None, record_of(problem)
        boxes = boxes_of(image.width, image.height, self.whole)
        zoom = ZOOM if crops else None
        views = torch.stack([*map(transform, inference_views(image, image_size, zoom, self.whole))])
        tiles = Tiles(views.unflatten(0, (len(boxes), -1)), boxes, (image.height, image.width))
        return tiles, {"status": "scored", "error": "", "notes": "; ".join(notes)}
