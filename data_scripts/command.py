"""`zsad prepare DATASET`: runs the dataset's script; --help says where to get the data and how to use it."""

from __future__ import annotations

import sys
from importlib import import_module

from data_scripts.mini import DATASETS as MINI

SCRIPTS = (
    *("mvtec", "visa", "mpdd", "btad", "sdd", "dagm", "dtd_synthetic", "textile", "sewerml"),
    *("headct", "brainmri", "br35h", "covid19", "isic"),
    *("cvc_colondb", "cvc_clinicdb", "kvasir", "endo", "tn3k"),
    "coco_captions",
)


def main(arguments: list[str]) -> int | None:
    """Exit codes: those of the script; 2 for an unknown dataset."""
    name, *others = arguments or ["--help"]
    if name in SCRIPTS:
        return import_module(f"data_scripts.{name}").main(others)
    if name in MINI:
        return import_module("data_scripts.mini").main([name, *others])
    text = (
        "usage: zsad prepare DATASET [OPTIONS]; zsad prepare DATASET --help says more\n"
        f"published: {', '.join(SCRIPTS)}\nmade here: {', '.join(MINI)}"
    )
    if name in ("-h", "--help"):
        print(text)
        return 0
    print(f"{text}\nerror: no dataset {name!r}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
