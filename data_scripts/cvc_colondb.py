"""CVC-ColonDB: frames of colonoscopies with outlined polyps, as a prepared folder.

    zsad prepare cvc_colondb --raw downloads/cvc_colondb --normal downloads/endotect_normal

All 380 frames of 574 x 500 pixels (W x H), each with a polyp; no normal test image. Category `colon`,
defect `polyp`. Image 380 is damaged at its source.

Only 346 of the 380 are different: 34 repeat another byte for byte, and in four groups of repeats the masks
differ. The papers keep them all, and so does this script; it says what it found.

AnomalyCLIP learns its prompts for medical images on these 380 with 163 normal images of the EndoTect
classification test set. `--normal DIR` adds the images in DIR as training images. Which 163 the authors
took is not established: choose 163 that show no finding. Without the option the set is whole as a test set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from data_scripts.folders import child, images_in
from data_scripts.layouts import add_labelled, add_pairs, by_stem, polyp_set
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Source, run
from zsad_core.cache import sha256_of
from zsad_core.images import read_mask

N_NORMAL = 163

SOURCE = Source(
    name="cvc_colondb",
    title="CVC-ColonDB",
    home="Computer Vision Center, Barcelona; by request, as others write",
    terms="Not established; treat it as for research only.",
    how="Polyp_DataSet.zip, about 556 MB, from "
    "https://figshare.com/articles/figure/Polyp_DataSet_zip/21221579 , or the TestDataset of the bundle "
    "around PraNet (327 MB), in which this set is whole. For --normal: the EndoTect classification test set, "
    "https://endotect.com .",
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    folder = polyp_set(root, "colondb")
    images, masks = child(folder, "images"), child(folder, "masks")
    add_pairs(images, masks, out, category="colon", defect="polyp", above=arguments.mask_above)
    for group in differing_masks(images, masks, arguments.mask_above):
        out.note(f"images {', '.join(group)} are one image, with masks that differ")
    if arguments.normal is None:
        out.note(
            f"no --normal: the {N_NORMAL} normal training images of AnomalyCLIP's medical set are missing"
        )
        return
    found = len(images_in(arguments.normal))
    if not found:
        raise FileNotFoundError(
            f"--normal {arguments.normal} holds no images: expected {N_NORMAL} normal ones"
        )
    if found != N_NORMAL:
        out.note(f"--normal holds {found} images, AnomalyCLIP used {N_NORMAL}")
    add_labelled(arguments.normal, out, category="colon", defect="good", split="train")
    out.note(f"training images from --normal: whether they are AnomalyCLIP's {N_NORMAL} is not established")


def differing_masks(images: Path, masks: Path, above: int) -> list[list[str]]:
    """Names in each group of byte-identical images whose masks are not all equal."""
    groups: dict[str, list[str]] = {}
    pictures, labels = by_stem(images_in(images)), by_stem(images_in(masks))
    for stem, path in pictures.items():
        groups.setdefault(sha256_of(path), []).append(stem)
    found = []
    for stems in groups.values():
        first, *others = (read_mask(labels[stem], above) for stem in stems)
        if not all(np.array_equal(first, other) for other in others):
            found.append([pictures[stem].name for stem in stems])
    return found


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--normal", type=Path, metavar="DIR", help=f"folder with the {N_NORMAL} normal training images"
    )


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__, options=options)
