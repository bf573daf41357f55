"""Colour pictures: two kinds of endoscopy and skin.

Every function returns the picture without and with a lesion, (H, W, 3) in [0, 1], and the lesion (H, W) bool.
`colon` and `polyp` show the same organ as in two hospitals: other hue, other light, other folds.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from data_scripts.mini_scans import Drawn, blob, inside, place, plane
from data_scripts.render.textures import noise

R = np.random.Generator


def _lit(
    height: np.ndarray,
    colour: np.ndarray,
    shade: np.ndarray,
    light: tuple[float, float, float],
    wet: float,
    dots: np.ndarray,
) -> np.ndarray:
    """Wet tissue (H, W, 3) of this height (units of the shorter half edge) and colour under one lamp.

    shade: (H, W) how much of the light arrives. light: where the lamp stands, in these units. wet: how
    much of the surface mirrors it; dots: (H, W) unevenness that breaks the mirror image into spots.
    """
    x, y = plane(height.shape)
    step = x[0, 1] - x[0, 0]
    down, right = np.gradient(height, step)
    length = np.sqrt(right**2 + down**2 + 1)
    toward = np.stack([light[0] - x, light[1] - y, light[2] - height])
    distance = np.sqrt((toward**2).sum(0))
    toward /= distance
    facing = (-right * toward[0] - down * toward[1] + toward[2]) / length
    diffuse = np.clip(facing, 0, 1) * (light[2] / distance)
    halfway = toward + np.array([0, 0, 1])[:, None, None]
    halfway /= np.sqrt((halfway**2).sum(0))
    down, right = np.gradient(height + dots, step)
    mirror = (-right * halfway[0] - down * halfway[1] + halfway[2]) / np.sqrt(right**2 + down**2 + 1)
    shine = gaussian_filter(np.clip((mirror - (1 - wet)) / (0.35 * wet), 0, 1), 0.8)
    lit = colour * (diffuse * shade)[..., None]
    return lit + 0.85 * (shine * np.clip(shade * diffuse, 0, 1) ** 1.5)[..., None] * (1 - lit)


def _field(r: R, x, y, power: float) -> np.ndarray:
    """1 in the endoscope's round-cornered field of view, 0 in its dark corners; (H, W)."""
    reach = (np.abs(x - 0.03 * r.normal()) ** power + np.abs(y - 0.03 * r.normal()) ** power) ** (1 / power)
    return inside(reach - r.uniform(0.95, 1.02), 0.04)


def _with_polyp(r: R, x, y, height, colour, shade, far, size: tuple[float, float]):
    """Height, colour and shade with a rounded bump on the wall, and the bump (H, W) bool. far: (H, W) where
    the tunnel is too deep for one to be seen."""
    shape = x.shape
    radius = r.uniform(*size)
    edge = np.maximum(np.abs(x), np.abs(y))
    room = np.minimum(0.82 - edge, 0.95 - np.hypot(x, y)) - radius
    cx, cy = place(r, np.where(far, -1, room), x, y)
    lump = blob(r, x, y, cx, cy, radius, r.uniform(0.7, 1), 0.03)
    cover = inside(lump + 0.06, 0.14)
    dome = radius * r.uniform(0.45, 0.75) * np.clip(1 - (lump + 1) ** 2, 0, 1) ** 0.75
    dome = gaussian_filter(dome, 0.08 * radius * min(shape) / 2)
    knobs = 0.012 * radius * noise(r, shape, 14, 2)
    ground, around = (gaussian_filter(a, 0.5 * radius * min(shape) / 2) for a in (height, shade))
    raised = height + cover * (ground + knobs - height) + dome
    redder = r.random() < 0.6
    tint = np.array([0.98, 0.8, 0.82] if redder else [1.06, 1.15, 1.22]) ** r.uniform(0.4, 1.0)
    mottle = 1 + 0.07 * noise(r, shape, 18, 2)
    stained = colour * (1 + cover[..., None] * (tint * mottle[..., None] - 1))
    foot = np.exp(-(((lump - 0.02) / 0.12) ** 2)) * (1 - cover)  # little light reaches the foot
    lifted = shade + cover * (np.maximum(around, 0.8) - shade)  # it stands out of the folds' shadows
    return raised, stained * (1 - 0.22 * foot[..., None]), lifted, lump < 0


def _vessels(r: R, shape: tuple[int, int], cells: float) -> np.ndarray:
    thin = np.exp(-((noise(r, shape, cells, 3) / 0.05) ** 2))
    return thin * np.clip(0.4 + noise(r, shape, 3), 0, 1)


def colon(r: R, shape: tuple[int, int]) -> Drawn:
    """Pale pink, evenly lit, ring after ring down a tunnel."""
    x, y = plane(shape)
    lx, ly = r.uniform(0.05, 0.45) * np.array([np.cos(a := r.uniform(0, 2 * np.pi)), np.sin(a)])
    angle = np.arctan2(y - ly, x - lx)
    sag, stretch = r.uniform(0.03, 0.13), r.uniform(0.85, 1.15)
    deep = np.hypot((x - lx) * stretch, (y - ly) / stretch) * (1 + sag * np.cos(3 * angle + r.uniform(0, 6)))
    deep = np.maximum(deep * (1 + 0.16 * noise(r, shape, 3, 2)), 0.02)  # small far down the tunnel
    ring = r.uniform(1.4, 2.0) * np.log(deep) + r.uniform(0, 1) + 0.12 * noise(r, shape, 4)
    saw = ring % 1
    folds = np.where(saw < 0.7, saw / 0.7, (1 - saw) / 0.3)
    height = gaussian_filter(0.13 * np.clip(deep, 0, 0.9) * folds, 3) + 0.02 * noise(r, shape, 5, 2)
    base = np.array([0.93, 0.6, 0.5]) * (1 + 0.05 * r.normal(size=3) * [0.6, 1, 1])
    colour = base * (1 + 0.07 * noise(r, shape, 4, 3))[..., None]
    colour = colour * (1 - _vessels(r, shape, 5)[..., None] * np.array([0.08, 0.24, 0.2]))
    grooves = np.exp(-(((np.minimum(saw, 1 - saw)) / 0.07) ** 2))
    lumen = inside(r.uniform(0.16, 0.24) - deep, 0.3)
    shade = (1 - 0.3 * grooves * (1 + 0.6 * noise(r, shape, 3))) * (0.08 + 0.92 * lumen)
    field, dots = _field(r, x, y, r.uniform(5, 8)), 0.006 * noise(r, shape, 26, 2)
    lamp = (0.2 * r.normal(), 0.2 * r.normal(), r.uniform(1.7, 2.1))
    gain = r.uniform(1.0, 1.15)

    def shot(height, colour, shade):
        lit = _lit(height, colour, gain * shade, lamp, 0.0025, dots)
        return lit * field[..., None] + 0.02

    *bumped, mask = _with_polyp(r, x, y, height, colour, shade, deep < 0.42, (0.17, 0.34))
    return shot(height, colour, shade), shot(*bumped), mask & (field > 0.5)


def polyp(r: R, shape: tuple[int, int]) -> Drawn:
    """Deep red, a narrow lamp, a few long folds across, the tunnel's dark end at the border."""
    x, y = plane(shape)
    a = r.uniform(0, 2 * np.pi)
    lx, ly = r.uniform(0.6, 0.9) * np.array([np.cos(a), np.sin(a)])
    deep = np.hypot(x - lx, y - ly) * (1 + 0.16 * noise(r, shape, 3))
    along = (x * np.cos(a) + y * np.sin(a)) + 0.28 * noise(r, shape, 2) + 0.05 * noise(r, shape, 6)
    height, grooves = 0.03 * noise(r, shape, 4, 3), np.zeros(shape, np.float32)
    start = r.uniform(-0.9, -0.6)
    for _ in range(int(r.integers(2, 5))):
        start += r.uniform(0.28, 0.5)
        width = r.uniform(0.07, 0.12)
        height = height + r.uniform(0.06, 0.11) * np.exp(-(((along - start) / width) ** 2))
        grooves = np.maximum(grooves, np.exp(-(((along - start - 1.7 * width) / (0.5 * width)) ** 2)))
    base = np.array([0.84, 0.36, 0.33]) * (1 + 0.06 * r.normal(size=3) * [0.5, 1, 1])
    colour = base * (1 + 0.1 * noise(r, shape, 6, 3))[..., None]
    colour = colour * (1 - _vessels(r, shape, 9)[..., None] * np.array([0.1, 0.32, 0.26]))
    shade = (1 - 0.38 * grooves) * (0.06 + 0.94 * inside(r.uniform(0.25, 0.4) - deep, 0.5))
    field, dots = _field(r, x, y, r.uniform(2.6, 3.4)), 0.009 * noise(r, shape, 34, 2)
    lamp = (-0.3 * np.cos(a) + 0.15 * r.normal(), -0.3 * np.sin(a) + 0.15 * r.normal(), r.uniform(0.9, 1.15))
    gain = r.uniform(1.1, 1.3)

    def shot(height, colour, shade):
        lit = _lit(height, colour, gain * shade, lamp, 0.006, dots)
        return lit * field[..., None] + np.array([0.015, 0.015, 0.03])

    *bumped, mask = _with_polyp(r, x, y, height, colour, shade, deep < 0.65, (0.16, 0.34))
    return shot(height, colour, shade), shot(*bumped), mask & (field > 0.5)


def skin(r: R, shape: tuple[int, int]) -> Drawn:
    x, y = plane(shape)
    tone = r.uniform(0, 1) ** 1.4
    base = np.array([0.9, 0.7, 0.61]) * (1 - tone) + np.array([0.58, 0.39, 0.29]) * tone
    base = base * (1 + 0.03 * r.normal(size=3))
    turn = r.uniform(0, np.pi)
    warp = 0.05 * noise(r, shape, 5, 2)
    u, v = np.cos(turn) * x + np.sin(turn) * y + warp, np.cos(turn + 1) * x + np.sin(turn + 1) * y + warp
    lines = np.cos(2 * np.pi * u / 0.085) ** 8 + 0.7 * np.cos(2 * np.pi * v / 0.1) ** 8
    relief = 1 - 0.035 * lines * (1 + noise(r, shape, 4)) + 0.025 * noise(r, shape, 60)
    pores = noise(r, shape, 30) > r.uniform(0.72, 0.85)
    relief = relief - 0.06 * gaussian_filter(pores.astype(np.float32), 1.2)
    flush = 0.05 * noise(r, shape, 3, 2)[..., None] * np.array([-0.2, 1, 0.9])
    colour = base * relief[..., None] * (1 + flush)
    for _ in range(int(r.integers(0, 6))):  # harmless freckles
        fx, fy = r.uniform(-0.95, 0.95, 2)
        freckle = inside(blob(r, x, y, fx, fy, r.uniform(0.02, 0.045)), 0.7)[..., None]
        colour = colour * (1 - freckle * np.array([0.1, 0.18, 0.2]))

    radius = r.uniform(0.24, 0.56)
    cx, cy = 0.25 * r.uniform(-1, 1, 2)
    lump = blob(r, x, y, cx, cy, radius, r.uniform(0.68, 1), 0.11) + 0.1 * noise(r, shape, 9, 2)
    strength = r.uniform(0.5, 0.95)
    brown = np.array([0.35, 0.5, 0.55]) * strength
    cover = inside(lump + 0.04, r.uniform(0.12, 0.4))
    dark = blob(r, x, y, *(np.array([cx, cy]) + 0.4 * radius * r.uniform(-1, 1, 2)), 0.5 * radius, 0.8, 0.2)
    net = 1 + 0.16 * noise(r, shape, 34) + 0.15 * noise(r, shape, 6, 2)
    depth = cover * net * (1 + r.uniform(0.1, 0.5) * inside(dark + 0.15 * noise(r, shape, 8), 0.6))
    stained = colour * (1 - np.clip(depth[..., None] * brown, 0, 0.88))

    light = r.uniform(0.92, 1.05) * (1 - r.uniform(0.06, 0.16) * (x**2 + y**2))
    light = light * (1 + r.uniform(-0.06, 0.06) * x + r.uniform(-0.06, 0.06) * y)
    hairs = _hairs(r, shape) if r.random() < 0.65 else np.zeros(shape, np.float32)
    strand = np.array([0.2, 0.14, 0.1])

    def shot(surface):
        lit = surface * light[..., None]
        return lit + 0.8 * hairs[..., None] * (strand - lit)

    return shot(colour), shot(stained), lump < 0


def _hairs(r: R, shape: tuple[int, int]) -> np.ndarray:
    """Thin bent strands, mostly in one direction; (H, W) in [0, 1]."""
    layer = Image.new("L", shape[::-1], 0)
    draw, main = ImageDraw.Draw(layer), r.uniform(0, 2 * np.pi)
    for _ in range(int(r.integers(3, 14))):
        at, angle = r.uniform(0, 1, 2) * shape[::-1], main + 0.35 * r.normal()
        bend, points = 0.02 * r.normal(), []
        for _ in range(24):
            points.append(tuple(at))
            at = at + min(shape) / 36 * np.array([np.cos(angle), np.sin(angle)])
            angle += bend
        draw.line(points, fill=int(r.integers(110, 256)), width=int(r.integers(1, 4)), joint="curve")
    return gaussian_filter(np.asarray(layer, np.float32) / 255, 0.5)
