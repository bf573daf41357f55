"""VisA, twelve categories of objects, as a prepared folder.

    zsad prepare visa --raw DIR --out data/visa

Layout: <category>/Data/{Images/Normal, Images/Anomaly, Masks/Anomaly}, and split_csv/1cls.csv, which says
what is for training and what for the test. The tar has no outer folder. Images end in .JPG, names such as 000
are both under Normal and under Anomaly, masks hold the index of the kind of defect (1 is nearly black to the
eye). Also read: the layout that the authors' script writes, 1cls/<category>/{train/good, test/good, test/bad,
ground_truth/bad}, whose masks are 0 and 255.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path, PurePosixPath

from data_scripts.folders import find_file, find_root, read_table
from data_scripts.layouts import add_mvtec_layout
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run
from zsad_core.images import read_mask

SPLIT = "split_csv/1cls.csv"
COLUMNS = ["object", "split", "label", "image", "mask"]
KINDS = (("normal", False), ("anomaly", True))
"""label, and whether there is a mask."""

SOURCE = Source(
    name="visa",
    title="VisA (Visual Anomaly)",
    home="https://github.com/amazon-science/spot-diff",
    terms="CC BY 4.0 for the data, as the file LICENSE-DATASET says; no form",
    how="fetch VisA_20220922.tar (1.9 GB), or let --fetch do it",
    archives=(
        Archive(
            "VisA_20220922.tar",
            url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
            sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
            md5="ef908989b6dc701fc218f643c127a4de",
            bytes=1_929_840_640,
        ),
    ),
    categories={
        "candle": (900, 100, 100),
        "capsules": (542, 60, 100),
        "cashew": (450, 50, 100),
        "chewinggum": (453, 50, 100),
        "fryum": (450, 50, 100),
        "macaroni1": (900, 100, 100),
        "macaroni2": (900, 100, 100),
        "pcb1": (904, 100, 100),
        "pcb2": (901, 100, 100),
        "pcb3": (905, 101, 100),
        "pcb4": (904, 101, 100),
        "pipe_fryum": (450, 50, 100),
    },
)


def write(root: Path, out: PreparedFolder, arguments: Namespace) -> None:
    """Adds what the split file lists, or every category of the layout with folders instead of a list."""
    try:
        folder = find_root(root, SPLIT)
    except FileNotFoundError as error:
        if _found(root, "*/ground_truth/bad"):
            add_mvtec_layout(find_root(root, "*/ground_truth/bad"), out, above=arguments.mask_above)
        elif _found(root, "*/data/images"):
            raise FileNotFoundError(
                f"{error}\n{SPLIT}, which says what is for the test, has to lie beside the categories. It is "
                f"in the tar, and at {SOURCE.home} (sha256 "
                "a48557e6033318cb90556f706196bc9d247a776a23ea51aecee5a80dd0332995)"
            ) from None
        else:
            raise
    else:
        add_listed(folder, out, arguments.mask_above)


def add_listed(root: Path, out: PreparedFolder, above: int) -> None:
    """Adds the rows of the split file; errors name a listed file that does not exist."""
    if above:
        raise ValueError(
            f"--mask-above {above}: the masks of this layout hold kinds of defects from 1 to 9, not greys. "
            "Leave it out"
        )
    table = find_file(root, SPLIT)
    with read_table(table) as reader:
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{table} has the columns {reader.fieldnames}: expected {COLUMNS}")
        rows = list(reader)
    for row in rows:
        if None in row.values() or (row["label"], bool(row["mask"])) not in KINDS:
            shown = ",".join(map(str, row.values()))
            raise ValueError(
                f"{table}: the row {shown} is not as expected: normal without mask, or anomaly with one. "
                "Is the file whole?"
            )
    paths = [row[column] for row in rows for column in ("image", "mask") if row[column]]
    outside = [path for path in paths if ".." in path or PurePosixPath(path).is_absolute()]
    if outside:
        raise ValueError(f"{table} names {outside[0]!r}: expected paths inside of {root}")
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        shown = ", ".join(missing[:5])
        raise FileNotFoundError(f"{table} lists {len(missing)} files that are not there: {shown}")
    for row in rows:
        image = root / row["image"]
        names = {"category": row["object"], "split": row["split"], "name": image.name}
        if row["label"] == "normal":
            out.add(image, defect="good", **names)
        else:
            out.add(image, defect="bad", mask=read_mask(root / row["mask"]), **names)


def _found(root: Path, marker: str) -> bool:
    try:
        find_root(root, marker)
    except FileNotFoundError:
        return False
    return True


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
