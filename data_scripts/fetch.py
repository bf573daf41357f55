"""Downloads that continue after an interruption; a file gets its name only when its checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from data_scripts.unpack import archive_kind

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Archive:
    """One file of a download.

    name: as its owners ship it. url: only where a plain download is allowed, without a form or a login.
    sha256, md5: hexadecimal, None where none is known. bytes: its size, None where it is not known.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    md5: str | None = None
    bytes: int | None = None

    def check(self, path: Path) -> str | None:
        """A sentence on a wrong size or checksum of this file; None if both fit or none is known.

        The size is compared first, because the checksum of a large file takes long.
        """
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return f"{path} has {size:,} bytes: expected {self.bytes:,}"
        for kind in ("sha256", "md5"):
            expected = getattr(self, kind)
            if expected is not None:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, kind).hexdigest()
                if found != expected.lower():
                    return f"{path} has the {kind} {found}: expected {expected.lower()}"
                return None
        return None


def fetch(archive: Archive, folder: str | Path) -> Path:
    """Download an archive to `folder`; returns its path.

    Goes to `<name>.part` first. An unfinished one is continued, if the server knows ranges, else begun again.
    A whole file that is there with the right checksum is not fetched again.

    Raises ValueError when the size or checksum is wrong (nothing is deleted), ConnectionError when the
    server cannot be reached or ends early, BlockingIOError while another process fetches the same file.
    """
    if archive.url is None:
        raise ValueError(f"{archive.name} cannot be fetched without its owners' consent: see --help")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    lock = FileLock(f"{part}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another process fetches {target}: wait until it has ended") from None
    try:
        if target.exists():
            _require(archive, target)
            return target
        _download(archive, part, target)
        _require(archive, part)
        part.replace(target)
        return target
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _require(archive: Archive, path: Path) -> None:
    wrong = archive.check(path)
    if not wrong and not archive.sha256 and not archive.md5 and archive_kind(path) is None:
        wrong = f"{path} is no archive, it may be a page that asks for a login"
    if wrong:
        raise ValueError(
            f"{wrong}. Nothing was deleted: move {path.name} away and run this again. If it comes out the "
            f"same, the file at {archive.url} may have been replaced: ask its owners"
        )


def _download(archive: Archive, part: Path, target: Path) -> None:
    begin = part.stat().st_size if part.exists() else 0
    if archive.bytes is not None and begin == archive.bytes:
        return
    try:
        with _open(archive.url, begin) as response:
            begin = begin if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length")
            end = begin + int(length) if length is not None else None
            _save(response, part, begin, end)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and begin:
            return  # all of it is there, or too much: the checksum decides
        raise _not_reached(archive, target, error) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _not_reached(archive, target, getattr(error, "reason", error)) from error
    size = part.stat().st_size
    if end is not None and size != end:
        raise ConnectionError(
            f"the connection to {archive.url} ended after {size:,} of {end:,} bytes: run this again, "
            "it goes on"
        )


def _open(url: str, begin: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "zsad_core", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)


def _save(response: http.client.HTTPResponse, part: Path, begin: int, end: int | None) -> None:
    bar = tqdm(desc=part.stem, total=end, initial=begin, unit="B", unit_scale=True, disable=None)
    with part.open("ab" if begin else "wb") as file, bar:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _not_reached(archive: Archive, target: Path, reason: object) -> ConnectionError:
    sums = archive.sha256 and f"sha256 {archive.sha256}" or archive.md5 and f"md5 {archive.md5}"
    return ConnectionError(
        f"cannot fetch {archive.url}: {reason}. Run this again later, or fetch that address on another "
        f"machine and put the file at {target}" + (f" ({sums})" if sums else "")
    )
