"""Image and mask files, read by one set of rules: prepared datasets, what they are made of, and photographs.

16 bits become 8, transparency is laid over white, and only the first picture of a file counts. A photograph
is turned as its EXIF data say. An image of a dataset is read as it is stored, as the papers' code does: the
EXIF data of ISIC 2016 are wrong, and its masks fit the stored image.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000")
"""What Pillow decodes by itself, by content; for others it starts programs (Ghostscript for EPS)."""
MAX_PIXELS = 100_000_000
"""300 MB in RGB: more than any camera that is not a line scanner, less than a laptop's memory."""
MAX_ASPECT = 40
"""Longer over shorter edge; 50 square tiles, which are encoded at once."""

_MAGIC = (b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"GIF8", b"RIFF")
_SMALL_PART = 1 / 8  # of the range, below which an image of 16 bits is dark or flat


class BadImage(ValueError):
    """A file without an image that can be used.

    status: "unreadable" or "no image". reason: what was found and what to do, without the file's name.
    """

    def __init__(self, status: str, reason: str, file: str = "") -> None:
        super().__init__(status, reason, file)  # all of them, or workers cannot send it
        self.status, self.reason, self.file = status, reason, file

    def __str__(self) -> str:
        return f"{self.file} cannot be read: {self.reason}" if self.file else self.reason


class Photo(NamedTuple):
    """An RGB image, and what was done to it."""

    image: Image.Image
    notes: tuple[str, ...]


def read_image(path: str | Path) -> Image.Image:
    """An image of a dataset in RGB. Raises BadImage naming the file, or OSError if it cannot be opened."""
    with _opened(path, "image") as file:
        return read_photo(file, upright=False).image


def read_mask(path: str | Path, above: int = 0, *, upright: bool = False) -> np.ndarray:
    """(H, W) bool, True (anomalous) where a mask is above `above`; errors as in `read_image`.

    One channel is taken as it is stored, so a palette counts by its indices, not by its colours. Black and
    white becomes 0 and 255. Colour becomes grey; transparency does not count. above: 0 is AnomalyCLIP's rule,
    127 is half of white. upright: as in `read_photo`.
    """
    with _opened(path, "mask") as file:
        mask, _ = _first(file, MAX_PIXELS, upright)
    if mask.mode == "1":
        mask = mask.convert("L")
    elif len(mask.getbands()) > 1:
        mask = mask.convert("RGB").convert("L")
    return np.asarray(mask) > above


def image_size(path: str | Path) -> tuple[int, int]:
    """(W, H) of an image of a dataset, from its header alone; errors as in `read_image`."""
    with _opened(path, "image") as file, _decoding(file):
        return Image.open(file, formats=FORMATS).size


def read_photo(
    file: BinaryIO, *, bits: int = 16, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Photo:
    """The first picture in an open file, in RGB.

    bits: how many bits of a 16-bit file the camera fills. Nothing in a file says it: a 12-bit camera needs
        12, or its pictures are nearly black. Never guessed from one picture: a dark part would come out as
        bright as a bright one.
    max_pixels: larger pictures are refused before they are decoded. upright: turned as the EXIF data say.
    Raises BadImage, which names no file, for anything that is not a whole image.
    """
    if not 9 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 9 to 16, the bits that a camera fills of 16")
    image, notes = _first(file, max_pixels, upright)
    if image.mode.startswith("I"):
        image = _sixteen_bits(image, bits, notes)
    elif image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        notes.append("transparent parts laid over white")
    try:
        return Photo(to_rgb(image), tuple(notes))
    except ValueError as error:  # floating point, or a colour space that Pillow cannot convert
        raise BadImage("unreadable", str(error)) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from a PIL image of any mode.

    Transparent parts are laid over white, as an image viewer shows them. 16-bit greyscale is scaled to 8 bits
    (PIL would cut it off at 255). Palettes are looked up before any resizing. Floating-point images raise
    ValueError: their range is not known.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError(
            "a floating-point image has no fixed range; scale it to 0..255 and convert it to 'L'"
        )
    if image.mode.startswith("I"):  # I;16 and its kin; I is how PIL holds 16 bits after some operations
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[BinaryIO]:
    """The open file; errors name it."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError:
        message = f"{kind} {path} does not exist; prepare the dataset again, or correct the path"
        raise FileNotFoundError(message) from None
    except BadImage as error:
        raise BadImage(error.status, error.reason, f"{kind} {path}") from error


@contextmanager
def _decoding(file: BinaryIO) -> Iterator[None]:
    """Decoders raise nearly anything for a broken file: it becomes BadImage.

    Pillow's own limit of pixels and its warnings of odd metadata are off meanwhile.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise _unidentified(file) from None
    except Exception as error:
        said = str(error).split("<_io")[0].strip() or type(error).__name__  # without the file's name
        raise BadImage("unreadable", f"it is cut off or damaged ({said}): copy or fetch it again") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _first(file: BinaryIO, max_pixels: int, upright: bool) -> tuple[Image.Image, list[str]]:
    """The first picture in its own mode, and what is to be said of it."""
    with _decoding(file):
        image = Image.open(file, formats=FORMATS)
        _check_size(*image.size, max_pixels)
        notes, frames = [], getattr(image, "n_frames", 1)
        if frames > 1:
            pages = "pages" if image.format == "TIFF" else "pictures"
            notes.append(f"first of {frames} {pages} in the file")
        if upright and _turned(image):
            notes.append("turned as its EXIF data say")
        if image.mode == "CMYK":
            notes.append("from CMYK, without its colour profile")
        image.load()  # Pillow always turns a TIFF here
        return ImageOps.exif_transpose(image) if upright and _turned(image) else image, notes


def _turned(image: Image.Image) -> bool:
    """Whether the EXIF data say so; damaged ones are no reason to lose the picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except Exception:
        return False


def _sixteen_bits(image: Image.Image, bits: int, notes: list[str]) -> Image.Image:
    """The range that the camera fills stretched to all 16 bits; `to_rgb` makes 8 of them."""
    image = image.convert("I")
    low, high = image.getextrema()
    if low < 0 or high > 65535:
        reason = f"its values go from {low} to {high}: scale them to 0…65535, 16 bits, and save again"
        raise BadImage("unreadable", reason)
    full = 2**bits - 1
    notes.append(f"{bits} bits scaled to 8")
    if high > full:
        notes.append(f"values up to {high}, those above {full} are cut off")
    elif high - low < _SMALL_PART * full:
        hint = f"; is it from a camera of {max(9, high.bit_length())} bits?" if high < full / 2 else ""
        used = f"only the values {low} to {high} of 0 to {full} are used"
        notes.append(f"{used}, so there is little contrast{hint}")
    return image if bits == 16 else image.point(lambda value: value * (65535 / full))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    advice = None
    if width * height > max_pixels:
        advice = f"more than {max_pixels:,}: scale it down, or raise max_pixels"
    elif max(width, height) > MAX_ASPECT * min(width, height):
        advice = f"one edge more than {MAX_ASPECT} times the other: cut it up"
    if advice:
        raise BadImage("unreadable", f"it has {width} x {height} pixels, {advice}")


def _unidentified(file: BinaryIO) -> BadImage:
    file.seek(0)
    start = file.read(16)
    if not start:
        return BadImage("unreadable", "it is empty: copy or fetch it again")
    if start[4:8] == b"ftyp":
        return BadImage("no image", "HEIC, AVIF or video: save it as JPEG or PNG")
    if start.startswith(_MAGIC):
        return BadImage("unreadable", "it begins like an image and is cut off or damaged: fetch it again")
    return BadImage("no image", "no image in a format that is read here (JPEG, PNG, TIFF, BMP, WebP, GIF …)")
