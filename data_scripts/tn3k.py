"""TN3K: ultrasound images of thyroid nodules, outlined, as a prepared folder.

    zsad prepare tn3k --raw downloads/tn3k --out data/tn3k

The 614 test images, of hundreds of sizes, each with a nodule; no normal image (`label4test.csv` of some
copies says benign or malignant, and benign is not normal). Category `thyroid`, defect `nodule`.

The masks are JPEG with 18 to 29 grey levels, so the threshold decides how large a nodule is. Three are in
use: above 0 (the default, AnomalyCLIP's), above 127 (half), and above 254 (only 255: what the authors' own
reader does). Against 127, the first enlarges a nodule by 10 % in the median, a small one by up to 116 %.
Choose with --mask-above.

The 2879 images of `trainval-image/` have nodules as well. They are no normal training images, so they are
left out, and with them the files of the folds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import child, find_root
from data_scripts.layouts import add_pairs
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run

SOURCE = Source(
    name="tn3k",
    title="TN3K thyroid nodules, test part",
    home="https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation",
    terms="The repository is MIT for its code and calls the data open access; a licence of the data is not "
    "established.",
    how="The zip that the README links: https://drive.google.com/file/d/1reHyY5eTZ5uePXMVMzFOq5j3eFOSp50F "
    "(fetch it in a browser). The parts in the repository's picture/ are RAR archives: extract them by hand.",
    archives=(
        # the file's own name is not known: this is its folder's
        Archive(
            "Thyroid Dataset.zip",
            sha256="0ba1770076dab01b1f8fd661a227d80982168bc433de61c80fd266427b20cf60",
        ),
    ),
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    folder = find_root(root, "test-mask")
    add_pairs(
        child(folder, "test-image") or folder / "test-image",
        child(folder, "test-mask"),
        out,
        category="thyroid",
        defect="nodule",
        above=arguments.mask_above,
    )
    if child(folder, "trainval-image"):
        out.note("trainval-image/ is left out: its images have nodules, too")


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
