"""Sewer-ML, validation split: frames of videos from inside sewers, as a prepared folder.

    zsad prepare sewerml --raw downloads/sewerml --out data/sewerml

130,046 images, by general knowledge 68,681 normal and 61,365 with a defect, with labels and without masks.
Category `sewer`, defect `defect`; all are test images. RWDA names no count and no rule for the label; the
column `Defect` of the table is the natural reading: 1 for any defect, 0 for none.

Needed are `SewerML_Val.csv`, with or without a byte-order mark, and `valid00.zip`, `valid01.zip` or the
images that were in them, in any folder: they are found by the name in the column `Filename`. Rows without
an image and images without a row (those of the other splits, for instance) are counted and reported.

The archives are unpacked beside --out, so have as much space free there as they take, some 38 GB. The images
are then links to what was unpacked. With --quick the 130,000 images are not decoded; each is read once all
the same, to find repeats.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from data_scripts.folders import find_file, read_table
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run

SOURCE = Source(
    name="sewerml",
    title="Sewer-ML, validation split",
    home="https://vap.aau.dk/sewer-ml/",
    terms="CC BY-NC-SA 4.0. A form has to be filled in, which yields a password.",
    how="Apply at https://forms.gle/hBaPtoweZumZAi4u9 , then fetch SewerML_Val.csv, valid00.zip and "
    "valid01.zip (about 19 GB each).",
    archives=(Archive("valid00.zip"), Archive("valid01.zip")),
    categories={"sewer": (None, 68_681, 61_365)},
)


def write(root: Path, out: PreparedFolder, arguments: argparse.Namespace) -> None:
    table = find_file(root, "SewerML_Val.csv")
    folders = folders_by_name(root)
    missing: list[str] = []
    for name, defect in rows(table):
        folder = folders.pop(name, None)
        if folder is None:
            missing.append(name)
        else:
            path = Path(folder, name)
            out.add(path, category="sewer", split="test", defect="defect" if defect else "good", name=name)
    out.note(f"{len(missing)} row(s) of {table.name} without an image" + shown(missing))
    out.note(f"{len(folders)} image(s) without a row in {table.name}" + shown(list(folders)))


def folders_by_name(root: Path) -> dict[str, str]:
    """Which folder below `root` holds the PNG of this name; raises ValueError for a name in two folders."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(root):  # does not enter symbolic links
        folders.sort()
        for name in files:
            if not name.lower().endswith(".png") or name.startswith("."):
                continue
            if name in found:
                raise ValueError(
                    f"{name} is there twice, in {found[name]} and {folder}: keep one of the two, and an "
                    "archive or what was extracted from it, not both"
                )
            found[name] = folder
    return found


def rows(table: Path) -> Iterator[tuple[str, bool]]:
    """File name and whether there is a defect, row by row. Raises ValueError for another table, or a name
    twice."""
    seen: set[str] = set()
    with read_table(table) as reader:
        if not {"Filename", "Defect"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{table} has no columns Filename and Defect: expected SewerML_Val.csv (the test split's "
                f"table has no labels)"
            )
        for row in reader:
            name, defect = row["Filename"], row["Defect"]
            if defect not in ("0", "1") or not name or name in seen:
                raise ValueError(
                    f"{table} line {reader.line_num}: {name!r} with Defect {defect!r}: expected each file "
                    f"name once, with 0 or 1"
                )
            seen.add(name)
            yield name, defect == "1"


def shown(names: list[str]) -> str:
    return f": {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__)
