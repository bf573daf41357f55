"""MPDD, six kinds of painted metal parts, as a prepared folder.

    zsad prepare mpdd --raw DIR --out data/mpdd

Layout: MPDD/<category>/{train/good, test/<defect>, ground_truth/<defect>}, masks called <image>_mask.png. The
defect folders are not called the same in all copies (`anomalous` or `flattening` for tubes), so every folder
but good counts as one.
"""

from __future__ import annotations

from data_scripts.mvtec import write
from data_scripts.source import Archive, Source, run

SOURCE = Source(
    name="mpdd",
    title="MPDD (Metal Parts Defect Detection)",
    home="https://github.com/stepanje/MPDD",
    terms="CC BY-NC-SA 4.0: no commercial use",
    how="follow the link in the README of the home page; it is reported to ask for an institutional login. A "
    "copy that is not the authors' is MPDD.zip with 1,825,041,283 bytes and the sha256 "
    "69f8da73eea4a31451a50251e5c261e83e0c53f2d1a39a7d4dfc78b5c434ddd6",
    archives=(Archive("MPDD.zip"),),
    categories={
        "bracket_black": (289, 32, 47),
        "bracket_brown": (185, 26, 51),
        "bracket_white": (110, 30, 30),
        "connector": (128, 30, 14),
        "metal_plate": (54, 26, 71),
        "tubes": (122, 32, 69),
    },
)


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
