"""EndoTect 2020, segmentation task: images of the gut with outlined polyps, as a prepared folder.

    zsad prepare endo --raw downloads/endo --out data/endo

The 200 images of the test set, of different sizes, each with a polyp; no normal image. Category `colon`,
defect `polyp`. Images are JPEG, masks PNG of the same stem. A folder `bbox/` beside them, in some copies,
is left out. The development data of the challenge are another set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import child
from data_scripts.layouts import add_pairs, polyp_set
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Source, run

SOURCE = Source(
    name="endo",
    title="EndoTect 2020, segmentation test set",
    home="https://endotect.com",
    terms="Not established for the test set. The development data (HyperKvasir) are CC BY 4.0.",
    how="The folder EndoTect_2020_Segmentation_Test_Dataset, which AnomalyCLIP's authors link: "
    "https://drive.google.com/file/d/1LNpLkv5ZlEUzr_RPN5rdOHaqk0SkZa3m (fetch it in a browser).",
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    folder = polyp_set(root, "endotect")
    images, masks = child(folder, "images"), child(folder, "masks")
    add_pairs(images, masks, out, category="colon", defect="polyp", above=arguments.mask_above)


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
