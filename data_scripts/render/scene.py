"""One part, photographed twice: normal and with a defect, same pose, light and background."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageFilter

from . import defects, textures
from .shapes import Part, rasterise, shifted

COLOURS = {
    "red": (0.78, 0.16, 0.14),
    "orange": (0.9, 0.5, 0.12),
    "yellow": (0.92, 0.8, 0.2),
    "green": (0.22, 0.56, 0.26),
    "teal": (0.15, 0.56, 0.56),
    "blue": (0.18, 0.34, 0.74),
    "purple": (0.5, 0.26, 0.62),
    "pink": (0.92, 0.56, 0.66),
    "brown": (0.48, 0.3, 0.18),
    "white": (0.92, 0.91, 0.88),
    "grey": (0.55, 0.56, 0.58),
    "black": (0.17, 0.17, 0.19),
}
BACKGROUNDS = {
    "white": (0.95, 0.95, 0.94),
    "grey": (0.62, 0.62, 0.63),
    "black": (0.08, 0.08, 0.09),
    "brown": (0.45, 0.33, 0.24),
    "blue": (0.5, 0.62, 0.8),
    "green": (0.45, 0.58, 0.45),
    "beige": (0.85, 0.78, 0.66),
    "dark": (0.24, 0.25, 0.28),
}


@dataclass(frozen=True)
class Look:
    """What is drawn and how much it may vary. Angles in radians, lengths in units of the shorter half
    edge."""

    name: str
    parts: Callable[[np.random.Generator], list[Part]] | None = None  # an object ...
    surface: Callable | None = None  # ... or a surface
    underside: Callable[[np.random.Generator], list[Part]] | None = None  # of an object that can lie wrong
    colour: str = "grey"
    background: str = "white"
    scale: tuple[float, float] = (0.76, 0.86)
    turn: float = 0.12
    shift: float = 0.06
    vary: float = 0.04  # spread of colours
    light: float = 0.12  # spread of brightness
    clutter: float = 0.3  # share of backgrounds with a faint pattern
    count: tuple[int, int] = (1, 1)  # rows and columns of instances
    worn: float = 0.0  # share of parts with harmless wear
    blur: float = 0.0  # share of blurred pictures
    jpeg: float = 0.0
    defect_size: tuple[float, float] = (0.95, 1.35)
    kinds: dict[str, float] = field(
        default_factory=dict
    )  # kind -> weight; empty: all kinds alike, bent rarely


@dataclass(frozen=True)
class Pair:
    normal: np.ndarray  # (H, W, 3) uint8
    anomalous: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) bool, where the two differ
    facts: dict


def generator(*words: str | int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(w.encode()) if isinstance(w, str) else int(w) for w in words])


def _near(rgb: tuple[float, float, float], spread: float, r: np.random.Generator) -> np.ndarray:
    return np.clip(np.array(rgb) * (1 + spread * r.normal()) + spread * 0.6 * r.normal(size=3), 0.02, 0.98)


def _instances(look: Look, r: np.random.Generator, shape: tuple[int, int]) -> list[Part]:
    """The parts of every instance in units of the shorter half edge, centre (0, 0)."""
    rows, columns = look.count
    reach_y, reach_x = shape[0] / min(shape), shape[1] / min(shape)
    cell = min(reach_y / rows, reach_x / columns)
    parts = []
    for row in range(rows):
        for column in range(columns):
            x = reach_x * ((2 * column + 1) / columns - 1) + cell * look.shift * r.uniform(-1, 1)
            y = reach_y * ((2 * row + 1) / rows - 1) + cell * look.shift * r.uniform(-1, 1)
            turn = look.turn * r.uniform(-1, 1)
            parts += shifted(look.parts(r), x, y, cell * r.uniform(*look.scale), turn)
    return parts


def _background(look: Look, r: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    rgb = _near(BACKGROUNDS[look.background], look.vary * 0.5, r).astype(np.float32)
    if r.random() < look.clutter:
        return np.clip(rgb * (1 + 0.07 * textures.noise(r, shape, r.uniform(3, 20))[..., None]), 0, 1)
    return np.broadcast_to(rgb, (*shape, 3)).astype(np.float32)


def _blurred(silhouette: np.ndarray, radius: float) -> np.ndarray:
    image = (
        Image.fromarray((silhouette * 255).astype(np.uint8))
        .filter(ImageFilter.BoxBlur(radius))
        .filter(ImageFilter.BoxBlur(radius))
    )
    return np.asarray(image, np.float32) / 255


def _moved(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """`image` (H, W) moved down by dy and right by dx, its border repeated."""
    height, width = image.shape
    padded = np.pad(image, ((abs(dy), abs(dy)), (abs(dx), abs(dx))), mode="edge")
    return padded[abs(dy) - dy : abs(dy) - dy + height, abs(dx) - dx : abs(dx) - dx + width]


def _compose(
    colours, silhouette, background, unit: float, light: np.ndarray, toward: np.ndarray
) -> np.ndarray:
    """Object over background, with a shadow and a bevel so that outlines read as edges of something solid."""
    if silhouette.min() < 1:
        soft = _blurred(silhouette, 3 * unit)
        dy, dx = (int(round(v)) for v in toward * 3 * unit)
        relief = soft - _moved(soft, dy, dx)
        colours = np.clip(colours * (0.86 + 0.14 * soft[..., None]) + 0.35 * relief[..., None], 0, 1)
        shadow = _moved(soft, -2 * dy, -2 * dx)
        background = background * (1 - 0.35 * shadow[..., None])
    picture = background + (colours - background) * silhouette[..., None]
    return np.clip(picture * light[..., None], 0, 1)


def _finish(
    picture: np.ndarray, size: tuple[int, int], grain: np.ndarray, blur: float, jpeg: int
) -> np.ndarray:
    image = Image.fromarray((picture * 255 + 0.5).astype(np.uint8)).reduce(2)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur * min(size) / 96))
    image = Image.fromarray(np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8))
    if jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=jpeg)
        image = Image.open(buffer).convert("RGB")
    return np.asarray(image)


def _defect_kind(look: Look, r: np.random.Generator) -> str:
    known = defects.OBJECT_DEFECTS if look.parts else defects.SURFACE_DEFECTS
    weights = np.array(
        [look.kinds.get(k, 0.0) if look.kinds else (0.3 if k == "bent" else 1.0) for k in known]
    )
    return str(r.choice(list(known), p=weights / weights.sum()))


def render(look: Look, seed: int, size: tuple[int, int] = (96, 96), kind: str | None = None) -> Pair:
    """Draw one pair. Deterministic in (look, seed, size, kind); drawn at twice the size and reduced. `size`
    is (H, W). The kind `flip` shows the part's underside; its mask is the whole part. `good` draws no defect,
    in half the time: the normal picture twice, and an empty mask."""
    r = generator(look.name, seed)
    shape = (2 * size[0], 2 * size[1])
    unit, half = min(shape) / 96, min(shape) / 2
    base = _near(COLOURS[look.colour], look.vary, r)
    worn = r.random() < look.worn
    if look.parts:
        pose, where = deepcopy(r), (base, np.array(shape[::-1]) / 2, half, shape)
        colours, silhouette = rasterise(_instances(look, r, shape), *where)
        if kind == "flip":
            turned_over = replace(look, parts=look.underside)
            under, outline = rasterise(_instances(turned_over, pose, shape), *where)
        background = _background(look, r, shape)
    else:
        turn, (sx, sy), zoom = look.turn * r.uniform(-1, 1), r.uniform(-1, 1, 2), 1 + 0.08 * r.uniform(-1, 1)
        yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        x, y = (xx - shape[1] / 2) / half / zoom, (yy - shape[0] / 2) / half / zoom
        u, v = np.cos(turn) * x - np.sin(turn) * y + 4 + sx, np.sin(turn) * x + np.cos(turn) * y + 4 + sy
        colours = np.clip(look.surface(u, v, r) * base.astype(np.float32), 0, 1).astype(np.float32)
        silhouette, background = np.ones(shape, np.float32), np.full((*shape, 3), 0.06, np.float32)
    if worn:  # harmless: a faint cloud of wear, on both pictures
        wear = 1 + 0.1 * textures.noise(r, shape, r.uniform(8, 20))[..., None]
        colours = np.clip(colours * wear, 0, 1)
    brightness, lean, angle = (
        1 + look.light * r.uniform(-1.4, 1),
        look.light * r.uniform(0, 1.2),
        r.uniform(0, 2 * np.pi),
    )
    yy, xx = (
        np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None],
        np.linspace(-1, 1, shape[1], dtype=np.float32)[None],
    )
    light = brightness * (1 + lean * (np.cos(angle) * xx + np.sin(angle) * yy))
    toward = np.array([np.sin(angle), np.cos(angle)])
    blur = float(r.uniform(0.8, 1.3)) if r.random() < look.blur else 0.0
    jpeg = int(r.integers(8, 16)) if r.random() < look.jpeg else 0
    grain = r.normal(0, r.uniform(1, 3), (*size, 1)).astype(np.float32)
    normal = _finish(_compose(colours, silhouette, background, unit, light, toward), size, grain, blur, jpeg)
    if kind == "good":
        return Pair(normal, normal, np.zeros(size, bool), {"category": look.name, "kind": kind})

    drawn = _defect_kind(
        look, r
    )  # drawn even if `kind` is given: the rest of the scene must not depend on it
    kind = kind or drawn
    known = {**defects.SURFACE_DEFECTS, **defects.OBJECT_DEFECTS} if look.parts else defects.SURFACE_DEFECTS
    if kind == "flip":
        under = np.clip(under * wear, 0, 1) if worn else under
        known = {"flip": lambda *_: (under, outline, outline > 0.5)}
    scale = r.uniform(*look.defect_size)
    for attempt in range(8):  # redrawn, a little larger each time, until it can be seen
        c, s, touched = known[kind](colours, silhouette, unit, scale * (1 + 0.12 * attempt), r)
        other = _finish(_compose(c, s, background, unit, light, toward), size, grain, blur, jpeg)
        mask = np.asarray(Image.fromarray((touched * 255).astype(np.uint8)).reduce(2)) > 96
        change = np.abs(other.astype(np.int16) - normal).max(2)
        wanted = 0.02 * scale**2 * float(silhouette.mean()) * mask.size
        if (mask & (change > 30)).sum() >= max(12.0, wanted):
            break
    if kind in ("missing", "chipped", "bent", "hole"):  # the shadow and the bevel move with the outline
        mask = mask | (change > 40)
    facts = {
        "category": look.name,
        "texture": look.surface is not None,
        "kind": kind,
        "colour": look.colour,
        "background": look.background,
        "light": "bright"
        if brightness > 1 + 0.55 * look.light and look.light > 0.15
        else "dark"
        if brightness < 1 - 0.85 * look.light and look.light > 0.15
        else "",
        "blurred": blur > 0,
        "jpeg": jpeg > 0,
        "close": look.scale[0] > 0.95,
        "small": look.scale[1] < 0.66,
        "count": look.count[0] * look.count[1],
        "worn": bool(worn),
        "area": round(float(mask.mean()), 4),
        "visible": round(float(scale), 3),
    }
    return Pair(normal, other, mask, facts)
