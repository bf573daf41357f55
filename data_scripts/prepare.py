"""The writer of prepared folders (`zsad_core.datasets` reads them), shared by all dataset scripts."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from PIL import Image

from zsad_core.cache import sha256_of
from zsad_core.datasets import COLUMNS
from zsad_core.images import image_size, read_image

RECORD = "prepared.json"
"""A file beside meta.csv for people: where the images come from and what was checked."""

_NAME = re.compile(r"[^\s/\\:,.\ud800-\udfff][^/\\:,\n\ud800-\udfff]*")  # surrogates: bytes that are no UTF-8
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key by which 2 comes before 10, and upper and lower case stand together."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


class PreparedFolder:
    """Collects the images of one dataset; `prepared_folder` makes one and completes it.

    rows: what meta.csv will hold. digests: SHA-256 of each image, in the order of the rows. empty_masks:
    masks without any marked pixel. notes: sentences for the user, see `note`. reason: why counts may differ
    from the published ones although nothing is missing. record: the content of RECORD; without it the
    file is not written. added: called after each image, for a progress bar.
    """

    def __init__(self, root: Path, *, link: bool = False, check: bool = True) -> None:
        self.root = root
        self.link, self.check = link, check
        self.rows: list[dict[str, object]] = []
        self.digests: list[str] = []
        self.empty_masks: list[str] = []
        self.notes: list[str] = []
        self.reason: str | None = None
        self.record: dict[str, Any] = {}
        self.added: Callable[[], object] = lambda: None

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

        image: a file, which is linked or copied byte for byte, or a picture, which is encoded as the suffix
            of `name` says.
        split: train or test. defect: "good" for normal images, else the kind of defect. name: file name with
            suffix.
        mask: (H, W), anomalous where it is not 0; the same size as the image. Written as a PNG of 0 and 255.
        Raises ValueError for names that cannot be used, a file that does not decode, a mask of another size.
        """
        for part in (category, defect, name):
            if not _NAME.fullmatch(part):
                raise ValueError(
                    f"{part!r} cannot be part of a prepared folder (image {str(image)!r}): expected a plain "
                    "name in UTF-8, not beginning with a dot or blank, without slash, colon, comma; rename it"
                )
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r} of {category}/{name}: expected 'train' or 'test'")
        relative = f"{category}/{split}/{defect}/{name}"
        path = self._new(relative)
        if isinstance(image, Image.Image):
            image.save(path)
        else:
            if self.check:
                read_image(image)  # decoded as by readers, so that errors name the file
            self._place(image, path)
        mask_relative = ""
        if mask is not None:
            mask_relative = f"{category}/ground_truth/{defect}/{Path(name).stem}_mask.png"
            self._write_mask(mask, path, image, mask_relative)
        row = (category, split, int(defect != "good"), defect, relative, mask_relative)
        self.rows.append(dict(zip(COLUMNS, row, strict=True)))
        self.digests.append(sha256_of(path))
        self.added()

    def note(self, text: str) -> None:
        """A sentence that the user should read, and find in RECORD later."""
        self.notes.append(text)

    @property
    def repeats(self) -> list[tuple[str, str]]:
        """(image, earlier image) for each image whose bytes were there before."""
        first: dict[str, str] = {}
        pairs = [
            (str(row["image"]), first.setdefault(digest, str(row["image"])))
            for row, digest in zip(self.rows, self.digests, strict=True)
        ]
        return [(image, earlier) for image, earlier in pairs if image != earlier]

    def _place(self, image: Path, path: Path) -> None:
        if self.link:
            try:
                os.link(image.resolve(), path)  # a link to a symbolic link would break with its target
                return
            except OSError as error:  # another file system, or links are refused
                if error.errno not in _NO_LINK:
                    raise
        shutil.copyfile(image, path)

    def _write_mask(self, mask: np.ndarray, path: Path, given: Path | Image.Image, relative: str) -> None:
        expected = image_size(path)[::-1]  # (H, W)
        if mask.shape != expected:
            name = path.name if isinstance(given, Image.Image) else given
            raise ValueError(f"mask of {name} has shape {mask.shape}: expected {expected}, as its image")
        if not np.any(mask):
            self.empty_masks.append(relative)
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
def prepared_folder(out: Path, *, link: bool = False, check: bool = True) -> Iterator[PreparedFolder]:
    """Write a prepared folder: all images go to `<out>.partial`, which becomes `out` when the block ends
    well.

    So a folder called `out` is always whole. An error, a full disk or Ctrl-C leaves `out` as it was; after a
    kill, running the script again starts afresh. An older prepared folder is replaced.

    link: hard links to the files given, instead of copies, where the file system allows it: no space, but an
        image changed in place changes in both. check: decode each file once.
    Raises FileExistsError if `out` holds anything else, BlockingIOError while another process prepares `out`.
    """
    out = Path(out)
    partial, old = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.old")
    with only_one(out):
        if old.exists() and not out.exists():  # killed between the two renames below
            old.rename(out)
        _check_replaceable(out)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            folder = PreparedFolder(partial, link=link, check=check)
            yield folder
            if not folder.rows:
                raise ValueError(f"no image was added to {out}: is the source folder the right one?")
            _write_tables(folder)
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


def _write_tables(folder: PreparedFolder) -> None:
    meta = pd.DataFrame(folder.rows, columns=list(COLUMNS))
    meta = meta.sort_values(["category", "split", "label", "defect", "image"], kind="stable")
    order = sorted(meta["category"].unique(), key=natural)  # Class10 after Class9
    meta = pd.concat([meta[meta["category"] == category] for category in order])
    meta.to_csv(folder.root / "meta.csv", index=False, lineterminator="\n")
    if folder.record:
        text = json.dumps(folder.record, indent=1, ensure_ascii=False)
        (folder.root / RECORD).write_text(text + "\n", encoding="utf-8")


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Raises BlockingIOError while another process prepares `out`, because two would remove each other's
    files. The lock ends with its process, even if that is killed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{out}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"another preparation of {out} is running: wait until it has ended, or give another folder"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while held: no process locks a removed file
        lock.release()


def _check_replaceable(out: Path) -> None:
    """Only a prepared folder or an empty one may be replaced, because --out could be mistyped."""
    if not out.exists():
        return
    if out.is_dir():
        foreign = [
            entry.name
            for entry in out.iterdir()
            if entry.name not in ("meta.csv", RECORD)
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
