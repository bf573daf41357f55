"""ISIC 2016, task 1: outlines of skin lesions, as a prepared folder.

    zsad prepare isic --raw downloads/isic --out data/isic

The test part of the challenge: 379 photographs of very different sizes, each with a lesion and its mask.
There is no normal image, so nothing is defined on the level of images. Category `skin`, defect `lesion`.

The images are taken as they are stored: the challenge warns that their EXIF orientation is not reliable,
and the masks do not follow it. A CSV of the same name as the masks' folder belongs to the classification
task and has no outlines. The layout of AnomalyCLIP's copy (`ISBI/skin/...`) is read, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from data_scripts.folders import find_root, images_in
from data_scripts.layouts import add_pairs
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run

IMAGES, MASKS = "ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"
DEPTH = 6
"""AnomalyCLIP's copy has the images four folders deep, below the one that its archive is unpacked to."""

_URL = "https://isic-challenge-data.s3.amazonaws.com/2016"

SOURCE = Source(
    name="isic",
    title="ISIC 2016, task 1 (lesion segmentation), test part",
    home="https://challenge.isic-archive.com/data/#2016",
    terms="CC0 according to an index of datasets; not established beyond that. No form.",
    how=f"{IMAGES}.zip and {MASKS}.zip from the page above, or --fetch.",
    archives=tuple(Archive(f"{name}.zip", f"{_URL}/{name}.zip") for name in (IMAGES, MASKS)),
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    images = find_root(root, called(IMAGES), DEPTH)
    try:
        masks = find_root(root, called(MASKS), DEPTH)
    except FileNotFoundError as error:
        if any(root.rglob(f"{MASKS}.csv")):
            raise FileNotFoundError(
                f"{error}. {MASKS}.csv belongs to the classification task and has no outlines: fetch "
                f"{MASKS}.zip"
            ) from None
        raise
    add_pairs(
        images,
        masks,
        out,
        category="skin",
        defect="lesion",
        mask_suffix="_segmentation",
        above=arguments.mask_above,
    )


def called(name: str) -> Callable[[Path], bool]:
    """A marker for `find_root`: the folder of this name that holds the files themselves. Unpacked from an
    archive of this name, it lies in another one that is called so, too."""

    def fits(folder: Path) -> bool:
        return folder.name.casefold() == name.casefold() and bool(images_in(folder))

    fits.__doc__ = f"a folder {name} with images"
    return fits


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
