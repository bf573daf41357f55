"""Every file is accounted for, and every oddity of an image is noted or refused by a reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad_core.cache import sha256_of
from zsad_predict import files
from zsad_predict.files import BadImage, FileChanged, find_files, read_mask, read_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)


def saved(path: Path, image: Image.Image = PICTURE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def refused(path: Path, **options) -> BadImage:
    with pytest.raises(BadImage) as caught:
        read_photo(path, **options)
    assert path.name not in str(caught.value), "kept by content: another file may be equal"
    return caught.value


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm", "a.jp2"])
def test_formats_without_loss_give_the_pixels(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    photo = read_photo(saved(tmp_path / name, **options))
    assert photo.image.mode == "RGB" and photo.notes == ()
    np.testing.assert_array_equal(np.asarray(photo.image), PIXELS)


def test_grey_palette_and_cmyk_become_rgb(tmp_path):
    for mode, notes in (("L", 0), ("1", 0), ("P", 0), ("CMYK", 1)):
        photo = read_photo(saved(tmp_path / f"{mode}.tiff", PICTURE.convert(mode)))
        assert (photo.image.mode, photo.image.size, len(photo.notes)) == ("RGB", (30, 20), notes)


def test_transparency_is_laid_over_white(tmp_path):
    clear = PICTURE.convert("RGBA")
    assert read_photo(saved(tmp_path / "opaque.png", clear)).notes == ()
    clear.putalpha(0)
    photo = read_photo(saved(tmp_path / "clear.png", clear))
    assert photo.notes == ("transparent parts laid over white",)
    assert np.asarray(photo.image).min() == 255


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    for name in ("a.jpg", "a.png", "a.webp"):
        photo = read_photo(saved(tmp_path / name, exif=exif))
        assert (photo.image.size, photo.notes) == ((20, 30), ("turned as its EXIF data say",))
    photo = read_photo(saved(tmp_path / "a.tiff", exif=exif))
    assert photo.image.size == (20, 30) and "turned as its EXIF data say" in photo.notes
    np.testing.assert_array_equal(np.asarray(photo.image), np.rot90(PIXELS, -1))


def test_sixteen_bits_are_scaled_and_a_dark_range_is_noted(tmp_path):
    full = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    for name in ("full.png", "full.tiff"):
        photo = read_photo(saved(tmp_path / name, Image.fromarray(full)))
        assert photo.notes == ("16 bits scaled to 8",)
        np.testing.assert_allclose(np.asarray(photo.image)[..., 0], full / 257, atol=1)
    twelve = saved(tmp_path / "twelve.png", Image.fromarray(full // 16))
    photo = read_photo(twelve)
    assert "only the values 0 to 4095 of 0 to 65535 are used" in photo.notes[1]
    assert "is it from a camera of 12 bits?" in photo.notes[1]
    photo = read_photo(twelve, bits=12)
    assert photo.notes == ("12 bits scaled to 8",) and np.asarray(photo.image).max() == 255
    assert "above 1023 are cut off" in read_photo(twelve, bits=10).notes[1]
    with pytest.raises(ValueError, match="expected 9 to 16"):
        read_photo(twelve, bits=8)


def test_first_page_of_many_is_taken_and_said(tmp_path):
    path = saved(tmp_path / "pages.tiff", save_all=True, append_images=[PICTURE.convert("L")] * 2)
    photo = read_photo(path)
    assert photo.notes == ("first of 3 pages in the file",)
    np.testing.assert_array_equal(np.asarray(photo.image), PIXELS)


def test_bad_files_are_refused_with_the_reason(tmp_path):
    whole = saved(tmp_path / "whole.jpg").read_bytes()
    cases = {
        "empty.png": (b"", "unreadable", "it is empty"),
        "cut.jpg": (whole[: len(whole) // 2], "unreadable", "cut off or damaged"),
        "start.png": (b"\x89PNG\r\n\x1a\n", "unreadable", "begins like an image"),
        "notes.txt": (b"no image at all", "no image", "no image in a format"),
        "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "no image", "HEIC"),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image", "no image in a format"),
    }
    for name, (content, status, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        error = refused(tmp_path / name)
        assert error.status == status and reason in str(error), name
    png = saved(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(png[:-40])
    assert refused(tmp_path / "cut.png").status == "unreadable"


def test_floating_point_and_32_bit_integers_are_refused(tmp_path):
    path = saved(tmp_path / "float.tiff", Image.fromarray(np.ones((4, 4), np.float32)))
    assert "floating-point" in str(refused(path))
    path = saved(tmp_path / "wide.tiff", Image.fromarray(np.full((4, 4), 70_000, np.int32)))
    assert "scale them to 0…65535" in str(refused(path))


def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
    bomb = saved(tmp_path / "bomb.png", Image.new("1", (20_000, 20_000)))  # some kilobytes
    assert "20000 x 20000 pixels" in str(refused(bomb))
    assert Image.MAX_IMAGE_PIXELS, "Pillow's own limit is as it was"
    assert read_photo(saved(tmp_path / "a.png"), max_pixels=600).image.size == (30, 20)
    assert "more than 599" in str(refused(tmp_path / "a.png", max_pixels=599))
    assert "cut it up" in str(refused(saved(tmp_path / "thread.png", Image.new("L", (410, 10)))))


def test_a_file_that_changed_or_cannot_be_opened(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png")
    digest = sha256_of(path)
    read_photo(path, digest=digest)
    saved(path, PICTURE.convert("L"))
    with pytest.raises(FileChanged):
        read_photo(path, digest=digest)
    assert "cannot be opened: No such file" in str(refused(tmp_path / "nowhere.png"))

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    assert "cannot be opened: Permission denied" in str(refused(path))
    with pytest.raises(BadImage, match="Permission denied"):
        files.digest_of(path)


def test_every_file_is_listed_once_and_what_is_passed_over_is_counted(tmp_path):
    folder = tmp_path / "photos"
    names = ["b.png", "a b/ü.png", "a b/ü.jpg", "a b/notes.txt", "good/1.png"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name in (".hidden.png", ".git/1.png", "old/run.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"made_by": "zsad_predict"}')
    os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    found = find_files(folder, other=[folder / "good"])
    assert [entry.name for entry in found.entries] == sorted([*names[:-1], "pipe.png"])
    assert (found.hidden, found.results, found.other) == (2, 1, 1)
    assert {entry.name: entry.status for entry in found.entries if entry.status} == {"pipe.png": "left out"}


def test_links_out_of_the_folder_are_left_out_unless_asked_for(tmp_path):
    folder = tmp_path / "photos"
    saved(folder / "a.png")
    saved(tmp_path / "elsewhere" / "secret.png")
    (folder / "inside.png").symlink_to(folder / "a.png")
    (folder / "outside.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    (folder / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    found = {entry.name: entry.status for entry in find_files(folder).entries}
    assert found == {
        "a.png": "", "inside.png": "", "lost.png": "unreadable",
        "more": "left out", "outside.png": "left out", "round": "left out",
    }  # fmt: skip
    followed = {entry.name: entry.status for entry in find_files(folder, follow_links=True).entries}
    assert followed == {
        "a.png": "", "inside.png": "", "lost.png": "unreadable", "more/secret.png": "", "outside.png": "",
    }  # fmt: skip


def test_a_folder_that_cannot_be_listed_is_a_row_or_an_error(tmp_path, monkeypatch):
    saved(tmp_path / "a.png")
    saved(tmp_path / "locked" / "b.png")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", guarded)
    locked = "locked"
    (entry,) = [entry for entry in find_files(tmp_path).entries if entry.status]
    assert (entry.name, entry.status) == ("locked/", "unreadable")
    assert "Permission denied" in entry.error
    locked = tmp_path.name
    with pytest.raises(PermissionError, match="cannot list the folder"):
        find_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="correct the path"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="expected a folder"):
        find_files(tmp_path / "a.png")


def test_names_that_are_no_unicode_can_be_written(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    (entry,) = find_files(tmp_path).entries
    assert entry.name == "caf\\xe9.png" and entry.path.is_file()


def test_mask_is_what_is_not_black_or_not_the_first_colour(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[2:5, 3:9] = 1
    for mode in ("L", "RGB", "RGBA"):
        image = Image.fromarray(mask * 255).convert(mode)
        np.testing.assert_array_equal(read_mask(saved(tmp_path / f"{mode}.png", image)), mask > 0)
    palette = Image.fromarray(mask).convert("P")
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "P.png", palette)), mask > 0)
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(BadImage):
        read_mask(tmp_path / "bad.png")
