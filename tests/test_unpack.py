import errno
import io
import lzma
import random
import shutil
import stat
import struct
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from helpers import contents, written

from data_scripts.unpack import archive_kind, unpack

FILES = {"a/1.txt": b"one", "a/b/2.txt": b"two" * 500, "readme": b""}


def make_zip(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path, how="w", files=FILES, **change):
    with tarfile.open(path, how) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for field, value in change.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_archives_whatever_their_name(tmp_path, mode):
    path, files = tmp_path / "photo.png", FILES | {"./c/3": b"3"}
    if mode == "zip":
        make_zip(path, files | {"empty/": b""})
    else:
        make_tar(path, mode, files, mode=0o4777)
    assert archive_kind(path) == ("zip" if mode == "zip" else "tar")
    unpack(path, tmp_path / "out")
    with pytest.raises(FileExistsError, match="out is not empty"):
        unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES | {"c/3": b"3"}
    mode_bits = (tmp_path / "out/a/1.txt").stat().st_mode
    assert not mode_bits & (stat.S_ISUID | stat.S_IXUSR), "modes are not taken over"
    assert (tmp_path / "out/empty").is_dir() == (mode == "zip")


def test_kinds_by_content(tmp_path):
    file = tmp_path / "x.zip"
    for content in (b"", bytes(2048), lzma.compress(b"no tar")):
        assert archive_kind(written(file, content)) is None
    make_zip(file, {"[Content_Types].xml": b"", "xl/workbook.xml": b""})
    assert archive_kind(file) is None, "a spreadsheet is no archive"
    refused(written(file, b"Rar!\x1a\x07\x01\x00"), tmp_path / "out", "unrar x .*give that folder")
    refused(written(file, b"7z\xbc\xaf\x27\x1c"), tmp_path / "out", "7z x ")
    refused(written(file, b"<html>please log in</html>"), tmp_path / "out", "is no archive")


def refused(path, folder, message, **limits):
    """The archive is refused with this message, and nothing has come out of it."""
    with pytest.raises(ValueError, match=message) as error:
        unpack(path, folder, **limits)
    assert str(path) in str(error.value)
    assert not folder.exists() or list(folder.iterdir()) == []
    assert {p.name for p in folder.parent.iterdir()} <= {folder.name, path.name}


def test_links_devices_and_encrypted_files(tmp_path):
    path, out = tmp_path / "evil", tmp_path / "out"
    faults = {tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "link", tarfile.FIFOTYPE: "neither a file nor"}
    for kind, fault in faults.items():
        make_tar(path, files={"a": b""}, type=kind, linkname="fine")
        refused(path, out, f"'a' is (a )?{fault}")
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(path, out, "'link' is a link")
    data = bytearray(make_zip(path, {"secret": b"1"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(written(path, bytes(data)), out, "'secret' is encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_and_sizes_that_are_refused(tmp_path, make):
    path, out = tmp_path / "evil", tmp_path / "out"
    for name in ("../x", "a/../../x", "/x", "C:x", "a\\..\\x", ".."):
        make(path, files={"fine": b"1", name: b"2"})
        refused(path, out, "leads out of the archive|no plain relative path")
    for second in ("a//1", "./a/1", "a", "a/1/x"):
        make(path, files=dict.fromkeys(["a/1", second], b"1"))
        refused(path, out, "there twice")
    folders = {f"{i}/": b"" for i in range(30)}
    make(path, files=folders, **({} if make is make_zip else {"type": tarfile.DIRTYPE}))
    refused(path, out, "more files than", max_files=29)
    make(path, files={"1": bytes(3_000_000), "2": b"", "3": b""})
    refused(path, out, "more bytes than", max_bytes=2e6)
    unpack(path, out, max_files=3, max_bytes=4e6)


def test_header_that_fills_the_memory(tmp_path):
    with lzma.open(tmp_path / "bomb", "wb") as file:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, 17 << 20
        file.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size) + bytes(1024))
    refused(tmp_path / "bomb", tmp_path / "out", r"a header of 17,825,792 bytes")


@pytest.mark.parametrize("keep", [0.1, 0.8])
@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz", "w:bz2"])
def test_cut_off(tmp_path, keep, mode):
    noise = random.Random(0).randbytes(40_000)
    path, files = tmp_path / "short", {"1": noise, "2": noise}
    whole = (make_zip(path, files) if mode == "zip" else make_tar(path, mode, files)).read_bytes()
    refused(written(path, whole[: int(len(whole) * keep)]), tmp_path / "out", "short is cut off or damaged")


def test_damaged(tmp_path):
    """In a tar tarfile itself sees nothing wrong; for a zip's directory zipfile names no file."""
    path, out = tmp_path / "bad", tmp_path / "out"
    whole = make_tar(path, files={"1": bytes(512), "2": bytes(512)}).read_bytes()
    for faulty in (whole[:1024], whole[:1024] + b"\1" * 512 + whole[1024:], whole[:1100]):
        refused(written(path, faulty), out, "closing block is missing")
    whole = make_zip(path, {"\u00e9": bytes(range(256)) * 40, "b": b"2"}).read_bytes()
    name, end = whole.rindex("\u00e9".encode()), whole.rindex(b"PK\x05\x06")
    entry = whole.index(b"PK\x01\x02")
    for at, wrong in (
        (60, bytes([whole[60] ^ 255])),  # content
        (name, b"\xff"),
        (end + 16, b"\xff\xff\x00\x00"),  # so that files begin before 0
        (entry + 24, struct.pack("<I", 10)),  # the unpacked size
    ):
        path.write_bytes(whole[:at] + wrong + whole[at + len(wrong) :])
        refused(path, out, "bad is cut off or damaged|more bytes than", max_bytes=2e6)


def test_too_little_space_and_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("data_scripts.unpack._write", full)
        unpack(make_zip(tmp_path / "x"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr("data_scripts.unpack._FREE", 1e5)  # by the archive's own size
        refused(make_zip(tmp_path / "x", {"1": bytes(3_000_000)}), tmp_path / "out", "more bytes than")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1502))
    with pytest.raises(OSError, match="1,503 bytes come out of .*x, 1,502 are free") as error:
        unpack(make_zip(tmp_path / "x"), tmp_path / "out")
    assert error.value.errno == errno.ENOSPC
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1503))
    unpack(make_zip(tmp_path / "x"), tmp_path / "out", max_bytes=1503)  # both limits hold
