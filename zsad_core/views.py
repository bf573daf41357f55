"""Inference views of an image: RWDA's multi-crop, WinCLIP's square tiles, or the single whole image."""

from collections.abc import Callable
from typing import Literal

import torch
from PIL import Image

from zsad_core.images import to_rgb

Whole = Literal["squash", "center_crop", "tiles"]

CROPS = 5  # of a tile besides the whole tile: four corners and the centre
ZOOM = 274 / 240  # the shorter edge of a picture over that of its crops: the usual ratio, 1 / 0.875


def inference_views(
    image: Image.Image,
    image_size: tuple[int, int],
    transform: Callable[[Image.Image], torch.Tensor],
    zoom: float | None = ZOOM,
    whole: Whole = "squash",
) -> torch.Tensor:
    """The views of one image (n_views, 3, H, W), for an encoder with these `image_size` and `transform`.

    View 0 is the whole image. Views 1 to 5 are the corners and the centre of the image enlarged so that its
    shorter edge is `zoom` times the encoder's; None: no crops. RWDA does not describe its crops; its Table 3
    counts 6 views (105.4G multiply-accumulates, 17.57G each), and this is the common scheme of that size.

    whole: how an image that is not square becomes view 0, which the paper does not say either. "squash"
        scales both edges. "center_crop" cuts the ends off for all views, as open_clip does. "tiles" gives
        each square tile its own views, tile after tile.
    """
    if image_size[0] != image_size[1]:
        raise ValueError(f"image_size={image_size}: expected a square, which crops and tiles assume")
    image, views = to_rgb(image), []
    for box in boxes_of(image.width, image.height, whole):
        picture = image.crop(box)
        views.append(picture.resize(image_size, Image.Resampling.BICUBIC))
        if zoom:
            views += _crops(picture, image_size[0], zoom)
    return torch.stack([transform(view) for view in views])


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


def _crops(picture: Image.Image, size: int, zoom: float) -> list[Image.Image]:
    """Four corners and the centre, size x size, of the picture with shorter edge round(zoom * size)."""
    scale = round(zoom * size) / min(picture.size)
    width, height = (round(edge * scale) for edge in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    right, lower = width - size, height - size
    corners = [(0, 0), (right, 0), (0, lower), (right, lower), (round(right / 2), round(lower / 2))]
    return [resized.crop((left, upper, left + size, upper + size)) for left, upper in corners]
