"""Simulated textile images of the package conformal-clip-data, as a prepared folder.

    zsad prepare textile --out data/textile

2,000 RGB JPEGs of 250 x 250 pixels, 42 MB, all different: 1,000 without defect, 500 with a local and 500 with
a global one. All are grey, fibrous noise. A local defect is a speckled patch of about 8 x 16 pixels, a global
one weakens the grain of the whole image: hard to name, and hard to see. Image labels only, no masks.
Source: Megahed et al. (2025), arXiv 2501.12596; MIT licence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from data_scripts.prepare import prepared_folder

KINDS = {"good": ("nominal", 1000), "local": ("local", 500), "global": ("global", 500)}
"""Defect in the prepared folder: the source folder and its number of images."""

N_TRAIN = 16
"""Normal images for training, used as references. The detectors are zero-shot or use at most four images. So
nearly all images can be test images, as in the paper with the whole validation set of Sewer-ML."""


def write_textile(source: Path, out: Path, *, n_train: int = N_TRAIN, seed: int = 0) -> None:
    """Writes the prepared folder `out`; category `textile`.

    source: folder with nominal/, local/ and global/. Of the nominal images, n_train drawn with the seed go to
        train.
    Raises FileNotFoundError or ValueError when the source is not complete.
    """
    files = {}
    for defect, (folder, expected) in KINDS.items():
        files[defect] = sorted((source / folder).glob("*.jpg"))
        if len(files[defect]) != expected:
            raise ValueError(
                f"{source / folder} holds {len(files[defect])} .jpg files: expected {expected}. "
                "Install the package again: pip install --force-reinstall conformal-clip-data"
            )
    n_good = len(files["good"])
    if not 0 <= n_train < n_good:
        raise ValueError(f"n_train={n_train}: expected 0 to {n_good - 1}")
    train = set(np.random.default_rng(seed).permutation(n_good)[:n_train].tolist())
    with prepared_folder(out, check=False) as prepared:  # pip has checked the package's checksum
        for defect, paths in files.items():
            for i, path in enumerate(paths):
                split = "train" if defect == "good" and i in train else "test"
                prepared.add(path, category="textile", split=split, defect=defect, name=path.name)


def package_folder() -> Path:
    """Where the installed package keeps its images; raises FileNotFoundError when it is not installed."""
    try:
        from conformal_clip_data import textile_simulated_root
    except ImportError:
        raise FileNotFoundError(
            "the package conformal-clip-data is not installed: pip install 'conformal-clip-data>=0.1.4,<0.2'"
        ) from None
    return textile_simulated_root()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="zsad prepare textile", description=__doc__.splitlines()[0])
    out = Path("data/textile")
    parser.add_argument("--out", type=Path, default=out, help="prepared folder to write (%(default)s)")
    parser.add_argument("--train", type=int, default=N_TRAIN, help="normal images for train (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (%(default)s)")
    arguments = parser.parse_args(argv)
    write_textile(package_folder(), arguments.out, n_train=arguments.train, seed=arguments.seed)
