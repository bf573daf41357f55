"""Renders the mini datasets, whose names start with `mini_`, as prepared folders: the same bytes every time.

    zsad prepare mini_mvtec --out data/mini_mvtec

`mini_mvtec`: single parts and surfaces, mostly plain defects. `mini_visa`: harder: many parts in a picture,
free pose, non-square pictures, small defects. `mini_medical_image` and `mini_medical_pixel`: see
`mini_medical`. Every image is an instance of its own: no anomalous image has its normal twin in the set.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from PIL import Image

from data_scripts import mini_parts as drawings
from data_scripts.mini_medical import VIEWS, WITHOUT_MASKS, WITHOUT_NORMAL, render_view
from data_scripts.prepare import prepared_folder
from data_scripts.render import Look, render

PLAIN, THIN = (
    (0.9, 1.5),
    {"scratch": 1, "crack": 1, "stain": 1.5, "spot": 1, "missing": 2, "chipped": 2, "bent": 0.7},
)
SMALL = (0.5, 0.95)


def _object(name: str, colour: str, background: str, **more) -> Look:
    return Look(
        name,
        parts=getattr(drawings, more.pop("drawing", name)),
        colour=colour,
        background=background,
        **{"defect_size": PLAIN, "worn": 0.15, **more},
    )


def _surface(name: str, colour: str, **more) -> Look:
    return Look(
        name,
        surface=getattr(drawings, name),
        colour=colour,
        **{"defect_size": (0.45, 0.95), "worn": 0.2, "turn": 0.08, **more},
    )


LOOKS = {
    "mini_mvtec": (
        _object("bottle_top", "brown", "white"),
        _object("capsule", "black", "white", defect_size=(0.7, 1.3)),
        _object("hex_nut", "grey", "dark", turn=0.5, underside=drawings.hex_nut_underside),
        _object("screw", "grey", "white", turn=0.8, kinds=THIN, scale=(0.84, 0.92)),
        _object("toothbrush", "teal", "black", scale=(0.84, 0.92)),
        _object("transistor", "black", "beige"),
        _object("zipper", "black", "grey", scale=(0.9, 0.96)),
        _surface("carpet", "grey", defect_size=(0.3, 0.7)),
        _surface("grid", "grey", defect_size=PLAIN),
        _surface("leather", "brown", defect_size=(0.3, 0.7)),
        _surface("tile", "grey", defect_size=(0.7, 1.3)),
        _surface("wood", "orange", defect_size=(0.3, 0.6)),
    ),
    "mini_visa": (
        _object(
            "beans",
            "red",
            "white",
            drawing="bean",
            count=(3, 4),
            turn=3.2,
            shift=0.14,
            defect_size=(0.6, 1.0),
            scale=(0.72, 0.9),
        ),
        _object("candles", "white", "brown", drawing="candle", count=(2, 2), shift=0.1, defect_size=SMALL),
        _object("cashew", "orange", "dark", turn=3.2, defect_size=SMALL),
        _object("circuit_board", "green", "grey", defect_size=SMALL, scale=(0.9, 0.96), turn=0.05),
        _object("cookie", "brown", "beige", turn=3.2, defect_size=SMALL, vary=0.06),
        _object("fuse", "yellow", "white", defect_size=SMALL, turn=0.15, scale=(0.72, 0.84)),
        _object("gear", "grey", "blue", turn=3.2, defect_size=SMALL, light=0.2),
        _object(
            "macaroni",
            "yellow",
            "green",
            count=(2, 3),
            turn=3.2,
            shift=0.16,
            defect_size=(0.55, 1.0),
            clutter=0.6,
        ),
        _object("pretzel", "brown", "white", turn=0.6, defect_size=SMALL, clutter=0.6),
    ),
}
SIZES = {
    "circuit_board": (128, 192),
    "fuse": (112, 192),
    "macaroni": (128, 176),
}  # (H, W); the others 144 x 144
N_TRAIN, N_NORMAL, N_ANOMALOUS = 12, 40, 40
FLIPPED = 4  # of a part that can lie wrong every fourth anomalous image; of MVTec AD's metal nuts 23 of 93
DATASETS = (*LOOKS, *VIEWS)


def write_dataset(
    name: str,
    out: Path,
    *,
    n_train: int | None = None,
    n_normal: int = N_NORMAL,
    n_anomalous: int = N_ANOMALOUS,
    categories: int | None = None,
) -> None:
    """Writes one mini dataset to `out`. The counts are images a category; fewer `categories` serve the
    tests.

    n_train: None for the usual number, 12 or what a category's `View` says. n_normal: normal test images, of
        which the datasets in WITHOUT_NORMAL always have none.
    """
    n_normal = 0 if name in WITHOUT_NORMAL else n_normal
    with prepared_folder(out) as folder:
        for category in (LOOKS | VIEWS)[name][:categories]:
            if name in VIEWS:
                draw, usual = partial(render_view, category), category.n_train
            else:
                draw, usual = partial(render, category, size=SIZES.get(category.name, (144, 144))), N_TRAIN
            good = {"kind": "good"} if name in LOOKS else {}
            n_references = usual if n_train is None else n_train
            for i in range(n_references + n_normal):
                split, number = ("train", i) if i < n_references else ("test", i - n_references)
                folder.add(
                    Image.fromarray(draw(seed=i, **good).normal),
                    category=category.name,
                    split=split,
                    defect="good",
                    name=f"{number:03d}.png",
                )
            for i in range(n_anomalous):
                flipped = name in LOOKS and category.underside and i % FLIPPED == FLIPPED - 1
                pair = draw(seed=10_000 + i, **({"kind": "flip"} if flipped else {}))
                folder.add(
                    Image.fromarray(pair.anomalous),
                    category=category.name,
                    split="test",
                    defect=pair.facts["kind"],
                    name=f"{i:03d}.png",
                    mask=None if name in WITHOUT_MASKS else pair.mask,
                )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="zsad prepare", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument(
        "--out", type=Path, help="prepared folder to write, replaced when it is complete (data/DATASET)"
    )
    parser.add_argument(
        "--train", type=int, help=f"training images a category ({N_TRAIN}; of the category colon 40)"
    )
    for option, default in (("normal", N_NORMAL), ("anomalous", N_ANOMALOUS)):
        parser.add_argument(
            f"--{option}", type=int, default=default, help=f"{option} test images a category (%(default)s)"
        )
    arguments = parser.parse_args(argv)
    write_dataset(
        arguments.dataset,
        arguments.out or Path("data") / arguments.dataset,
        n_train=arguments.train,
        n_normal=arguments.normal,
        n_anomalous=arguments.anomalous,
    )
