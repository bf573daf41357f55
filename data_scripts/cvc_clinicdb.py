"""CVC-ClinicDB (CVC-612): frames of colonoscopies with outlined polyps, as a prepared folder.

    zsad prepare cvc_clinicdb --raw downloads/cvc_clinicdb --out data/cvc_clinicdb

All 612 frames of 384 x 288 pixels (W x H), each with a polyp; no normal image. Category `colon`, defect
`polyp`. Frames of one sequence are near duplicates.

Editions differ in their folders: `Original/` and `Ground Truth/` with 1.tif ...; the same twice, below
`PNG/` and `TIF/`, of which the first is taken; `CVC-ClinicDB/images/` and `masks/` of a bundle of polyp
sets (figshare 21221579), which AnomalyCLIP's authors name. The bundle around PraNet has only 62 of these
frames and is refused. The original archive is a RAR, in one public copy under a name with .zip.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import child, folders_with
from data_scripts.layouts import add_pairs, polyp_set, refuse_reduced
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Source, run

SOURCE = Source(
    name="cvc_clinicdb",
    title="CVC-ClinicDB (CVC-612)",
    home="https://polyp.grand-challenge.org/CVCClinicDB/",
    terms="Research and education only, no commercial use. Images (c) Hospital Clinic Barcelona, masks (c) "
    "Computer Vision Center. The home page asks for a registration.",
    how="The archive from the page above (a RAR: extract it by hand), or Polyp_DataSet.zip, about 556 MB, "
    "from https://figshare.com/articles/figure/Polyp_DataSet_zip/21221579 (which refuses some visitors).",
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    originals = folders_with(root, "original", "ground truth")
    folder = originals[0] if originals else polyp_set(root, "clinicdb")
    images, masks = child(folder, "original", "images"), child(folder, "ground truth", "masks")
    refuse_reduced(images, reduced=62, total=612)
    add_pairs(images, masks, out, category="colon", defect="polyp", above=arguments.mask_above)
    for other in originals[1:]:
        out.note(f"{other.relative_to(root)}/ is left out: {folder.relative_to(root)}/ is the edition taken")


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
