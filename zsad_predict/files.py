"""The files below a user's folder: all of them listed, read unless they have changed, and cut into tiles."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from zsad_core.images import BadImage, read_photo
from zsad_core.views import Whole, boxes_of, inference_views

MADE_BY = "zsad_predict"
"""In the `run.json` of a folder of results, which is never read as a folder of images."""
EARLIER = ("zsad_core.score",)
"""What earlier versions wrote there."""

Model = tuple[tuple[int, int], Callable[[Image.Image], Tensor]]
"""`image_size` and `transform` of an encoder."""


class FileChanged(Exception):
    """The file is no longer the one that its digest was taken of."""


@dataclass(frozen=True)
class ImageFile:
    """A file below a folder. name: its printable path there, with forward slashes. status, error: set when it
    is not to be opened, "left out" or "unreadable"."""

    name: str
    path: Path
    status: str = ""
    error: str = ""


class Listing(NamedTuple):
    """Files sorted by name, and how many entries were passed over, by reason."""

    files: list[ImageFile]
    passed_over: Counter[str]


def find_files(folder: str | Path, other: Sequence[str | Path] = ()) -> Listing:
    """All files below a folder. other: files and folders that are not images to score.

    Links that leave the folder, and links to folders, are not followed: a folder from elsewhere could point
    at anything. Raises FileNotFoundError, NotADirectoryError, and PermissionError when the folder itself
    cannot be listed; a folder further down that cannot becomes a file with an error.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}: correct the path")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: expected a folder of images")
    apart = {os.path.realpath(path) for path in other}
    files, passed_over, waiting = [], Counter(), [folder]
    while waiting:
        current = waiting.pop()
        try:
            paths = list(current.iterdir())
        except OSError as error:
            if current == folder:
                raise type(error)(error.errno, f"cannot list the folder {folder}: {error.strerror}") from None
            reason = f"the folder cannot be listed: {error.strerror}"
            files.append(ImageFile(_name(current, folder) + "/", current, "unreadable", reason))
            continue
        for path in paths:
            if path.name.startswith("."):
                passed_over["hidden"] += 1
            elif os.path.realpath(path) in apart:
                passed_over["the references, masks or labels of this run"] += 1
            elif not path.is_dir() or path.is_symlink():
                files.append(ImageFile(_name(path, folder), path, *_problem(path, folder)))
            elif is_result_folder(path):
                passed_over["the results of an earlier run"] += 1
            else:
                waiting.append(path)
    return Listing(sorted(files, key=lambda file: file.name), passed_over)


def _problem(path: Path, folder: Path) -> tuple[str, str]:
    """status and error of a file that is not to be opened; of any other, two empty strings."""
    if path.is_symlink() and not path.exists():
        return "unreadable", "a link to a file that does not exist"
    if path.is_symlink() and path.is_dir():
        return "left out", "a link to a folder: copy the folder itself here"
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        return "left out", "a link that leaves the folder: copy the file itself here"
    return ("", "") if path.is_file() else ("left out", "no regular file")


def _name(path: Path, folder: Path) -> str:
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def is_result_folder(folder: Path) -> bool:
    """Whether a run of this version or an earlier one has written it."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return facts.get("made_by") in (MADE_BY, *EARLIER)
    except (OSError, ValueError, AttributeError):
        return False


def digest_of(path: Path) -> str:
    """SHA-256 of a file; raises BadImage when it cannot be opened."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadImage("unreadable", f"it cannot be opened: {error.strerror}") from None


class Tiles(NamedTuple):
    """An image as square tiles: pixels (t, 3, H, W), views (t v, 3, H, W) or None, boxes in it, (height,
    width)."""

    tiles: Tensor
    views: Tensor | None
    boxes: list[tuple[int, int, int, int]]
    size: tuple[int, int]


@dataclass(frozen=True)
class Reader:
    """How files are read and cut. whole: see `views.boxes_of`. bits: see `images.read_photo`."""

    whole: Whole = "tiles"
    bits: int = 16

    def photo(self, path: Path, digest: str) -> tuple[Image.Image, list[str]]:
        """As `images.read_photo`. Raises FileChanged if the file has another digest, BadImage if it is no
        whole image."""
        if digest_of(path) != digest:
            raise FileChanged(str(path))
        try:
            return read_photo(path, bits=self.bits)
        except OSError:  # it is gone, just now
            raise FileChanged(str(path)) from None

    def cut(self, image: Image.Image, model: Model, crops: bool | None) -> Tiles:
        """What a method with this model needs of an RGB image; `crops` as in `scorers.Scorer`."""
        views_of = partial(inference_views, image, *model, whole=self.whole)
        boxes = boxes_of(image.width, image.height, self.whole)
        views = None if crops is None else views_of(crops)
        return Tiles(views_of(False), views, boxes, (image.height, image.width))


def read_tiles(
    file: tuple[Path, str], reader: Reader, model: Model, crops: bool | None
) -> tuple[Tiles | None, dict]:
    """The tiles of a file with that digest, None if it is no whole image, and its record (status, error and
    notes). Raises FileChanged."""
    try:
        image, notes = reader.photo(*file)
    except BadImage as error:
        return None, {"status": error.status, "error": error.reason, "notes": []}
    return reader.cut(image, model, crops), {"status": "scored", "error": "", "notes": notes}
