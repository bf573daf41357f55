"""COVID-19 radiography database: X-rays of chests, as a prepared folder.

    zsad prepare covid19 --raw downloads/covid19 --out data/covid19

Normal against COVID-19, all of them test images with a label and no mask. Category `chest`, defect
`covid19`. Viral pneumonia and lung opacity are left out, as in the paper; the masks of the present release
outline lungs, not anomalies.

The releases differ. The paper's 1341 normal and 219 COVID-19 images are the first one, with folders
`NORMAL/` and `COVID-19/`. Kaggle offers the latest by default: `Normal/images/` with 10,192 and
`COVID/images/` with 3616. The paper's set cannot be taken out of that, because the 219 images are not
marked in it. The script takes either and says which one it found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import child, find_root, folders_in, images_in
from data_scripts.layouts import add_labelled
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Known, Source, run

SOURCE = Source(
    name="covid19",
    title="COVID-19 radiography database",
    home="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
    terms="CC BY 4.0 according to two third parties; not established beyond that. Kaggle asks for an "
    "account.",
    how="The first release (choose it on the page above, or the copy that AnomalyCLIP's README links), "
    "fetched with an account. The present release is read as well, but has other images than the paper's.",
    known=(
        Known(
            normal=10192,
            anomalous=3616,
            reason="the present release. The paper's numbers are the first one's, and its 219 COVID-19 "
            "images are not marked in this one",
        ),
        Known(
            normal=1341,
            anomalous=1200,
            reason="the first update, which added COVID-19 images to the paper's 219",
        ),
    ),
)


COVID = ("covid-19", "covid")
"""The folder's name in the first release and in the present one."""


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    folder = find_root(root, has_both)
    covid, normal = child(folder, *COVID), child(folder, "normal")
    found, flat = {}, True
    for side, defect in ((normal, "good"), (covid, "covid19")):
        images = child(side, "images") or side
        flat = flat and images == side
        found[defect] = len(images_in(images))
        add_labelled(images, out, category="chest", defect=defect)
    out.note(f"release: {release(covid.name, found['good'], found['covid19'], flat=flat)}")
    for other in folders_in(folder):
        if other not in (covid, normal):
            out.note(f"{other.name}/ is left out: the paper compares normal with COVID-19 alone")


def has_both(folder: Path) -> bool:
    """folders NORMAL and COVID-19 (first release) or Normal and COVID (present one)"""
    return bool(child(folder, *COVID) and child(folder, "normal"))


def release(covid: str, n_normal: int, n_covid: int, *, flat: bool) -> str:
    """Which release has these numbers of images, and a folder of this name.

    flat: whether the images lie in the folders themselves, as in the first release and in re-packed copies of
    it, whatever those call the folder.
    """
    known = {
        (True, 1341, 219): "the first, as in the paper",
        (True, 1341, 1200): "the first update",
        (False, 10192, 3616): "the present one",
    }
    looks_like = "the first" if covid.lower() == "covid-19" else "the present one"
    return known.get(
        (flat, n_normal, n_covid),
        f"none that is known; {covid}/ is called so in {looks_like}, with other numbers",
    )


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
