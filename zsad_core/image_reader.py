"""From a file to what a method needs of it, without the method: so that worker processes can do it ahead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from zsad_core.image_files import BadImage, Photo, read_photo
from zsad_core.views import Preprocessor, Whole, boxes_of, test_views


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
