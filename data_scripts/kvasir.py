"""Kvasir-SEG: images of the gut with outlined polyps, as a prepared folder.

    zsad prepare kvasir --raw downloads/kvasir --out data/kvasir

All 1000 images, 332 x 487 to 1920 x 1072 pixels, each with a polyp; no normal image. Category `colon`,
defect `polyp`. Some frames show a green inset.

The owners ship the masks as JPEG in RGB, with some 16 to 18 grey levels instead of two, so the threshold
matters: above 0 (the default, AnomalyCLIP's rule) marks an area 2 to 5 % larger than above 127. The bundle
that AnomalyCLIP's authors name (figshare 21221579, `Kvasir/images/`, `Kvasir/masks/`) has PNG files, whose
masks may be cleaner. The bundle around PraNet has only 100 of these images and is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import child
from data_scripts.layouts import add_pairs, polyp_set, refuse_reduced
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run

SOURCE = Source(
    name="kvasir",
    title="Kvasir-SEG",
    home="https://datasets.simula.no/kvasir-seg/",
    terms="Research and education only; commercial use needs a written permission; cite the paper. No form.",
    how="kvasir-seg.zip, about 46 MB, from the page above, or --fetch; or Polyp_DataSet.zip from "
    "https://figshare.com/articles/figure/Polyp_DataSet_zip/21221579 .",
    archives=(
        Archive(
            "kvasir-seg.zip",
            url="https://datasets.simula.no/downloads/kvasir-seg.zip",
            sha256="03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
        ),
    ),
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    folder = polyp_set(root, "kvasir")
    images, masks = child(folder, "images"), child(folder, "masks")
    refuse_reduced(images, reduced=100, total=1000)
    add_pairs(images, masks, out, category="colon", defect="polyp", above=arguments.mask_above)


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
