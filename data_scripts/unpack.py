"""Unpacks untrusted archives; no entry can be written outside the given folder."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from tqdm import tqdm

_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_DOCUMENTS = ("[Content_Types].xml", "_rels/", "docProps/", "xl/", "mimetype")
"""First entries of office files, which are zip files too."""

_CHUNK = 1 << 20
_LARGEST_READ = 16 << 20
"""Largest single read. Contents come in chunks; only a header made to fill the memory needs more."""

_RATIO, _FREE = 100, 1e9
"""Limit for the unpacked size: this factor of the archive's size, far above any dataset here, or 1 GB."""

_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, UnicodeError,
)  # fmt: skip


def archive_kind(path: str | Path) -> Literal["zip", "tar", "rar", "7z"] | None:
    """A file's type by its content, not its name; a tar may be compressed by xz, gzip or bzip2.

    None for everything else, office files included.
    """
    with Path(path).open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        length = int.from_bytes(head[26:28], "little")
        first = head[30 : 30 + length].decode("utf-8", "replace")
        return None if first.startswith(_DOCUMENTS) else "zip"
    if head.startswith(b"PK\x05\x06"):  # without any entry
        return "zip"
    if head.startswith(b"Rar!\x1a\x07"):
        return "rar"
    if head.startswith(b"7z\xbc\xaf\x27\x1c"):
        return "7z"
    if head[257:262] == b"ustar":
        return "tar"
    for magic, opener in _COMPRESSED.items():
        if head.startswith(magic):
            try:
                with opener(path) as inside:
                    return "tar" if inside.read(512)[257:262] == b"ustar" else None
            except EOFError:  # cut off so early that nothing comes out of it; `unpack` says so
                return "tar"
            except (OSError, zlib.error, lzma.LZMAError):
                return None
    return None


def unpack(
    path: str | Path, folder: str | Path, *, max_files: int = 2_000_000, max_bytes: float | None = None
) -> None:
    """Unpack a zip or tar file into `folder`, which must be new or empty.

    Nothing is executed, and neither links, owners nor file modes are taken over. max_files, max_bytes: limits
    for what comes out, files together with folders; None: 100 times the archive's size, or 1 GB. Bytes are
    counted as they come, because headers may lie. After any error `folder` is empty.

    Raises ValueError, naming the archive and the entry, for paths that are absolute or hold `..`, a backslash
    or a drive letter; links and devices; encrypted entries; two entries with one name; more than the limits;
    an archive that is cut off or damaged; rar, 7z and files that are no archive.
    """
    path, folder = Path(path), Path(folder)
    kind = archive_kind(path)
    if kind in ("rar", "7z"):
        command = f"unrar x '{path}'" if kind == "rar" else f"7z x '{path}'"
        raise ValueError(
            f"{path} is a {kind} file, which is not unpacked here. Extract it into an empty folder, with "
            f"`{command}` or `bsdtar -xf '{path}'`, and give that folder"
        )
    if kind is None:
        raise ValueError(
            f"{path} is no archive that can be unpacked: expected a zip or tar file; fetch it again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: expected a new folder to unpack {path.name} into")
    if max_bytes is None:
        max_bytes = max(_FREE, _RATIO * path.stat().st_size)
    budget = _Budget(path, max_files, max_bytes)
    try:
        with _named_damage(path), budget.bar:
            (_unpack_zip if kind == "zip" else _unpack_tar)(path, folder, budget)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        raise


class _Budget:
    """Counts files and bytes of one archive against its limits, and shows how far it is."""

    def __init__(self, path: Path, max_files: int, max_bytes: float) -> None:
        self.path, self.files, self.bytes = path, max_files, max_bytes
        self.bar = tqdm(desc=path.name, unit="B", unit_scale=True, disable=None)

    def spend(self, *, files: int = 0, n_bytes: int = 0) -> None:
        self.files -= files
        self.bytes -= n_bytes
        self.bar.update(n_bytes)
        if self.files < 0 or self.bytes < 0:
            what = "files" if self.files < 0 else "bytes"
            raise ValueError(
                f"{self.path} holds more {what} than anything here needs: it may be made to fill the disk. "
                "Nothing was kept; fetch it again from its owners"
            )


def _unpack_zip(path: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > budget.files:
            budget.spend(files=len(entries))
        for entry in entries:  # all are checked before the first is written
            mode = entry.external_attr >> 16
            if stat.S_ISLNK(mode):
                raise _refused(path, entry.orig_filename, "is a link")
            if entry.flag_bits & 1:
                raise _refused(path, entry.orig_filename, "is encrypted")
            _target(path, folder, entry.orig_filename)
        needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
        if budget.bytes >= needed > free:  # checked before hours of unpacking, if the headers are true
            raise OSError(errno.ENOSPC, f"{needed:,} bytes come out of {path}, {free:,} are free")
        for entry in entries:
            target = _target(path, folder, entry.orig_filename)
            if entry.is_dir():
                budget.spend(files=1)
                _make_folder(path, target, entry.filename)
                continue
            with archive.open(entry) as source:
                _write(path, source, target, entry.filename, budget)


def _unpack_tar(path: Path, folder: Path, budget: _Budget) -> None:
    with path.open("rb") as raw:
        magic = raw.read(6)
    opener = next((o for m, o in _COMPRESSED.items() if magic.startswith(m)), open)
    with opener(path, "rb") as stream:
        blocks = _Blocks(stream)
        archive = tarfile.open(fileobj=blocks, mode="r:")  # noqa: SIM115 (the stream is closed above)
        for entry in archive:
            target = _target(path, folder, entry.name)
            if entry.issym() or entry.islnk():
                raise _refused(path, entry.name, "is a link")
            if entry.isdir():
                budget.spend(files=1)
                _make_folder(path, target, entry.name)
            elif entry.isreg():
                with archive.extractfile(entry) as source:
                    _write(path, source, target, entry.name, budget)
            else:
                raise _refused(path, entry.name, "is neither a file nor a folder")
        # tarfile accepts a file that ends between two entries, or has garbage at its end
        if blocks.last != bytes(tarfile.BLOCKSIZE):
            raise EOFError("its closing block is missing")
        while chunk := stream.read(_CHUNK):  # to the end, where the decompressor compares its checksum
            budget.spend(n_bytes=len(chunk))


class _Blocks:
    """A stream that remembers what was read last: seeking back would decompress everything again."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.last = stream, b""
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self.stream.read(size)
        return self.last


def _target(path: Path, folder: Path, name: str) -> Path:
    """Where an entry goes: always below the folder."""
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts:
        raise _refused(path, name, "leads out of the archive")
    if "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise _refused(path, name, "is no plain relative path")
    return folder.joinpath(*parts)


def _make_folder(path: Path, target: Path, name: str) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _refused(path, name, "is there twice") from None


def _write(path: Path, source: IO[bytes], target: Path, name: str, budget: _Budget) -> None:
    budget.spend(files=1)
    _make_folder(path, target.parent, name)
    try:
        file = target.open("xb")
    except (FileExistsError, IsADirectoryError):
        raise _refused(path, name, "is there twice") from None
    with file:
        while chunk := source.read(_CHUNK):
            budget.spend(n_bytes=len(chunk))
            file.write(chunk)


def _refused(path: Path, name: str, fault: str) -> ValueError:
    return ValueError(
        f"{path}: the entry {name!r} {fault}, so that the archive is not unpacked. "
        "Fetch it again from its owners; where a folder will do, extract it yourself"
    )


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Adds the file's name to errors of decoders."""
    try:
        yield
    except (*_DAMAGED, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk, not of a decoder; EINVAL: a seek to where no file begins
        raise ValueError(
            f"{path} is cut off or damaged ({error}): move it away and fetch it again"
        ) from error
