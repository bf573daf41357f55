"""DAGM 2007, ten textures, as a prepared folder.

    zsad prepare dagm --raw DIR --out data/dagm

Layout: Class1/{Train,Test}/0001.PNG with Class1/{Train,Test}/Label/0001_label.PNG for defective images only:
that a mask is there is the label. Label/Labels.txt lists the same, and is compared. Kaggle's edition has the
outer folder DAGM_KaggleUpload/, the university's and Zenodo's doubles the class folder. Masks are ellipses
round the defect. Defective images of Train are left out: training images are normal ones here.
"""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from data_scripts.folders import child, folders_in, images_in
from data_scripts.layouts import by_stem
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run
from zsad_core.images import read_mask

SMALL = {1: (79, 71), 2: (66, 84), 3: (66, 84), 4: (82, 68), 5: (70, 80), 6: (83, 67)}
"""Defective images of Train and Test in the classes with 575 each; the others have 150 of 1150."""

_DEPTH = 4  # archive, outer folder, class, class again

SOURCE = Source(
    name="dagm",
    title="DAGM 2007",
    home="https://hci.iwr.uni-heidelberg.de/content/weakly-supervised-learning-industrial-optical-inspection",
    terms="CC BY 4.0 on Zenodo (record 8086136); not established on Kaggle",
    how="fetch Class1.zip to Class10.zip from https://zenodo.org/records/8086136, or let --fetch do it; or, "
    "with an account, https://www.kaggle.com/datasets/mhskjelvareid/dagm-2007-competition-dataset-optical-inspection",
    archives=tuple(
        Archive(f"Class{i}.zip", url=f"https://zenodo.org/records/8086136/files/Class{i}.zip")
        for i in range(1, 11)
    ),
    categories={f"Class{i}": (575 - SMALL[i][0], 575 - SMALL[i][1], SMALL[i][1]) for i in range(1, 7)}
    | {f"Class{i}": (1000, 1000, 150) for i in range(7, 11)},
)


def write(root: Path, out: PreparedFolder, arguments: Namespace) -> None:
    """Adds every class found below `root`."""
    left_out = 0
    for category, folder in _classes(root).items():
        for split in ("train", "test"):
            images, masks = _images_and_masks(child(folder, split))
            for stem, path in images.items():
                names = {"category": category, "split": split, "name": path.name}
                if stem not in masks:
                    out.add(path, defect="good", **names)
                elif split == "test":
                    out.add(path, defect="defect", mask=read_mask(masks[stem], arguments.mask_above), **names)
                else:
                    left_out += 1
    out.note(f"{left_out} defective images of Train are left out (1046 in the whole set)")


def _classes(root: Path) -> dict[str, Path]:
    """Class1, Class2, … and where each has its Train and Test, the highest first."""
    found: dict[str, Path] = {}
    level = [root]
    for _ in range(_DEPTH + 1):
        for folder in level:
            if not re.fullmatch("class[0-9]+", folder.name.casefold()):
                continue
            test = child(folder, "test")
            if test and child(test, "good"):
                raise ValueError(
                    f"{folder} is of the re-packed copy, with folders called good: it tests on other images "
                    "than the papers. Fetch an edition with Class1/Train and Class1/Test/Label"
                )
            category = f"Class{int(folder.name[5:])}"
            if test and child(folder, "train"):
                if category in found:
                    raise ValueError(
                        f"{folder} and {found[category]} are both {category}: keep one of the two"
                    )
                found[category] = folder
        level = [below for folder in level if folder not in found.values() for below in folders_in(folder)]
    if not found:
        raise FileNotFoundError(f"no folder Class1, Class2, … with Train and Test in {root} or below")
    return found


def _images_and_masks(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """By stem. A mask that got lost would turn its image into a normal one, so the list is compared."""
    label = child(folder, "label")
    if label is None:
        raise ValueError(
            f"{folder} has no folder Label with the masks: is the download extracted completely?"
        )
    images, masks = by_stem(images_in(folder)), by_stem(images_in(label), "_label")
    listed = next(
        (_defective(path) for path in label.iterdir() if path.name.casefold() == "labels.txt"), None
    )
    for names, partner in (
        (masks.keys() - images.keys(), "masks without image"),
        ((listed or set()) - masks.keys(), "defective images of Labels.txt without mask"),
        (masks.keys() - (masks.keys() if listed is None else listed), "masks that Labels.txt does not list"),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5])
            raise ValueError(
                f"{label} has {len(names)} {partner}: {shown}. Is the download extracted completely?"
            )
    return images, masks


def _defective(path: Path) -> set[str]:
    """Stems of the defective images: after a first line, tab-separated id, 0 or 1, image, a number, mask."""
    rows = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()[1:] if line.strip()]
    if any(len(row) < 3 or row[1] not in ("0", "1") for row in rows):
        raise ValueError(f"{path} is not as expected: an id, 0 or 1, and the image's name in each line")
    return {Path(row[2]).stem.casefold() for row in rows if row[1] == "1"}


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
