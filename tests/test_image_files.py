"""Every file below a folder is accounted for, and one that changed is not read."""

import os
from pathlib import Path

import pytest
from helpers import refused, saved, written
from PIL import Image

from zsad_core.cache import sha256_of
from zsad_core.images import BadImage
from zsad_predict import files
from zsad_predict.files import FileChanged, Reader, find_files

PICTURE = Image.new("L", (30, 20))


def test_a_file_that_changed_or_cannot_be_opened(tmp_path, monkeypatch):
    path, reader = saved(tmp_path / "a.png", PICTURE), Reader()
    digest = sha256_of(path)
    assert reader.photo(path, digest)[0].size == (30, 20)
    saved(path, Image.new("L", (30, 20), 1))
    with pytest.raises(FileChanged):
        reader.photo(path, digest)
    refused("cannot be opened: No such file", reader.photo, tmp_path / "nowhere.png", digest, error=BadImage)

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    for read in (lambda: reader.photo(path, digest), lambda: files.digest_of(path)):
        refused("cannot be opened: Permission denied", read, error=BadImage)


def test_every_file_is_listed_once_and_what_is_passed_over_is_counted(tmp_path):
    folder = tmp_path / "photos"
    names = ["b.png", "a b/ü.png", "a b/ü.jpg", "a b/notes.txt", "good/1.png"]
    for name in (*names, ".hidden.png", ".git/1.png", "old/run.json"):
        written(folder / name, '{"made_by": "zsad_predict"}')
    os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    saved(tmp_path / "elsewhere" / "secret.png", PICTURE)
    links = {"inside.png": folder / "b.png", "outside.png": tmp_path / "elsewhere" / "secret.png"}
    links |= {"lost.png": tmp_path / "nowhere.png", "more": tmp_path / "elsewhere", "round": folder}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    found, passed_over = find_files(folder, other=[folder / "good"])
    readable = [entry.name for entry in found if not entry.problem]
    assert sorted(readable) == sorted([*names[:-1], "caf\\xe9.png", "inside.png"])
    others = ("the results of an earlier run", "the references, masks or labels of this run")
    assert passed_over == {"hidden": 2, others[0]: 1, others[1]: 1}
    left = {entry.name: entry.problem.status for entry in found if entry.problem}
    assert left.pop("lost.png") == "unreadable"
    assert left == dict.fromkeys(["more", "outside.png", "pipe.png", "round"], "left out")


def test_a_folder_that_cannot_be_listed_is_a_row_or_an_error(tmp_path, monkeypatch):
    saved(tmp_path / "a.png", PICTURE)
    saved(tmp_path / "locked" / "b.png", PICTURE)
    iterdir = Path.iterdir

    def guarded(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    (entry,) = [entry for entry in find_files(tmp_path)[0] if entry.problem]
    assert (entry.name, entry.problem.status) == ("locked/", "unreadable")
    refused("cannot list the folder", find_files, tmp_path / "locked", error=PermissionError)
    refused("correct the path", find_files, tmp_path / "nowhere", error=FileNotFoundError)
    refused("expected a folder", find_files, tmp_path / "a.png", error=NotADirectoryError)
