"""One image or mask file: what counts as readable, how it becomes pixels, and which parts of it are shown.

Prepared datasets, what they are made of, and photographs are read by one set of rules. A photograph is turned
as its EXIF data say. An image of a dataset is read as it is stored, as the papers' code does: the EXIF data
of ISIC 2016 are wrong, and its masks fit the stored image.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM", "JPEG2000")
"""What Pillow decodes by itself, by content; for others it starts programs (Ghostscript for EPS)."""
MAX_PIXELS = 100_000_000  # 300 MB in RGB: more than any camera that is not a line scanner
MAX_ASPECT = 40  # longer over shorter edge: 50 square tiles, which are encoded at once
CROPS = 5  # of a tile besides the whole tile: four corners and the centre
ZOOM = 274 / 240  # the shorter edge of a picture over that of its crops: the usual ratio, 1 / 0.875
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"GIF8", b"RIFF")

Whole = Literal["squash", "center_crop", "tiles"]


class BadImage(ValueError):
    """A file without an image that can be used. status: "unreadable" or "no image". reason: what was found,
    and what to do. file: its kind and name."""

    def __init__(self, status: str, reason: str, file: str = "") -> None:
        super().__init__(status, reason, file)  # all of them, or workers cannot send it
        self.status, self.reason, self.file = status, reason, file

    def __str__(self) -> str:
        return f"{self.file} cannot be read: {self.reason}" if self.file else self.reason


def read_image(path: str | Path) -> Image.Image:
    """An image of a dataset in RGB. Raises BadImage, or OSError if the file cannot be opened."""
    return read_photo(path, upright=False)[0]


def read_photo(path: str | Path, *, bits: int = 16, upright: bool = True) -> tuple[Image.Image, list[str]]:
    """The first picture in a file, in RGB, and notes on what was done to it; errors as in `read_image`.

    bits: how many of 16 bits the camera fills; nothing in a file says it. Never guessed, which would make a
        dark part as bright as others. upright: turned as the EXIF data say.
    """
    if not 9 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 9 to 16, the bits that a camera fills of 16")
    with _opened(path, "image") as file:
        image, notes = _first(file, upright)
        if image.mode.startswith("I"):
            image = _sixteen_bits(image, bits, notes)
        elif image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            notes.append("transparent parts laid over white")
        return to_rgb(image), notes


def read_mask(
    path: str | Path, above: int = 0, *, size: tuple[int, int] | None = None, upright: bool = False
) -> np.ndarray:
    """(H, W) bool, True (anomalous) where a mask is above `above`; errors as in `read_image`.

    One channel is taken as it is stored, a palette by its indices; colour becomes grey, without alpha; black
    and white becomes 0 and 255. above: 0 is AnomalyCLIP's rule, 127 half of white. size: the image's (W, H).
    """
    with _opened(path, "mask") as file:
        mask, _ = _first(file, upright)
        if size not in (None, mask.size):
            (w, h), (width, height) = mask.size, size
            found = f"it is {w} x {h} (W x H), its image {width} x {height}"
            raise BadImage("unreadable", f"{found}: expected equal sizes")
    if mask.mode == "1" or len(mask.getbands()) > 1:
        mask = mask.convert("RGB").convert("L")
    return np.asarray(mask) > above


def image_size(path: str | Path) -> tuple[int, int]:
    """(W, H) of an image of a dataset, from its header alone; errors as in `read_image`."""
    with _opened(path, "image") as file:
        return Image.open(file, formats=FORMATS).size


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from a PIL image of any mode: transparent parts over white, 16 bits scaled to 8 (PIL would cut them
    off at 255). Raises BadImage for floating point, whose range is not known."""
    if image.mode == "F":
        raise BadImage("unreadable", "floating point has no fixed range: scale to 0…255, save in 8 bits")
    if image.mode.startswith("I"):  # I;16 and its kin; I is how PIL holds 16 bits after some operations
        image = image.convert("I").point(lambda value: value * (1 / 257))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def inference_views(
    image: Image.Image, size: tuple[int, int], zoom: float | None = ZOOM, whole: Whole = "squash"
) -> list[Image.Image]:
    """The views of one image, pictures in RGB of an encoder's `image_size`, for its `transform`.

    View 0 is the whole image. Views 1 to 5 are the corners and the centre of the image enlarged so that its
    shorter edge is `zoom` times the encoder's; None: no crops. RWDA does not describe its crops; its Table 3
    counts 6 views (105.4G multiply-accumulates, 17.57G each), and this is the common scheme of that size.

    whole: how an image that is not square becomes view 0, which the paper does not say either. "squash"
        scales both edges. "center_crop" cuts the ends off for all views, as open_clip does. "tiles" gives
        each square tile its own views, tile after tile.
    """
    if size[0] != size[1]:
        raise ValueError(f"image_size={size}: expected a square, which crops and tiles assume")
    image, views = to_rgb(image), []
    for box in boxes_of(image.width, image.height, whole):
        picture = image.crop(box)
        views.append(picture.resize(size, Image.Resampling.BICUBIC))
        if zoom:
            views += _crops(picture, size[0], zoom)
    return views


def boxes_of(width: int, height: int, whole: Whole) -> list[tuple[int, int, int, int]]:
    """The parts of an image that an encoder sees, as (left, upper, right, lower) boxes; options above.

    Square tiles have the shorter edge's length s and lie evenly along the longer edge, at most 0.8 s apart
    (WinCLIP, supplement): n = ceil((longer - s) / (0.8 s)) + 1, rounded to whole pixels.

    >>> boxes_of(1500, 1000, "tiles")
    [(0, 0, 1000, 1000), (500, 0, 1500, 1000)]
    """
    if whole == "squash":
        return [(0, 0, width, height)]
    side, rest = min(width, height), abs(width - height)
    if whole == "center_crop":
        starts = [rest // 2]
    elif whole == "tiles":
        n_tiles = -(-rest * 5 // (side * 4)) + 1  # 0.8 s is not exact as a float and could add a tile
        starts = [round(i * rest / max(n_tiles - 1, 1)) for i in range(n_tiles)]
    else:
        raise ValueError(f"whole={whole!r}: expected 'squash', 'center_crop' or 'tiles'")
    if width >= height:
        return [(start, 0, start + side, side) for start in starts]
    return [(0, start, side, start + side) for start in starts]


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[BinaryIO]:
    """The open file; errors name it. Pillow's own limit of pixels and its warnings are off meanwhile."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with Path(path).open("rb") as file, warnings.catch_warnings(action="ignore"):
            Image.MAX_IMAGE_PIXELS = None
            try:
                yield file
            except Exception as error:  # decoders raise nearly anything for a broken file
                raise BadImage(*_reason(error, file), f"{kind} {path}") from error
    except FileNotFoundError:
        message = f"{kind} {path} does not exist; prepare the dataset again, or correct the path"
        raise FileNotFoundError(message) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reason(error: Exception, file: BinaryIO) -> tuple[str, str]:
    """The status and reason of BadImage, without the file's name."""
    if isinstance(error, BadImage):
        return error.status, error.reason
    file.seek(0)
    start = file.read(16)
    if not start:
        return "unreadable", "it is empty: copy or fetch it again"
    if start[4:8] == b"ftyp":
        return "no image", "HEIC, AVIF or video: save it as JPEG or PNG"
    if isinstance(error, UnidentifiedImageError) and not start.startswith(_MAGIC):
        return "no image", "no image in a format that is read here (JPEG, PNG, TIFF, BMP, WebP, GIF …)"
    said = str(error).split("<_io")[0].strip() or type(error).__name__
    return "unreadable", f"it is cut off or damaged ({said}): copy or fetch it again"


def _first(file: BinaryIO, upright: bool) -> tuple[Image.Image, list[str]]:
    """The first picture in its own mode, and what is to be said of it."""
    image = Image.open(file, formats=FORMATS)
    edges, frames, notes, advice = sorted(image.size), getattr(image, "n_frames", 1), [], ""
    if edges[0] * edges[1] > MAX_PIXELS:
        advice = f"more than {MAX_PIXELS:,}: scale it down"
    elif edges[1] > MAX_ASPECT * edges[0]:
        advice = f"one edge more than {MAX_ASPECT} times the other: cut it up"
    if advice:
        raise BadImage("unreadable", f"it has {image.width} x {image.height} pixels, {advice}")
    if frames > 1:
        notes.append(f"first of {frames} {'pages' if image.format == 'TIFF' else 'pictures'} in the file")
    turned = upright and _turned(image)
    if turned:
        notes.append("turned as its EXIF data say")
    if image.mode == "CMYK":
        notes.append("from CMYK, without its colour profile")
    image.load()  # Pillow always turns a TIFF here
    return ImageOps.exif_transpose(image) if turned else image, notes


def _turned(image: Image.Image) -> bool:
    """Whether the EXIF data say so; damaged ones are no reason to lose the picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except Exception:
        return False


def _sixteen_bits(image: Image.Image, bits: int, notes: list[str]) -> Image.Image:
    """The range that the camera fills stretched to all 16 bits; `to_rgb` makes 8 of them."""
    image, full = image.convert("I"), 2**bits - 1
    low, high = image.getextrema()
    if low < 0 or high > 65535:
        found = f"its values go from {low} to {high}"
        raise BadImage("unreadable", f"{found}: scale them to 0…65535, 16 bits, and save again")
    notes.append(f"{bits} bits scaled to 8")
    if high > full:
        notes.append(f"values up to {high}, those above {full} are cut off")
    elif high - low < full / 8:
        used = f"only the values {low} to {high} of 0 to {full} are used, so there is little contrast"
        hint = f"; is it from a camera of {max(9, high.bit_length())} bits?" if high < full / 2 else ""
        notes.append(used + hint)
    return image if bits == 16 else image.point(lambda value: value * (65535 / full))


def _crops(picture: Image.Image, size: int, zoom: float) -> list[Image.Image]:
    """Four corners and the centre, size x size, of the picture with shorter edge round(zoom * size)."""
    scale = round(zoom * size) / min(picture.size)
    width, height = (round(edge * scale) for edge in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    right, lower = width - size, height - size
    corners = [(0, 0), (right, 0), (0, lower), (right, lower), (round(right / 2), round(lower / 2))]
    return [resized.crop((left, upper, left + size, upper + size)) for left, upper in corners]
