"""Each kind of image and mask file gives the pixels that one expects, or an error that says what to do; views
and tiles show what they should; every file below a folder is accounted for."""

import io
import math
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import ramp, refused, saved, written
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zsad_core import images
from zsad_core.cache import sha256_of
from zsad_core.images import BadImage, image_size, read_image, read_mask, read_photo, to_rgb
from zsad_predict import files
from zsad_predict.files import FileChanged, Reader, find_files

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm", "a.jp2"])
def test_formats_without_loss_give_the_pixels(tmp_path, name):
    path = saved(tmp_path / name, PICTURE, **({"lossless": True} if name.endswith("webp") else {}))
    image, notes = read_photo(path)
    assert image.mode == "RGB" and notes == [] and image_size(path) == (30, 20)
    np.testing.assert_array_equal(np.asarray(read_image(path)), PIXELS)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "HSV"])
def test_opaque_images_of_any_mode_look_as_pil_shows_them(tmp_path, mode):
    image = PICTURE.convert(mode)
    np.testing.assert_array_equal(to_rgb(image), image.convert("RGB"))
    if mode != "HSV":
        found, notes = read_photo(saved(tmp_path / "a.tiff", image))
        np.testing.assert_array_equal(found, image.convert("RGB"))
        assert notes == (["from CMYK, without its colour profile"] if mode == "CMYK" else [])


def test_transparency_is_laid_over_white(tmp_path):
    clear = PICTURE.convert("RGBA")
    clear.putalpha(0)
    grey, one_colour = Image.new("RGB", (30, 20), (7, 7, 7)), {"transparency": (7, 7, 7)}  # as PNG can say
    for image, options in ((clear, {}), (grey, one_colour)):
        image, notes = read_photo(saved(tmp_path / "a.png", image, **options))
        assert notes == ["transparent parts laid over white"]
        assert np.asarray(image).min() == 255


def test_photographs_are_turned_and_images_of_datasets_are_not(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    for name in ("a.jpg", "a.png", "a.tiff"):
        path = saved(tmp_path / name, PICTURE, exif=exif)
        image, notes = read_photo(path)
        assert image.size == (20, 30) and "turned as its EXIF data say" in notes
        assert read_mask(path, upright=True).shape == (30, 20)
        assert read_image(path).size == read_mask(path).shape[::-1] == image_size(path)
        assert image_size(path) == ((20, 30) if name == "a.tiff" else (30, 20))  # Pillow turns a TIFF anyhow
    np.testing.assert_array_equal(np.asarray(image), np.rot90(PIXELS, -1))
    broken = saved(tmp_path / "a.jpg", PICTURE, exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff")
    assert read_photo(broken)[0].size == image_size(broken) == (30, 20)


def test_sixteen_bits_are_scaled_and_a_dark_range_is_noted(tmp_path):
    full = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    for name in ("full.png", "full.tiff"):
        image, notes = read_photo(saved(tmp_path / name, Image.fromarray(full)))
        assert notes == ["16 bits scaled to 8"]
        np.testing.assert_array_equal(np.asarray(image)[..., 0], full // 257)
    twelve = saved(tmp_path / "twelve.png", Image.fromarray(full // 16))
    _, (_, note) = read_photo(twelve)
    assert "0 to 4095 of 0 to 65535 are used" in note and "is it from a camera of 12 bits?" in note
    image, notes = read_photo(twelve, bits=12)
    assert notes == ["12 bits scaled to 8"] and np.asarray(image).max() == 255
    assert "above 1023 are cut off" in read_photo(twelve, bits=10)[1][1]
    refused("expected 9 to 16", read_photo, twelve, bits=8)
    gray = np.arange(256).reshape(16, 16)
    wide = Image.fromarray((gray * 257).astype(np.int32))  # as after an operation of PIL
    np.testing.assert_array_equal(to_rgb(wide), np.stack([gray] * 3, axis=-1))


def test_first_page_of_many_is_taken_and_said(tmp_path):
    path = saved(tmp_path / "pages.tiff", PICTURE, save_all=True, append_images=[PICTURE.convert("L")] * 2)
    image, notes = read_photo(path)
    assert notes == ["first of 3 pages in the file"]
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def as_bytes(kind, pixels=PIXELS):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def huge(side):
    content = bytearray(as_bytes("PNG"))
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "status", "reason"),
    [
        ("empty.png", b"", "unreadable", "it is empty"),
        ("cut.jpg", as_bytes("JPEG")[:400], "unreadable", "cut off or damaged"),
        ("cut.png", as_bytes("PNG")[:-40], "unreadable", "cut off or damaged"),
        ("notes.txt", b"no image at all", "no image", "no image in a format"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "no image", "HEIC"),
        ("page.png", as_bytes("EPS"), "no image", "no image in a format"),  # PIL would start Ghostscript
        ("float.tiff", as_bytes("TIFF", np.ones((4, 4), np.float32)), "unreadable", "no fixed range"),
        ("wide.tiff", as_bytes("TIFF", np.full((4, 4), 70_000, np.int32)), "unreadable", "0…65535"),
        ("huge.png", huge(60_000), "unreadable", "60000 x 60000 pixels, more than 100,000,000"),
        ("thread.png", as_bytes("PNG", np.zeros((10, 410), np.uint8)), "unreadable", "cut it up"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path, name, content, status, reason):
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(None, read_photo, path, error=BadImage)
    assert error.status == status and reason in str(error) and path.name in str(error)
    assert path.name not in error.reason, "kept by content: another file may be equal"
    readers = [("image", read_image), ("mask", read_mask)]
    for kind, read in readers[: 1 if name.endswith("tiff") else 2]:  # masks may hold any numbers
        found = refused(None, read, path, error=BadImage)
        assert str(found) == f"{kind} {path} cannot be read: {error.reason}"
        assert str(pickle.loads(pickle.dumps(found))) == str(found), "workers send it"


def test_limit_of_pixels_and_missing_files(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", PICTURE)
    monkeypatch.setattr(images, "MAX_PIXELS", 600)
    assert read_image(path).size == (30, 20)
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    refused("more than 599", read_photo, path, error=BadImage)
    message = "nowhere.png does not exist; prepare the dataset again"
    for read in (read_image, read_mask, image_size):
        refused(message, read, tmp_path / "nowhere.png", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("image", "above", "expected"),
    [
        (Image.fromarray(np.array([[0, 1, 3]], np.uint8)), 0, [0, 1, 1]),
        (Image.fromarray(np.array([[0, 127, 128]], np.uint8)), 127, [0, 0, 1]),
        (Image.fromarray(np.array([[False, True, False]])), 127, [0, 1, 0]),
        (Image.fromarray(np.array([[0, 200, 60000]], np.uint16)), 0, [0, 1, 1]),
        (Image.fromarray(np.array([[[0, 0, 0], [0, 0, 99], [255, 255, 255]]], np.uint8)), 0, [0, 1, 1]),
        (Image.fromarray(np.array([[[0, 0, 0, 255], [9, 9, 9, 0], [0, 0, 0, 0]]], np.uint8)), 0, [0, 1, 0]),
        (Image.fromarray(np.array([[[0, 255], [255, 255], [0, 0]]], np.uint8), "LA"), 0, [0, 1, 0]),
    ],
)  # fmt: skip
def test_masks_of_every_mode(tmp_path, image, above, expected):
    assert read_mask(saved(tmp_path / "mask.png", image), above).tolist() == [list(map(bool, expected))]
    if above == 0 and image.mode == "L":  # index 0 of a palette is the background, and a black one a defect
        image = image.convert("P")
        image.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0, 9, 9, 9])
        assert read_mask(saved(tmp_path / "mask.png", image)).tolist() == [[False, True, True]]


def test_a_file_that_changed_or_cannot_be_opened(tmp_path, monkeypatch):
    path, reader = saved(tmp_path / "a.png", PICTURE), Reader()
    digest = sha256_of(path)
    assert reader.photo(path, digest)[0].size == (30, 20)
    saved(path, Image.new("L", (30, 20), 1))
    refused(None, reader.photo, path, digest, error=FileChanged)
    refused("cannot be opened: No such file", reader.photo, tmp_path / "nowhere.png", digest, error=BadImage)

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    for read in (lambda: reader.photo(path, digest), lambda: files.digest_of(path)):
        refused("cannot be opened: Permission denied", read, error=BadImage)


def views_of(image, size=24, **options):
    """(n, 3, H, W) in [0, 1]."""
    pictures = images.inference_views(image, (size, size), **options)
    return np.stack([np.array(view, np.float32).transpose(2, 0, 1) / 255 for view in pictures])


def centre(view):
    """Mean position of a view of `ramp`, as fractions of width and height."""
    return view[:2].mean((1, 2)).tolist()


def extent(view, channel):
    """Share of the width (0) or height (1) that a view of `ramp` covers."""
    line = view[channel].mean(channel)[2:-2]  # inner pixels: resizing bends the borders
    return (line[-1] - line[0]).item() / (len(line) - 1) * (len(line) + 4)


def test_six_views_whole_corners_centre():
    six = views_of(ramp(300, 300), 120)
    assert six.shape == (6, 3, 120, 120)
    near, far = 120 / 137 / 2, 1 - 120 / 137 / 2  # 137 = round(120 * 274 / 240)
    expected = [(0.5, 0.5), (near, near), (far, near), (near, far), (far, far), (0.5, 0.5)]
    np.testing.assert_allclose([centre(view) for view in six], expected, atol=0.005)
    np.testing.assert_allclose([extent(view, 0) for view in six], [1] + [120 / 137] * 5, atol=0.01)
    papers = views_of(ramp(480, 480), 240)
    assert extent(papers[5], 1) == pytest.approx(240 / 274, abs=0.003)
    assert extent(views_of(ramp(480, 480), 240, zoom=1.5)[5], 1) == pytest.approx(1 / 1.5, abs=0.003)
    (single,) = views_of(ramp(300, 300), 120, zoom=None)
    np.testing.assert_array_equal(single, six[0])
    clear = views_of(Image.new("RGBA", (30, 30), (0, 0, 0, 0)))  # PIL alone gives black
    np.testing.assert_array_equal(clear, np.ones((6, 3, 24, 24)))


def test_images_that_are_not_square():
    wide = ramp(300, 150)
    squashed = views_of(wide, 60)
    assert extent(squashed[0], 0) == pytest.approx(1, abs=0.02)
    cut = views_of(wide, 60, whole="center_crop")
    assert extent(cut[0], 0) == pytest.approx(0.5, abs=0.02)
    assert extent(cut[0], 1) == pytest.approx(1, abs=0.02)
    middle = views_of(wide.crop((75, 0, 225, 150)), 60)
    np.testing.assert_array_equal(cut, middle)  # nothing outside the centre is seen, in any view
    assert extent(squashed[1], 0) == pytest.approx(0.5 * 60 / 68, abs=0.02)  # the crops keep the shape
    tiles = views_of(wide, 60, whole="tiles")
    assert len(tiles) == 18
    np.testing.assert_allclose([centre(tiles[i])[0] for i in (0, 6, 12)], [0.25, 0.5, 0.75], atol=0.01)
    tall = views_of(ramp(150, 300), 60, zoom=None, whole="tiles")
    np.testing.assert_allclose([centre(tile)[1] for tile in tall], [0.25, 0.5, 0.75], atol=0.01)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_tiles_cover_the_image(width, height):
    width, height = max(width, height // 50 + 1), max(height, width // 50 + 1)
    side, longer = min(width, height), max(width, height)
    boxes = images.boxes_of(width, height, "tiles")
    starts = [max(left, upper) for left, upper, _, _ in boxes]
    assert all(right - left == lower - upper == side for left, upper, right, lower in boxes)
    assert starts[0] == 0 and starts[-1] == longer - side
    strides = np.diff(starts)
    assert len(boxes) == 1 if side == longer else strides.max() <= 0.8 * side + 1
    assert len(boxes) == math.ceil((longer - side) * 5 / (4 * side)) + 1  # and no more than needed


def test_views_that_are_refused():
    refused("whole='pad'", views_of, ramp(30, 30), whole="pad")
    refused("expected a square", images.inference_views, ramp(30, 30), (24, 32))


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
