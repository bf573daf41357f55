"""Br35H: slices of magnetic resonance scans of heads, as a prepared folder.

    zsad prepare br35h --raw downloads/br35h --out data/br35h

3000 images, 1500 normal (`no/`) and 1500 with a tumour (`yes/`), all of them test images with a label and
no mask. Category `brain`, defect `tumor`. One image in `no/` repeats another byte for byte. Some names
start with a capital (`No12.jpg`), and 13 files called .jpg are PNG.

Left out: `pred/`, 60 images without a label, and `Br35H-Mask-RCNN/`, 801 copies from `yes/` for another
task.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import folders_in
from data_scripts.layouts import add_yes_no
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Source, run

SOURCE = Source(
    name="br35h",
    title="Br35H :: Brain tumor detection 2020",
    home="https://www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection",
    terms="Not established. Kaggle asks for an account.",
    how="The archive from the page above, fetched with an account; its author keeps the same folders at "
    "https://github.com/AhmedHamada0/Brain-Tumor-Detection-Dataset .",
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    folder, *_ = add_yes_no(root, out, category="brain", defect="tumor")
    for other in folders_in(folder):
        if other.name.casefold() not in ("yes", "no"):
            out.note(f"{other.name}/ is left out: it is no part of the test set")


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
