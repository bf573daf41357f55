"""Defects of a part: each changes colours or silhouette of a scene and returns the changed pixels.

All functions work on the enlarged canvas of a scene: colours (H, W, 3), silhouette (H, W), float32 in [0, 1];
`unit` is the length of one final pixel-scale (the canvas' shorter edge / 96), so a defect covers the same
share of a picture at any resolution. `size` is about 1; below 1 the defect is small. They return (colours,
silhouette, touched) with touched (H, W) bool.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

R = np.random.Generator
Changed = tuple[np.ndarray, np.ndarray, np.ndarray]


def _draw(shape: tuple[int, int], draw_on) -> np.ndarray:
    image = Image.new("L", (shape[1], shape[0]), 0)
    draw_on(ImageDraw.Draw(image))
    return np.asarray(image, np.float32) / 255


def _soft(mask: np.ndarray, radius: float) -> np.ndarray:
    return ndimage.gaussian_filter(mask, radius) if radius > 0 else mask


def inside(silhouette: np.ndarray, r: R, margin: float) -> np.ndarray:
    """A point (x, y) of the object, at least about `margin` from its edge where the object is that thick."""
    step = 4
    coarse = silhouette[::step, ::step] > 0.5
    for reach in (margin, margin / 2, margin / 4, 0):
        k = int(reach / step)
        core = ndimage.binary_erosion(coarse, iterations=k, border_value=1) if k else coarse
        ys, xs = np.nonzero(core)
        if len(xs):
            i = r.integers(len(xs))
            return np.array([xs[i], ys[i]], float) * step
    return np.array(silhouette.shape[::-1], float) / 2


def on_edge(silhouette: np.ndarray, r: R) -> np.ndarray:
    """A point (x, y) on the object's outline."""
    step = 3
    coarse = np.pad(silhouette[::step, ::step] > 0.5, 1)
    edge = coarse & ~ndimage.binary_erosion(coarse)
    ys, xs = np.nonzero(edge)
    if len(xs) == 0:
        return inside(silhouette, r, 0)
    i = r.integers(len(xs))
    return (np.array([xs[i], ys[i]], float) - 1) * step


def blob(shape: tuple[int, int], centre: np.ndarray, radius: float, r: R, rough: float = 0.3) -> np.ndarray:
    """A round patch with an uneven outline, (H, W) in [0, 1]."""
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    radii = 1 + rough * sum(r.normal() / k * np.cos(k * t + 6.3 * r.random()) for k in (2, 3, 5))
    points = centre + radius * radii.clip(0.35, 1.9)[:, None] * np.stack(
        [np.cos(t), np.sin(t) * r.uniform(0.7, 1.0)], 1
    )
    return _draw(shape, lambda d: d.polygon([tuple(p) for p in points], fill=255))


def wander(start: np.ndarray, length: float, steps: int, turn: float, r: R) -> list[tuple[float, float]]:
    """A line that wanders off from `start`: straight for turn 0, jagged for large values."""
    heading = r.uniform(0, 2 * np.pi)
    points, at = [], start - 0.5 * length * np.array([np.cos(heading), np.sin(heading)])
    for _ in range(steps + 1):
        points.append(tuple(at))
        angle = heading + turn * r.normal()
        at = at + length / steps * np.array([np.cos(angle), np.sin(angle)])
    return points


def _paint(
    colours: np.ndarray, silhouette: np.ndarray, mask: np.ndarray, rgb: np.ndarray, strength: float
) -> Changed:
    alpha = mask * silhouette * strength
    return (
        colours * (1 - alpha[..., None]) + rgb.astype(np.float32) * alpha[..., None],
        silhouette,
        alpha > 0.12,
    )


def _contrast(colours: np.ndarray, silhouette: np.ndarray, r: R) -> np.ndarray:
    """A grey that stands out from the object's mean colour."""
    mean = float(colours[silhouette > 0.5].mean()) if (silhouette > 0.5).any() else 0.5
    return np.full(
        3, r.uniform(0.0, 0.12) if mean > 0.5 or (mean > 0.3 and r.random() < 0.5) else r.uniform(0.88, 1.0)
    )


def scratch(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    start = inside(silhouette, r, 8 * unit)
    lines = [
        wander(start + r.normal(size=2) * 4 * unit * i, unit * size * r.uniform(26, 46), 8, 0.12, r)
        for i in range(r.integers(1, 4))
    ]
    width = max(1, round(unit * r.uniform(1.5, 2.6) * max(size, 0.7)))
    mask = _draw(silhouette.shape, lambda d: [d.line(p, fill=255, width=width) for p in lines])
    return _paint(colours, silhouette, mask, _contrast(colours, silhouette, r), r.uniform(0.75, 1.0))


def crack(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    start = inside(silhouette, r, 6 * unit)
    trunk = wander(start, unit * size * r.uniform(34, 58), 10, 0.5, r)
    branches = [
        wander(np.array(trunk[r.integers(2, 9)]), unit * size * r.uniform(12, 24), 5, 0.5, r)
        for _ in range(r.integers(1, 4))
    ]
    width = max(1, round(unit * r.uniform(1.7, 2.8) * max(size, 0.7)))

    def draw(d):
        d.line(trunk, fill=255, width=width)
        for branch in branches:
            d.line(branch, fill=255, width=max(1, width - 1))

    return _paint(colours, silhouette, _draw(silhouette.shape, draw), np.full(3, r.uniform(0.0, 0.1)), 0.95)


def hole(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    centre, radius = inside(silhouette, r, 10 * unit), unit * size * r.uniform(6, 10)
    rim, core = (
        blob(silhouette.shape, centre, radius * 1.3, r, 0.12),
        blob(silhouette.shape, centre, radius, r, 0.12),
    )
    colours, _, touched = _paint(colours, silhouette, rim, np.full(3, 0.12), 0.7)
    touched |= core * silhouette > 0.5
    if r.random() < 0.5:  # right through
        return colours, silhouette * (1 - core), touched
    return _paint(colours, silhouette, core, np.full(3, r.uniform(0.0, 0.1)), 1.0)[0], silhouette, touched


def stain(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    tints = np.array(
        [
            [0.3, 0.18, 0.08],
            [0.1, 0.1, 0.1],
            [0.15, 0.3, 0.12],
            [0.5, 0.1, 0.08],
            [0.9, 0.88, 0.8],
            [0.1, 0.15, 0.4],
            [0.75, 0.6, 0.1],
        ]
    )
    mean = colours[silhouette > 0.5].mean(0) if (silhouette > 0.5).any() else np.full(3, 0.5)
    far = tints[np.abs(tints - mean).sum(1) > 0.75]
    tint = far[r.integers(len(far))] if len(far) else tints[1]
    mask = blob(silhouette.shape, inside(silhouette, r, 8 * unit), unit * size * r.uniform(10, 18), r, 0.4)
    return _paint(colours, silhouette, _soft(mask, unit * r.uniform(0.5, 2.5)), tint, r.uniform(0.55, 0.9))


def spot(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    centre = inside(silhouette, r, 6 * unit)
    mask = np.zeros_like(silhouette)
    for _ in range(r.integers(3, 8)):
        mask = np.maximum(
            mask,
            blob(
                silhouette.shape,
                centre + r.normal(size=2) * 9 * unit * size,
                unit * size * r.uniform(1.8, 3.6),
                r,
                0.2,
            ),
        )
    rgb = _contrast(colours, silhouette, r) if r.random() < 0.6 else r.random(3) * 0.9
    return _paint(colours, silhouette, mask, rgb, r.uniform(0.8, 1.0))


def _remove(colours, silhouette, gone: np.ndarray, unit: float, r: R) -> Changed:
    """Takes `gone` away. Along the break the part shows its raw inside: a rough rim, lighter or darker than
    the surface."""
    rim = (_soft(gone, 1.6 * unit) > r.uniform(0.06, 0.2)).astype(np.float32)
    colours, _, touched = _paint(
        colours, silhouette, rim, _contrast(colours, silhouette, r), r.uniform(0.5, 0.9)
    )
    return colours, silhouette * (1 - gone), touched | ((gone * silhouette) > 0.5)


def missing(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    """A whole piece is gone: everything on one side of a line, or a wide bite."""
    if r.random() < 0.5:
        return _remove(
            colours,
            silhouette,
            blob(silhouette.shape, on_edge(silhouette, r), unit * size * r.uniform(16, 24), r, 0.15),
            unit,
            r,
        )
    ys, xs = np.nonzero(silhouette[::3, ::3] > 0.5)
    if len(xs) == 0:
        return _remove(colours, silhouette, np.zeros_like(silhouette), unit, r)
    angle = r.uniform(0, 2 * np.pi)
    along = xs * 3 * np.cos(angle) + ys * 3 * np.sin(angle)
    level = np.quantile(along, 1 - size * r.uniform(0.14, 0.26))
    yy, xx = np.mgrid[: silhouette.shape[0], : silhouette.shape[1]].astype(np.float32)
    wave = unit * 2 * np.sin((xx * np.sin(angle) - yy * np.cos(angle)) / unit / r.uniform(2, 5))
    return _remove(
        colours,
        silhouette,
        (xx * np.cos(angle) + yy * np.sin(angle) + wave > level).astype(np.float32),
        unit,
        r,
    )


def chipped(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    gone = np.zeros_like(silhouette)
    for _ in range(r.integers(1, 4)):
        gone = np.maximum(
            gone, blob(silhouette.shape, on_edge(silhouette, r), unit * size * r.uniform(7, 12), r, 0.35)
        )
    return _remove(colours, silhouette, gone, unit, r)


def bent(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    """The part beyond a line is turned about a point on that line."""
    angle, sign = r.uniform(0, 2 * np.pi), r.choice([-1.0, 1.0])
    pivot = inside(silhouette, r, 4 * unit)
    yy, xx = np.mgrid[: silhouette.shape[0], : silhouette.shape[1]].astype(np.float32)
    beyond = (xx - pivot[0]) * np.cos(angle) + (yy - pivot[1]) * np.sin(angle)
    turn = sign * size * r.uniform(0.45, 0.9) * np.clip(beyond / (10 * unit), 0, 1)
    c, s = np.cos(turn), np.sin(turn)
    where = [
        pivot[1] + s * (xx - pivot[0]) + c * (yy - pivot[1]),
        pivot[0] + c * (xx - pivot[0]) - s * (yy - pivot[1]),
    ]
    moved = np.stack(
        [ndimage.map_coordinates(colours[..., k], where, order=1, mode="nearest") for k in range(3)], 2
    )
    new = (ndimage.map_coordinates(silhouette, where, order=1, mode="constant") > 0.5).astype(np.float32)
    return moved, new, np.abs(new - silhouette) > 0.5


def torn(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    """A slit in a surface: a dark gap with a pale lip."""
    path = wander(inside(silhouette, r, 10 * unit), unit * size * r.uniform(24, 40), 5, 0.25, r)
    wide, thin = max(2, round(6 * unit * size)), max(1, round(3.2 * unit * size))
    lip = _draw(silhouette.shape, lambda d: d.line(path, fill=255, width=wide, joint="curve"))
    gap = _draw(silhouette.shape, lambda d: d.line(path, fill=255, width=thin, joint="curve"))
    colours, _, touched = _paint(colours, silhouette, lip, np.full(3, 0.9), 0.7)
    return _paint(colours, silhouette, gap, np.full(3, 0.05), 0.95)[0], silhouette, touched


def faded(colours, silhouette, unit: float, size: float, r: R) -> Changed:
    """The surface's pattern is worn off in a patch."""
    mask = _soft(
        blob(silhouette.shape, inside(silhouette, r, 10 * unit), unit * size * r.uniform(13, 20), r, 0.3),
        1.5 * unit,
    )
    mean = colours.mean((0, 1))
    rgb = np.clip(mean + r.choice([-1, 1]) * r.uniform(0.22, 0.35), 0, 1)
    return _paint(colours, silhouette, mask, rgb, 0.92)


OBJECT_DEFECTS = {
    "scratch": scratch,
    "crack": crack,
    "hole": hole,
    "stain": stain,
    "spot": spot,
    "missing": missing,
    "chipped": chipped,
    "bent": bent,
}
SURFACE_DEFECTS = {
    "scratch": scratch,
    "crack": crack,
    "hole": hole,
    "stain": stain,
    "spot": spot,
    "torn": torn,
    "faded": faded,
}
