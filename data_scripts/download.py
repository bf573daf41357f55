"""The content of a download folder: archives to unpack, their checksums, other files and folders."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from data_scripts.fetch import Archive
from data_scripts.unpack import archive_kind, unpack
from zsad_core.cache import sha256_of

_OURS = (".part", ".lock")  # what `fetch` leaves when it is interrupted
_ENDS = (".zip", ".tar", ".xz", ".tgz", ".rar", ".7z")


def sorted_out(raw: Path, expected: Sequence[Archive]) -> tuple[list[Path], list[Path]]:
    """The archives to unpack, and whatever else lies in the folder.

    Where some files have the names of `expected`, others are not unpacked. Raises ValueError when a file with
    such a name is no archive.
    """
    if raw.is_file():
        return [raw], []
    entries = sorted(path for path in raw.iterdir() if not path.name.startswith("."))
    names = {archive.name.casefold() for archive in expected}
    kinds = {path: archive_kind(path) for path in entries if path.is_file() and path.suffix not in _OURS}
    archives = [path for path, kind in kinds.items() if kind]
    for path in kinds.keys() - set(archives):
        if path.name.casefold() in names or (not archives and path.suffix.lower() in _ENDS):
            raise ValueError(
                f"{path} is no archive (it may be empty, or a page that asks for a login): fetch it again"
            )
    loose = [path for path in entries if path not in archives]
    archives = [path for path in archives if path.name.casefold() in names] or archives
    if any(path.is_dir() for path in loose):  # extracted by the user, as an error of `unpack` advises
        archives = [path for path in archives if kinds[path] not in ("rar", "7z")]
    return archives, loose


def checked(path: Path, expected: Sequence[Archive], mode: Literal["stop", "warn"]) -> dict[str, object]:
    """Name and checksum of an archive for the record, after a comparison with the published ones; "as
    published" is None if none are known."""
    known = next((a for a in expected if a.name.casefold() == path.name.casefold()), None)
    wrong = known.check(path) if known else None
    if wrong and mode == "stop":
        raise ValueError(
            f"{wrong}. It is cut off, or another edition: fetch it again, or go on with --checksum warn"
        )
    if wrong:
        print(f"warning: {wrong}", file=sys.stderr)
    digest = sha256_of(path)
    compared = bool(known and (known.sha256 or known.md5))
    if wrong or compared:
        verified = not wrong
    else:  # under another name, perhaps
        verified = True if digest in {archive.sha256 for archive in expected} else None
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest, "as published": verified}


@contextmanager
def unpacked(raw: Path, archives: list[Path], loose: list[Path], out: Path) -> Iterator[Path]:
    """The folder to read from. What is unpacked lies beside `out`, so that images are linked, not copied."""
    work = out.with_name(f"{out.name}.unpacked")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    if not archives:
        yield raw
        return
    try:
        for path in archives:
            print(f"unpacking {path.name}")
            unpack(path, work / path.name.removesuffix(".xz").removesuffix(".gz").rsplit(".", 1)[0])
        if loose:
            refuse_links_out(raw, archives)
        for path in loose:
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(
                    path,
                    work / path.name,
                    copy_function=_link_or_copy,
                    ignore=_linked_folders,
                    dirs_exist_ok=True,
                )
            elif path.is_file() and path.suffix not in _OURS and archive_kind(path) is None:
                _link_or_copy(path, work / path.name)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _link_or_copy(path: str | Path, target: str | Path) -> None:
    try:
        os.link(Path(path).resolve(), target)
    except FileExistsError:  # out of an archive, which is checked to be whole
        pass
    except OSError:
        shutil.copyfile(path, target)


def _linked_folders(folder: str, names: list[str]) -> list[str]:
    """A link could lead to a folder above it, in an endless circle."""
    paths = {name: Path(folder, name) for name in names}
    return [name for name, path in paths.items() if path.is_symlink() and path.is_dir()]


def refuse_links_out(root: Path, besides: Sequence[Path] = ()) -> None:
    """A link in a download may point at any file of this machine. `besides`: links that are taken all the
    same."""
    whole = root.resolve()
    for folder, folders, files in os.walk(root, onerror=_raise):
        for name in folders + files:
            path = Path(folder, name)
            if not path.is_symlink() or path in besides:
                continue
            target = Path(os.path.realpath(path))  # Path.resolve raises where links go in circles
            if not target.is_relative_to(whole):
                raise ValueError(
                    f"{path} is a link to {target}, outside of {root}: give --raw the folder that "
                    "holds the files themselves, or replace the link by a copy"
                )


def _raise(error: OSError) -> None:
    raise error
