"""SDD (KolektorSDD), electrical commutators, as a prepared folder of half images.

    zsad prepare sdd --raw DIR --out data/sdd

Layout: kos01/Part0.jpg with kos01/Part0_label.bmp, … kos50, without outer folder; one item has seven parts.
Every image has a label, which is all zero when there is no defect, so that the label of an image comes from
the pixels. AnomalyCLIP's paper cuts each image into two and tests on 181 normal and 74 anomalous halves. Here
the cut is at H // 2, the test gets all anomalous halves and a quarter of the normal ones, drawn with --seed
from the list sorted by name; the other normal halves are for training. Also read: the copy that AnomalyCLIP's
authors offer, SDD/electrical commutators/{train/good, test/good, test/defect, ground_truth/defect}.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np

from data_scripts.folders import find_root, folders_in, images_in
from data_scripts.layouts import add_mvtec_layout, by_stem, require_pairs
from data_scripts.prepare import PreparedFolder
from data_scripts.source import Archive, Source, run
from zsad_core.images import read_image, read_mask

CATEGORY = "electrical commutators"
HALVES, ANOMALOUS, NORMAL = 798, 74, 724  # of 399 images

SOURCE = Source(
    name="sdd",
    title="SDD (KolektorSDD), the edition with precise labels",
    home="https://www.vicos.si/resources/kolektorsdd/",
    terms="CC BY-NC-SA 4.0: no commercial use; no form",
    how="fetch KolektorSDD.zip, or let --fetch do it; KolektorSDD-boxes.zip has coarser labels",
    archives=(
        Archive(
            "KolektorSDD.zip",
            url="https://data.vicos.si/datasets/KSDD/KolektorSDD.zip",
            sha256="65dc621693418585de9c4467d1340ea7958a6181816f0dc2883a1e8b61f9d4dc",
        ),
    ),
    categories={CATEGORY: (None, 181, 74)},  # how many the papers trained on is not known
)


def write(root: Path, out: PreparedFolder, arguments: Namespace) -> None:
    """Adds the half images, or those of the copy that is cut already."""
    marker = "electrical?commutators/test/good"  # a blank or an underscore
    try:
        papers = find_root(root, marker)
    except FileNotFoundError:
        add_halves(find_root(root, "kos[0-9]*/part*"), out, above=arguments.mask_above, seed=arguments.seed)
        return
    folder = next(path for path in folders_in(papers) if path.name[:10].casefold() == "electrical")
    add_mvtec_layout(folder, out, category=CATEGORY, above=arguments.mask_above)
    out.note("cut and divided as in the copy that AnomalyCLIP's authors offer")


def add_halves(root: Path, out: PreparedFolder, *, above: int, seed: int) -> None:
    """Cuts each image into an upper half, called <item>_<part>_0, and a lower one, _1."""
    labels = _pairs(root, out)
    halves = {
        _name(path, i): bool(half.any())
        for path, label in labels.items()
        for i, half in enumerate(_cut(read_mask(label, above)))
    }
    normal = sorted(name for name, anomalous in halves.items() if not anomalous)
    n_test = len(normal) // 4
    chosen = {normal[i] for i in np.random.default_rng(seed).permutation(len(normal))[:n_test]}
    for path, label in labels.items():
        picture = read_image(path)
        mask = read_mask(label, above, size=picture.size)
        edges = (0, picture.height // 2, picture.height)
        for i, half in enumerate(_cut(mask)):
            name = _name(path, i)
            out.add(
                picture.crop((0, edges[i], picture.width, edges[i + 1])),
                category=CATEGORY,
                split="test" if half.any() or name in chosen else "train",
                defect="defect" if half.any() else "good",
                name=f"{name}.png",
                mask=half if half.any() else None,
            )
    out.note(
        f"{len(halves)} halves, {len(halves) - len(normal)} with label pixels, {len(normal)} without; "
        f"{HALVES}, {ANOMALOUS} and {NORMAL} are expected of the whole set"
    )
    if len(halves) == HALVES:
        out.reason = (
            "all images are there, but the paper says neither where it cuts them nor which labels count, so "
            "that other halves than its 74 may be anomalous"
        )
    out.note(
        f"{n_test} of the {len(normal)} normal halves, drawn with seed {seed}, are for the test. The paper's "
        "set cannot be made again: its 181 is a quarter of 724, but which quarter is not published"
    )


def _pairs(root: Path, out: PreparedFolder) -> dict[Path, Path]:
    """Each image with its label, whatever number of parts an item has."""
    pairs = {}
    for item in folders_in(root):
        if not re.fullmatch("kos[0-9]+", item.name.casefold()):
            continue
        files = images_in(item)
        labels = by_stem([p for p in files if p.stem.casefold().endswith("_label")], "_label")
        images = by_stem([p for p in files if not p.stem.casefold().endswith("_label")])
        if item.name.casefold() == "kos21" and images.pop("part7", None) and labels.pop("part7", None):
            out.note("kos21_Part7 is left out, as in the code of the set's authors")
        require_pairs(item, images, item, labels)
        pairs |= {path: labels[stem] for stem, path in images.items()}
    return pairs


def _cut(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = len(mask) // 2
    return mask[:middle], mask[middle:]


def _name(path: Path, i: int) -> str:
    return f"{path.parent.name}_{path.stem}_{i}"


def _options(parser: ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="which normal halves are tested (%(default)s)")


def main(argv: list[str]) -> None:
    run(SOURCE, write, argv, doc=__doc__, options=_options)
