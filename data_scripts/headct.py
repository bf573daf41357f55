"""HeadCT: slices of computed tomographies of heads, as a prepared folder.

    zsad prepare headct --raw downloads/headct --out data/headct

200 PNG of 195 sizes, some with an alpha channel: 100 normal, 100 with a haemorrhage. Labels of images only.
Category `brain`, defect `hemorrhage`; all are test images.

`labels.csv` names each image by a number, the file by three digits, and the column is called " hemorrhage",
with a blank in front. The images lie in `head_ct/head_ct/`. The layout of AnomalyCLIP's copy,
`brain/test/good` and `brain/test/defect`, is read, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_scripts.folders import child, find_file, find_root, images_in, read_table
from data_scripts.layouts import add_labelled
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Source, run

SOURCE = Source(
    name="headct",
    title="Head CT - hemorrhage",
    home="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
    terms="Not established. Kaggle asks for an account.",
    how="The archive from the page above (head_ct/ and labels.csv), fetched with an account.",
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    try:
        table = find_file(root, "labels.csv")
    except FileNotFoundError as error:
        try:
            test = child(find_root(root, "test/defect"), "test")
        except FileNotFoundError:
            raise error from None
        add_labelled(child(test, "good") or test / "good", out, category="brain", defect="good")
        add_labelled(child(test, "defect"), out, category="brain", defect="hemorrhage")
        return
    labels = read_labels(table)
    pictures = images_in(find_root(table.parent, "*.png"))
    images = {int(path.stem): path for path in pictures if path.stem.isdecimal()}
    if images.keys() != labels.keys():
        without = sorted(labels.keys() - images.keys()), sorted(images.keys() - labels.keys())
        raise ValueError(
            f"labels.csv and the images do not agree: {len(without[0])} row(s) without image "
            f"{without[0][:5]}, {len(without[1])} image(s) without row {without[1][:5]}. Extract it again"
        )
    for number, path in images.items():
        defect = "hemorrhage" if labels[number] else "good"
        out.add(path, category="brain", split="test", defect=defect, name=path.name)


def read_labels(path: Path) -> dict[int, int]:
    """0 normal or 1 haemorrhage of each image's number. Raises ValueError for another table."""
    with read_table(path) as rows:
        try:
            labels = {int(row["id"]): int(row["hemorrhage"]) for row in rows}
        except (KeyError, TypeError, ValueError):
            labels = {}
    if not labels or not set(labels.values()) <= {0, 1}:
        raise ValueError(f"{path}: expected the columns id and hemorrhage, with numbers and 0 or 1")
    return labels


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
