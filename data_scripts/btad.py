"""BTAD (beanTech), three industrial products, as a prepared folder.

    zsad prepare btad --raw DIR --out data/btad

Layout: BTech_Dataset_transformed/{01,02,03}/{train/ok, test/ok, test/ko, ground_truth/ko}; a mask has the
stem of its image, without suffix. Extensions of image and mask: 01 bmp and png, 02 png and png, 03 bmp and
bmp; copies with everything as png are read as well. Numbers have gaps. Some masks hold no pixel at 255, so
that a rule such as "equal to 255" would lose the defect: anomalous is what is above 0.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from data_scripts.folders import find_root
from data_scripts.layouts import add_mvtec_layout
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run

SOURCE = Source(
    name="btad",
    title="BTAD (beanTech Anomaly Detection)",
    home="https://github.com/pankajmishra000/VT-ADL",
    terms="CC BY-SA 4.0, as the authors' README says; no form",
    how="fetch btad.zip (1.2 GB), or let --fetch do it",
    archives=(
        Archive(
            "btad.zip",
            url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
            sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
            md5="c1fa4d56ac50dd50908ce04e81037a8e",
            bytes=1_229_193_337,
        ),
    ),
    # the files; the paper swaps the training images of products 2 and 3
    categories={"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)},
)


def write(root: Path, out: PreparedFolder, arguments: Namespace) -> None:
    """Adds the three products below `root`."""
    add_mvtec_layout(find_root(root, "0[1-3]/test/ok"), out, mask_suffixes=("",), above=arguments.mask_above)


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
