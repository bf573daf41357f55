"""MVTec AD, 15 categories of parts and textures, as a prepared folder.

    zsad prepare mvtec --raw DIR --out data/mvtec

Layout: <category>/{train/good, test/<defect>, ground_truth/<defect>}, masks called <image>_mask.png. The
archive has no outer folder, some copies have one. Text files lie beside the folders, and image names repeat
in every one of them. grid, screw and zipper are single-channel; they are linked as they are, the loader makes
them RGB.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from data_scripts.folders import find_root
from data_scripts.layouts import add_mvtec_layout
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run

SOURCE = Source(
    name="mvtec",
    title="MVTec AD",
    home="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    terms="CC BY-NC-SA 4.0: no commercial use. The download page asks for your consent in a form first",
    how="fill in the form on the home page, fetch mvtec_anomaly_detection.tar.xz (5 GB), give its folder",
    archives=(
        Archive(
            "mvtec_anomaly_detection.tar.xz",
            sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
            md5="eefca59f2cede9c3fc5b6befbfec275e",
        ),
    ),
    categories={
        "bottle": (209, 20, 63),
        "cable": (224, 58, 92),
        "capsule": (219, 23, 109),
        "carpet": (280, 28, 89),
        "grid": (264, 21, 57),
        "hazelnut": (391, 40, 70),
        "leather": (245, 32, 92),
        "metal_nut": (220, 22, 93),
        "pill": (267, 26, 141),
        "screw": (320, 41, 119),
        "tile": (230, 33, 84),
        "toothbrush": (60, 12, 30),
        "transistor": (213, 60, 40),
        "wood": (247, 19, 60),
        "zipper": (240, 32, 119),
    },
)


def write(root: Path, out: PreparedFolder, arguments: Namespace) -> None:
    """Adds every category below `root`."""
    add_mvtec_layout(find_root(root, "*/test/good"), out, above=arguments.mask_above)


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
