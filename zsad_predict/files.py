"""Images as people have them: every file below a folder accounted for, and what is odd about it noted.

`datasets.read_image` reads what a script has prepared and refuses the rest. Here a photograph is turned as
its EXIF data says, 16 bits become 8, transparency is laid over white, and each of these is noted.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from zsad_core.datasets import anomalous_pixels
from zsad_core.views import Preprocessor, Whole, boxes_of, test_views, to_rgb

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000")
"""What Pillow decodes by itself; others start programs (EPS) or are rarely photographs."""
MAX_PIXELS = 100_000_000
"""300 MB in RGB: more than any camera that is not a line scanner, less than a laptop's memory."""
MAX_ASPECT = 40
"""Longer over shorter edge; 50 square tiles, which are encoded at once."""
MADE_BY = "zsad_predict"
"""In the `run.json` of a folder of results, which is never read as a folder of images."""

_ORIENTATION = 274  # the EXIF tag
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"GIF8", b"RIFF")
_SMALL_PART = 1 / 8  # of the range, below which an image of 16 bits is dark or flat


class BadImage(ValueError):
    """Why an image has no score. status: "unreadable" or "no image". The message names no file."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


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


@dataclass(frozen=True)
class Photo:
    """An upright RGB image, and what was done to it."""

    image: Image.Image
    notes: tuple[str, ...] = ()


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


def read_photo(
    path: str | Path, *, digest: str | None = None, bits: int = 16, max_pixels: int = MAX_PIXELS
) -> Photo:
    """The first picture in a file, upright, in RGB.

    digest: SHA-256 that the file must have; FileChanged is raised if it has another one.
    bits: how many bits of a 16-bit file the camera fills. 16 by default, since nothing in a file tells; 12
        for a 12-bit camera, whose pictures are nearly black otherwise. Never guessed from one picture: a dark
        part would come out as bright as a bright one.
    max_pixels: larger pictures are refused before they are decoded.
    Raises BadImage for anything that is not a whole image.
    """
    if not 9 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 9 to 16, the bits that a camera fills of 16")
    try:
        with Path(path).open("rb") as file:
            if digest is not None and hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise FileChanged(str(path))
            file.seek(0)
            return _decode(file, bits, max_pixels)
    except (BadImage, FileChanged):
        raise
    except OSError as error:
        raise BadImage("unreadable", f"it cannot be opened: {error.strerror or error}") from None


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool, True where a mask is not black, or its index not 0 if it has a palette; transparency does
    not count. Raises BadImage."""
    try:
        with Path(path).open("rb") as file, _pillow_without_limits():
            image = _first(file, MAX_PIXELS, [])
    except OSError as error:
        raise BadImage("unreadable", f"it cannot be opened: {error.strerror or error}") from None
    return anomalous_pixels(image)


def _decode(file: BinaryIO, bits: int, max_pixels: int) -> Photo:
    notes: list[str] = []
    with _pillow_without_limits():
        image = _first(file, max_pixels, notes)
        if image.mode.startswith("I"):
            image = _eight_bits(image, bits, notes)
        elif image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            notes.append("transparent parts laid over white")
        try:
            return Photo(to_rgb(image), tuple(notes))
        except ValueError as error:  # floating point, or a colour space that Pillow cannot convert
            raise BadImage("unreadable", str(error)) from None


def _first(file: BinaryIO, max_pixels: int, notes: list[str]) -> Image.Image:
    """The first picture, decoded and upright."""
    try:
        image = Image.open(file, formats=FORMATS)
        _check_size(*image.size, max_pixels)
        notes += _notes(image)
        image.load()
        return ImageOps.exif_transpose(image)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise _unidentified(file) from None
    except Exception as error:  # decoders raise nearly anything for a broken file
        raise BadImage("unreadable", f"it is cut off or damaged ({_reason(error)})") from None


def _notes(image: Image.Image) -> Iterator[str]:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        yield f"first of {frames} {'pages' if image.format == 'TIFF' else 'pictures'} in the file"
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF data are no reason to lose the picture
        turned = False
    if turned:
        yield "turned as its EXIF data say"
    if image.mode == "CMYK":
        yield "from CMYK, without its colour profile"


def _eight_bits(image: Image.Image, bits: int, notes: list[str]) -> Image.Image:
    """16 bits with the range that the camera fills stretched to all 16; `to_rgb` makes 8 of them."""
    image = image.convert("I")
    low, high = image.getextrema()
    if low < 0 or high > 65535:
        raise BadImage(
            "unreadable",
            f"its values go from {low} to {high}: scale them to 0…65535, 16 bits, and save again",
        )
    full = 2**bits - 1
    notes.append(f"{bits} bits scaled to 8")
    if high > full:
        notes.append(f"values up to {high}, those above {full} are cut off")
    elif high - low < _SMALL_PART * full:
        hint = f"; is it from a camera of {max(9, high.bit_length())} bits?" if high < full / 2 else ""
        notes.append(
            f"only the values {low} to {high} of 0 to {full} are used, so there is little contrast{hint}"
        )
    return image if bits == 16 else image.point(lambda value: value * (65535 / full))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage(
            "unreadable",
            f"it has {width} x {height} pixels, more than {max_pixels:,}: scale it down, or raise max_pixels",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(
            "unreadable",
            f"it has {width} x {height} pixels, one edge more than {MAX_ASPECT} times the other: cut it up",
        )


def _unidentified(file: BinaryIO) -> BadImage:
    file.seek(0)
    start = file.read(16)
    if not start:
        return BadImage("unreadable", "it is empty")
    if start[4:8] == b"ftyp":
        return BadImage("no image", "HEIC, AVIF or video: save it as JPEG or PNG")
    if start.startswith(_MAGIC):
        return BadImage("unreadable", "it begins like an image and is cut off or damaged")
    return BadImage("no image", "no image in a format that is read here (JPEG, PNG, TIFF, BMP, WebP, GIF …)")


def _reason(error: Exception) -> str:
    """What a decoder says, without the name of the file: the reason is kept under the file's content."""
    text = str(error).split("<_io")[0].strip()
    return text or type(error).__name__


@contextmanager
def _pillow_without_limits() -> Iterator[None]:
    """Pillow warns of large images and odd metadata; size is checked here, by a limit that one can give."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


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
    """How files are opened and cut; the options are those of `image_files.read_photo` and of `views`."""

    whole: Whole
    bits: int
    max_pixels: int

    def photo(self, path: Path, digest: str | None = None) -> Photo:
        return read_photo(path, digest=digest, bits=self.bits, max_pixels=self.max_pixels)

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
