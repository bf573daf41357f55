"""DTD-Synthetic, twelve textures with drawn-in defects, as a prepared folder.

    zsad prepare dtd_synthetic --raw DIR --out data/dtd_synthetic

Layout: DTD-Synthetic/<category>/{train/good, test/good, test/<defect>, ground_truth/<defect>}. Masks are
called <image>_mask.png in some copies and as their image in others. Some copies write the categories in lower
case: they get their own names back, because prompts name them.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from data_scripts.folders import child, find_root, folders_in
from data_scripts.layouts import add_mvtec_layout
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run

CATEGORIES = (
    "Blotchy_099",
    "Fibrous_183",
    "Marbled_078",
    "Matted_069",
    "Mesh_114",
    "Perforated_037",
    "Stratified_154",
    "Woven_001",
    "Woven_068",
    "Woven_104",
    "Woven_125",
    "Woven_127",
)

SOURCE = Source(
    name="dtd_synthetic",
    title="DTD-Synthetic",
    home="https://drive.google.com/drive/folders/10OyPzvI3H6llCZBxKxFlKWt1Pw1tkMK1",
    terms="licence not established; made of the Describable Textures Dataset: take it as for research only",
    how="fetch the folder of the home page by hand (a page of Google Drive, code and data together)",
    archives=(Archive("DTD-Synthetic.zip"),),
    categories=dict.fromkeys(CATEGORIES, (None, None, None)),  # only the totals are published
)


def write(root: Path, out: PreparedFolder, arguments: Namespace) -> None:
    """Adds every category below `root`."""
    names = {name.casefold(): name for name in CATEGORIES}
    for folder in folders_in(find_root(root, "*/test/good")):
        if child(folder, "test"):
            category = names.get(folder.name.casefold(), folder.name)
            add_mvtec_layout(folder, out, category=category, above=arguments.mask_above)


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
