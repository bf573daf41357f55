"""The writer of prepared folders (`zsad_core.datasets` reads them), shared by all dataset scripts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from zsad_core.datasets import COLUMNS


class PreparedFolder:
    """Collects the images of one dataset; `prepared_folder` makes one and completes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[dict[str, object]] = []

    def add(
        self,
        image: Path | Image.Image,
        *,
        category: str,
        split: str,
        defect: str,
        name: str,
        mask: np.ndarray | None = None,
    ) -> None:
        """Writes one image, and its mask if there is one.

        image: a file, which is copied byte for byte, or a picture, which is encoded as the suffix of `name`
            says.
        split: train or test. defect: "good" for normal images, else the kind of defect. name: file name with
            suffix.
        mask: (H, W), anomalous where it is not 0; the same size as the image. Written as a PNG of 0 and 255.
        """
        for part in (category, defect, name):
            if not re.fullmatch(r"[^\s/\\:,.][^/\\:,\n]*", part):
                raise ValueError(f"{part!r} cannot be part of a prepared folder: expected a plain name")
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r} of {category}/{name}: expected 'train' or 'test'")
        relative = f"{category}/{split}/{defect}/{name}"
        path = self._new(relative)
        if isinstance(image, Image.Image):
            image.save(path)
        else:
            shutil.copyfile(image, path)
        mask_relative = ""
        if mask is not None:
            mask_relative = f"{category}/ground_truth/{defect}/{Path(name).stem}_mask.png"
            self._write_mask(mask, path, mask_relative)
        row = (category, split, int(defect != "good"), defect, relative, mask_relative)
        self.rows.append(dict(zip(COLUMNS, row, strict=True)))

    def _write_mask(self, mask: np.ndarray, image: Path, relative: str) -> None:
        with Image.open(image) as opened:
            expected = opened.size[::-1]  # (H, W)
        if mask.shape != expected:
            raise ValueError(
                f"mask of {image.name} has shape {mask.shape}: expected {expected}, as its image"
            )
        Image.fromarray(np.where(mask != 0, 255, 0).astype(np.uint8)).save(self._new(relative))

    def _new(self, relative: str) -> Path:
        path = self.root / relative
        if path.exists():
            raise ValueError(
                f"{relative} is given twice: names must differ within a category, split and defect"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def prepared_folder(out: Path) -> Iterator[PreparedFolder]:
    """Write a prepared folder: all images go to `<out>.partial`, which becomes `out` when the block ends
    well.

    So a folder called `out` is always whole. An error or Ctrl-C leaves `out` as it was; after a kill, running
    the script again starts afresh. An older prepared folder is replaced; raises FileExistsError if `out`
    holds anything else.
    """
    out = Path(out)
    partial, old = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.old")
    _check_replaceable(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        folder = PreparedFolder(partial)
        yield folder
        if not folder.rows:
            raise ValueError(f"no image was added to {out}: is the source folder the right one?")
        meta = pd.DataFrame(folder.rows, columns=list(COLUMNS))
        meta = meta.sort_values(["category", "split", "label", "defect", "image"], kind="stable")
        meta.to_csv(partial / "meta.csv", index=False, lineterminator="\n")
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not out.exists():  # interrupted between the two renames
            old.rename(out)
        raise


def _check_replaceable(out: Path) -> None:
    """Only what looks like a prepared folder, or an empty one, may be replaced: --out could be mistyped."""
    if not out.exists():
        return
    if out.is_dir():
        foreign = [
            entry.name
            for entry in out.iterdir()
            if entry.name != "meta.csv"
            and not (
                entry.is_dir() and {e.name for e in entry.iterdir()} <= {"train", "test", "ground_truth"}
            )
        ]
        if not foreign:
            return
        raise FileExistsError(
            f"{out} is no prepared folder, it holds {', '.join(sorted(foreign)[:5])}: give --out a new folder"
        )
    raise FileExistsError(f"{out} is a file: give --out a folder")
