"""BrainMRI: slices of magnetic resonance scans of heads, as a prepared folder.

    zsad prepare brainmri --raw downloads/brainmri --out data/brainmri

253 images, 98 normal (`no/`) and 155 with a tumour (`yes/`), all of them test images with a label and no
mask. Category `brain`, defect `tumor`. 25 repeat another byte for byte; the papers keep them.

The archive has the images twice, in `yes/`, `no/` and again below `brain_tumor_dataset/`: one tree is
taken. Names have blanks and a dozen patterns; they are kept. Some files called .jpg are PNG, some have a
palette or an alpha channel: the reader decides by content and converts to RGB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import child, images_in
from data_scripts.layouts import add_yes_no
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Source, run

SOURCE = Source(
    name="brainmri",
    title="Brain MRI images for brain tumor detection",
    home="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
    terms="Not established. Kaggle asks for an account.",
    how="The archive from the page above (yes/, no/ and brain_tumor_dataset/), fetched with an account.",
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    taken, *again = add_yes_no(root, out, category="brain", defect="tumor")
    for folder in again:
        same = all(names(folder, side) == names(taken, side) for side in ("yes", "no"))
        shown = folder.relative_to(root)
        out.note(
            f"{shown}/ is left out: "
            + ("it has the same images again" if same else "it has yes/ and no/ again, with OTHER file names")
        )


def names(folder: Path, side: str) -> list[str]:
    return [path.name for path in images_in(child(folder, side))]


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
