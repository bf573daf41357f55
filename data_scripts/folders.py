"""Files and folders of a download: lists, and the folder or file that a marker names."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from data_scripts.prepare import natural

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_SHOWN = 8  # names that a message lists


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, not of folders below, in natural order. Hidden files are left out."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    return sorted(
        (p for p in files if not p.name.startswith(".") and p.is_file()), key=lambda path: natural(path.name)
    )


def folders_in(folder: Path) -> list[Path]:
    """Folders of a folder in natural order; no symbolic links, no hidden ones, no leftovers of macOS."""
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(
        (p for p in folders if not p.name.startswith(".") and p.name != "__MACOSX"),
        key=lambda path: natural(path.name),
    )


def folded(name: str) -> str:
    """Equal for names that differ only in case, or in how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by their `folded` names. Raises ValueError when two share a name, so that none is lost."""
    found: dict[str, Path] = {}
    for path in folders:
        other = found.setdefault(folded(path.name), path)
        if other != path:
            raise ValueError(f"{other} and {path.name} differ only in case: keep one of the two")
    return found


def child(folder: Path, *names: str) -> Path | None:
    """The folder's subfolder with the first of these names that is there, errors as in `by_name`."""
    wanted = [folded(name) for name in names]
    found = by_name(path for path in folders_in(folder) if folded(path.name) in wanted)
    return next((found[name] for name in wanted if name in found), None)


def folders_with(root: Path, *names: str, depth: int = 4) -> list[Path]:
    """Every folder, `root` or at most `depth` levels below, that has subfolders of all these names, in any
    case; the highest first."""
    found, level = [], [root]
    for _ in range(depth + 1):
        found += [folder for folder in level if all(child(folder, name) for name in names)]
        level = [below for folder in level for below in folders_in(folder)]
    return found


def find_root(folder: Path, marker: str | Callable[[Path], bool], depth: int = 4) -> Path:
    """The folder that the marker fits: `folder` or one at most `depth` levels below, the highest first.

    marker: a relative glob pattern such as `*/test/good`, compared without regard to case, or a function.
    Symbolic links to folders are not followed. Raises FileNotFoundError when there is none.
    """
    level = [folder]
    for _ in range(depth + 1):
        for candidate in level:
            if marker(candidate) if callable(marker) else _held(candidate, marker.split("/")):
                return candidate
        level = [below for candidate in level for below in folders_in(candidate)]
    wanted = f"`{marker}`" if isinstance(marker, str) else (marker.__doc__ or "what is expected").strip()
    held = sorted(path.name for path in folder.iterdir())
    raise FileNotFoundError(
        f"nothing like {wanted} in {folder} or {depth} levels below, which holds "
        f"{_listed(held) or 'nothing'}. Is it the right download, and extracted completely?"
    )


def find_file(folder: Path, marker: str, depth: int = 4) -> Path:
    """The file that the marker names, in any case; as in `find_root`."""
    return _held(find_root(folder, marker, depth), marker.split("/"))


@contextmanager
def read_table(path: Path) -> Iterator[csv.DictReader]:
    """A CSV file, with or without a byte-order mark, with any line ends. A file that cannot be read raises
    ValueError with its name. The caller checks the columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield csv.DictReader(file, skipinitialspace=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table ({error}): expected a CSV file; fetch it again") from error


def _held(folder: Path, pattern: list[str]) -> Path | None:
    """The entries below a folder that fit the pattern."""
    first, *rest = pattern
    fitting = (path for path in folder.iterdir() if fnmatchcase(path.name.casefold(), first.casefold()))
    if not rest:
        return next(fitting, None)
    below = (_held(path, rest) for path in fitting if path.is_dir() and not path.is_symlink())
    return next((path for path in below if path), None)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
