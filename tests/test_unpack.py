from __future__ import annotations

import errno
import io
import lzma
import random
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_scripts.unpack import archive_kind, unpack

FILES = {"a/1.txt": b"one", "a/b/2.txt": b"two" * 500, "readme": b""}


def make_zip(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, how: str = "w", files: dict[str, bytes] = FILES, **change: object) -> Path:
    with tarfile.open(path, how) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for field, value in change.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_whatever_its_name(tmp_path: Path, mode: str) -> None:
    path = make_tar(tmp_path / "photo.png", mode, mode=0o4777)
    assert archive_kind(path) == "tar"
    unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    mode_bits = (tmp_path / "out/a/1.txt").stat().st_mode
    assert not mode_bits & (stat.S_ISUID | stat.S_IXUSR), "modes are not taken over"


def test_zip_with_folders(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.tar", {"empty/": b"", "./c/3": b"3"} | FILES)
    assert archive_kind(path) == "zip"
    unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES | {"c/3": b"3"}
    assert (tmp_path / "out/empty").is_dir()


def test_kinds_by_content(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    for content, kind in (
        (b"", None),
        (bytes(2048), None),
        (b"Rar!\x1a\x07\x01\x00", "rar"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (lzma.compress(b"no tar"), None),
    ):
        file.write_bytes(content)
        assert archive_kind(file) == kind
    make_zip(file, {"[Content_Types].xml": b"", "xl/workbook.xml": b""})
    assert archive_kind(file) is None, "a spreadsheet is no archive"


def refused(path: Path, folder: Path, message: str, **limits: float) -> None:
    """The archive is refused with this message, and nothing has come out of it."""
    with pytest.raises(ValueError, match=message) as error:
        unpack(path, folder, **limits)
    assert str(path) in str(error.value)
    assert not folder.exists() or list(folder.iterdir()) == []
    assert {p.name for p in folder.parent.iterdir()} <= {folder.name, path.name}


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "C:/x", "C:x", "a\\..\\x", "..", "a/b/../../../x"]
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_lead_out(tmp_path: Path, name: str, make: Callable) -> None:
    path = make(tmp_path / "evil", files={"fine": b"1", name: b"2"})
    refused(path, tmp_path / "out", "leads out of the archive|no plain relative path")


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "/etc"), (tarfile.SYMTYPE, "a"), (tarfile.LNKTYPE, "fine"), (tarfile.FIFOTYPE, "")],
)
def test_tar_links_and_devices(tmp_path: Path, kind: bytes, target: str) -> None:
    path = make_tar(tmp_path / "evil", files={"a": b""}, type=kind, linkname=target)
    fault = "is neither a file nor a folder" if kind == tarfile.FIFOTYPE else "is a link"
    refused(path, tmp_path / "out", f"'a' {fault}")


def test_zip_links_and_encryption(tmp_path: Path) -> None:
    path = tmp_path / "evil"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fine", b"1")
        archive.writestr(link, "/etc/passwd")
    refused(path, tmp_path / "out", "'link' is a link")
    data = bytearray(make_zip(path, {"secret": b"1"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, tmp_path / "out", "'secret' is encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a/1", "./a/1", "a", "a/1/x"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_two_entries_with_one_name(tmp_path: Path, second: str, make: Callable) -> None:
    if second == "a/1":
        second = "a//1"  # a dict holds a name once
    path = make(tmp_path / "twice", files={"a/1": b"1", second: b"2"})
    refused(path, tmp_path / "out", "there twice")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_limits(tmp_path: Path, make: Callable) -> None:
    path = make(tmp_path / "bomb", files={"1": bytes(3_000_000), "2": b"", "3": b""})
    refused(path, tmp_path / "out", "more bytes than", max_bytes=2e6)
    refused(path, tmp_path / "out", "more files than", max_files=2)
    unpack(path, tmp_path / "out", max_files=3, max_bytes=4e6)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_folders_count_as_files(tmp_path: Path, make: Callable) -> None:
    names = {f"{i}/": b"" for i in range(30)}
    path = make(tmp_path / "bomb", files=names, **({} if make is make_zip else {"type": tarfile.DIRTYPE}))
    refused(path, tmp_path / "out", "more files than", max_files=29)
    unpack(path, tmp_path / "out", max_files=30)


def test_limit_by_the_archives_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_scripts.unpack._FREE", 1e5)
    path = make_zip(tmp_path / "bomb", {"1": bytes(3_000_000)})
    refused(path, tmp_path / "out", "more bytes than")
    unpack(make_zip(path, {"1": bytes(90_000)}), tmp_path / "out")


def test_header_that_fills_the_memory(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "bomb", "wb") as file:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, 17 << 20
        file.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size) + bytes(1024))
    refused(tmp_path / "bomb", tmp_path / "out", r"a header of 17,825,792 bytes")


def test_headers_that_lie_about_the_size(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "bomb", {"1": bytes(3_000_000)}).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)  # the unpacked size in the directory
    (tmp_path / "bomb").write_bytes(data)
    refused(tmp_path / "bomb", tmp_path / "out", "cut off or damaged|more bytes than", max_bytes=2e6)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_cut_off(tmp_path: Path, keep: float) -> None:
    noise = random.Random(0).randbytes(40_000)
    for make in (
        make_zip,
        make_tar,
        lambda path, files: make_tar(path, "w:gz", files),
        lambda path, files: make_tar(path, "w:xz", files),
        lambda path, files: make_tar(path, "w:bz2", files),
    ):
        path = make(tmp_path / "short", files={"1": noise, "2": noise})
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep)])
        refused(path, tmp_path / "out", "short is cut off or damaged")


def test_tar_cut_between_two_entries_or_followed_by_garbage(tmp_path: Path) -> None:
    """Here tarfile itself sees nothing wrong."""
    path = make_tar(tmp_path / "short", files={"1": bytes(512), "2": bytes(512)})
    whole = path.read_bytes()
    for faulty in (whole[:1024], whole[:1024] + b"\1" * 512 + whole[1024:], whole[:1100]):
        path.write_bytes(faulty)
        refused(path, tmp_path / "out", "closing block is missing")


def test_damaged_content(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "z", {"1": bytes(range(256)) * 40}).read_bytes())
    data[60] ^= 255
    (tmp_path / "z").write_bytes(data)
    refused(tmp_path / "z", tmp_path / "out", "z is cut off or damaged")


def test_damaged_directory_of_a_zip(tmp_path: Path) -> None:
    """What zipfile raises for it says neither which file it was nor that it is damaged."""
    whole = make_zip(tmp_path / "z", {"\u00e9": b"1", "b": b"2"}).read_bytes()
    name = whole.rindex("\u00e9".encode())
    end = whole.rindex(b"PK\x05\x06")
    for faulty in (
        whole[:name] + b"\xff" + whole[name + 1 :],
        whole[: end + 16] + b"\xff\xff\x00\x00" + whole[end + 20 :],  # so that files begin before 0
    ):
        (tmp_path / "z").write_bytes(faulty)
        refused(tmp_path / "z", tmp_path / "out", "z is cut off or damaged")


def test_what_is_not_unpacked_here(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for content, message in (
        (b"Rar!\x1a\x07\x01\x00", "unrar x .*give that folder"),
        (b"7z\xbc\xaf\x27\x1c", "7z x "),
        (b"<html>please log in</html>", "is no archive"),
    ):
        file.write_bytes(content)
        refused(file, tmp_path / "out", message)


def test_unpacks_into_an_empty_folder_only(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="out is not empty"):
        unpack(make_zip(tmp_path / "x"), tmp_path / "out")
    assert contents(tmp_path / "out") == {"thesis.txt": b"mine"}


def test_too_little_space_is_known_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1502))
    with pytest.raises(OSError, match="1,503 bytes come out of .*x, 1,502 are free") as error:
        unpack(make_zip(tmp_path / "x"), tmp_path / "out")
    assert error.value.errno == errno.ENOSPC


def test_full_disk_is_no_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_scripts.unpack._write", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(make_zip(tmp_path / "x"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
