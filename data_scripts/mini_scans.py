"""Grey scans: a slice of a head, a chest X-ray, an ultrasound picture of a neck.

Coordinates x to the right, y downwards, in units of the shorter half edge around the middle. Every function
returns the picture without and with a lesion, (H, W) in [0, 1], and the lesion (H, W) bool.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from data_scripts.render.textures import noise

R = np.random.Generator
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def plane(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y, each (H, W) float32."""
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    half = min(shape) / 2
    return (xx + 0.5 - shape[1] / 2) / half, (yy + 0.5 - shape[0] / 2) / half


def inside(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 where the distance is negative, 0 where it is positive; `edge` is the width of the change."""
    return 0.5 - 0.5 * np.tanh(2 * distance / edge)


def oval(x, y, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
    """About the distance from an ellipse's outline, negative inside."""
    u = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy)
    v = np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)
    return (np.sqrt((u / rx) ** 2 + (v / ry) ** 2) - 1) * min(rx, ry)


def blob(r: R, x, y, cx: float, cy: float, radius: float, flat: float = 1.0, rough: float = 0.1):
    """Distance from an irregular outline in units of its radius, negative inside."""
    turn = r.uniform(0, np.pi)
    u = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy)
    v = (np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)) / flat
    angle, reach = np.arctan2(v, u), 1.0
    for k in range(2, 7):
        reach = reach + rough * r.normal() / k**0.5 * np.cos(k * angle + r.uniform(0, 2 * np.pi))
    return np.sqrt(u**2 + v**2) / radius / np.clip(reach, 0.5, 1.6) - 1


def place(r: R, room: np.ndarray, x, y) -> tuple[float, float]:
    """A point drawn from those with room (H, W) > 0; without any, the one with the most room."""
    where = np.flatnonzero(room > 0)
    at = where[int(r.integers(len(where)))] if len(where) else int(room.argmax())
    return float(x.flat[at]), float(y.flat[at])


def head_scan(r: R, shape: tuple[int, int]) -> Drawn:
    x, y = plane(shape)
    turn, cx, cy = 0.14 * r.uniform(-1, 1), *(0.05 * r.uniform(-1, 1, 2))
    x, y = (
        np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy),
        np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx),
    )
    rx, ry = r.uniform(0.66, 0.75), r.uniform(0.8, 0.9)
    head = oval(x, y, 0, 0, rx, ry) + 0.02 * noise(r, shape, 2)
    bone, scalp = r.uniform(0.06, 0.1), r.uniform(0.03, 0.06)
    brain = head + scalp + bone + 0.012 * noise(r, shape, 12)  # distance from the brain's outline

    grey, white = r.uniform(0.4, 0.52), r.choice([-1, 1]) * r.uniform(0.06, 0.12)
    folds = noise(r, shape, 15, 2)
    picture = 0.02 + inside(head, 0.02) * r.uniform(0.22, 0.34)
    picture += inside(head + scalp, 0.02) * (r.uniform(0.82, 1.0) - picture)
    picture += inside(head + scalp + bone, 0.02) * (0.16 - picture)  # water between bone and brain
    tissue = grey + white * inside(brain + 0.13 + 0.07 * folds, 0.04) + 0.025 * noise(r, shape, 5, 3)
    sulci = np.exp(-((folds / 0.1) ** 2)) * inside(-(brain + 0.16), 0.06)
    tissue = tissue - r.uniform(0.08, 0.16) * sulci
    picture += inside(brain + 0.015, 0.02) * (tissue - picture)
    midline = np.abs(x + 0.012 * noise(r, shape, 4)) - 0.009
    picture -= 0.2 * inside(midline, 0.02) * inside(brain + 0.02, 0.02) * (np.abs(y) > 0.32)

    size, fluid = r.uniform(0.75, 1.25), r.uniform(0.1, 0.2)
    chambers = np.full(shape, 9.0, np.float32)
    for side in (-1, 1):
        own = size * r.uniform(0.88, 1.12)
        front = oval(x, y, side * 0.11, -0.17, 0.055 * own, 0.19 * own, side * 0.45)
        back = oval(x, y, side * 0.15, 0.17, 0.05 * own, 0.2 * own, -side * 0.4)
        chambers = np.minimum(chambers, np.minimum(front, back))
    chambers = np.minimum(chambers, oval(x, y, 0, 0.03, 0.018, 0.09))
    picture += inside(chambers + 0.01 * noise(r, shape, 10), 0.025) * (fluid - picture)
    if r.random() < 0.4:  # a harmless calcified spot in the middle, as many heads have
        picture += 0.35 * inside(oval(x, y, 0.02 * r.normal(), 0.19, 0.025, 0.025), 0.02)
    picture = picture * r.uniform(0.88, 1.08)

    radius = r.uniform(0.1, 0.24)
    cx, cy = place(r, np.minimum(-0.06 - 0.8 * radius - brain, np.abs(x) - 0.1), x, y)
    lump = blob(r, x, y, cx, cy, radius, r.uniform(0.65, 1), 0.09)
    edge, bright = r.uniform(0.15, 0.45), r.random() < 0.6
    value = r.uniform(0.13, 0.3) + max(grey, grey + white)
    if not bright:
        value = max(min(grey, grey + white) - r.uniform(0.13, 0.22), 0.08)
    lesion = picture.copy()
    if r.random() < 0.5:  # swelling around it
        lesion -= 0.09 * inside(lump - 0.45, 0.6) * inside(brain + 0.02, 0.03)
    rough = value + 0.04 * noise(r, shape, 20, 2)
    core = inside(lump + 0.1, edge) * inside(brain + 0.02, 0.03)
    lesion += r.uniform(0.75, 0.95) * core * (rough - lesion)
    if r.random() < 0.45:
        rim = np.exp(-(((lump + 0.12) / 0.13) ** 2)) * inside(brain + 0.02, 0.03)
        lesion += rim * r.uniform(0.14, 0.26) * (-1 if bright and r.random() < 0.5 else 1)
    return picture, lesion, (lump < 0) & (brain < 0)


def chest_scan(r: R, shape: tuple[int, int]) -> Drawn:
    x, y = plane(shape)
    turn, cx, cy = 0.05 * r.uniform(-1, 1), *(0.05 * r.uniform(-1, 1, 2))
    x, y = x + turn * y - cx, y - turn * x - cy
    wide = r.uniform(0.92, 1.06)
    x = x / wide
    shoulders = np.abs(x) - (0.86 + 0.25 * np.tanh(4 * (y + 0.55)) - 0.5 * np.clip(-0.78 - y, 0, 1))
    body = inside(shoulders, 0.12) * (r.uniform(0.5, 0.6) + 0.05 * noise(r, shape, 3, 2))
    picture = 0.04 + body

    lungs = np.zeros(shape, np.float32)
    tops, base = r.uniform(-0.82, -0.72), r.uniform(0.42, 0.6)
    for side in (-1, 1):
        middle, width = side * r.uniform(0.43, 0.47), r.uniform(0.29, 0.34)
        t = np.clip((y - tops) / (base - tops), 0, 1.3)
        half = width * np.clip(np.sin(np.pi * np.clip(0.08 + 0.55 * t, 0, 1)), 0, 1) ** 0.75
        across = np.abs(x - middle + side * 0.09 * (1 - t)) - half
        dome = y - (base + side * 0.03) - 0.45 * ((x - middle + side * 0.06) / width * 0.5) ** 2
        lungs = np.maximum(lungs, inside(across, 0.06) * inside(dome, 0.05) * inside(tops - y, 0.1))
    dark = r.uniform(0.13, 0.21)
    picture += lungs * (dark + 0.035 * noise(r, shape, 6, 3) - picture)
    roots = sum(np.exp(-(((x - s * 0.2) / 0.17) ** 2 + ((y + 0.1) / 0.25) ** 2)) for s in (-1, 1))
    branches = np.exp(-((noise(r, shape, 12, 2) / 0.14) ** 2))
    picture += lungs * (0.12 * roots + 0.13 * branches * (roots + 0.12))

    ribs = np.zeros(shape, np.float32)
    step, slope, thick = r.uniform(0.155, 0.18), r.uniform(0.25, 0.4), r.uniform(0.02, 0.028)
    for k in range(9):
        front = y - (tops + 0.02 + k * step) - slope * (np.abs(x) - 0.1) ** 2 * 2 + 0.16 * np.abs(x)
        back = y - (tops + 0.3 + k * 1.25 * step) + 0.7 * (np.abs(x) - 0.25)
        ribs = np.maximum(ribs, inside(np.abs(front) - thick, 0.03) * (np.abs(x) > 0.1))
        ribs = np.maximum(ribs, 0.45 * inside(np.abs(back) - thick, 0.04) * (np.abs(x) > 0.3))
    picture += r.uniform(0.09, 0.14) * ribs * inside(shoulders + 0.12, 0.1) * (0.35 + 0.65 * lungs)
    for side in (-1, 1):
        collar = np.abs(y - (tops + 0.1) + 0.16 * (side * x - 0.1) - 0.05 * np.sin(5 * side * x)) - 0.03
        picture += 0.15 * inside(collar, 0.03) * inside(np.abs(x - side * 0.42) - 0.33, 0.05)
    spine = 0.72 + 0.04 * np.sin(2 * np.pi * y / 0.13 + r.uniform(0, 6))
    centre = inside(np.abs(x) - 0.12 - 0.03 * y, 0.08) * inside(shoulders, 0.1)
    picture += 0.8 * centre * (spine - picture)
    picture -= 0.14 * inside(np.abs(x - 0.01) - 0.04, 0.03) * inside(y + 0.15, 0.15)  # windpipe
    heart = oval(x, y, r.uniform(0.1, 0.15), base - 0.24, r.uniform(0.27, 0.35), r.uniform(0.25, 0.32), 0.5)
    shadow = np.maximum(inside(heart, 0.06), inside(oval(x, y, 0.08, -0.22, 0.13, 0.16), 0.06))
    picture += 0.85 * shadow * (r.uniform(0.64, 0.72) - picture) * (picture < 0.72)
    belly = inside(base + 0.12 - y, 0.3) * inside(shoulders, 0.1) * (1 - lungs)
    picture += belly * 0.12
    picture = picture * r.uniform(0.9, 1.08)

    free = lungs * (1 - shadow) * (1 - centre)
    haze, side, both = np.zeros(shape, np.float32), r.choice([-1, 1]), r.random() < 0.5
    for _ in range(int(r.integers(1, 5))):
        here = (free - 0.9) * (((x * side > 0) | both) & (y > tops + 0.25))
        cx, cy = place(r, here, x, y)
        patch = blob(r, x, y, cx, cy, r.uniform(0.13, 0.26), r.uniform(0.6, 1), 0.14)
        cloud = inside(patch, r.uniform(0.6, 1.1)) * np.clip(0.75 + 0.5 * noise(r, shape, 11, 3), 0, 1.3)
        haze = np.maximum(haze, r.uniform(0.4, 0.75) * cloud)
    haze = haze * free
    return picture, picture + haze * np.clip(0.68 - picture, 0, 1), haze > 0.12


def thyroid(r: R, shape: tuple[int, int]) -> Drawn:
    """A neck under a straight or bent probe: skin, fat, muscle, the gland, an artery, the windpipe."""
    x, y = plane(shape)
    side, bend = r.choice([-1, 1]), r.uniform(-0.03, 0.1)
    x = side * x
    depth = y + 1 - bend * x**2 + 0.03 * noise(r, shape, 3)  # 0 at the probe, 2 at the bottom
    skin, fat, muscle = r.uniform(0.08, 0.13), r.uniform(0.25, 0.38), r.uniform(0.52, 0.7)
    level = np.full(shape, 0.34, np.float32)
    for start, value in ((0.0, 0.62), (skin, 0.32), (fat, 0.24), (muscle, 0.36)):
        level += inside(start - depth, 0.03) * (value - level)
    streaks = gaussian_filter(r.normal(size=shape), (1.6, 26), mode="nearest") * 9
    level += 0.1 * np.clip(streaks, -1, 2) * inside(depth - muscle, 0.06) * inside(skin - depth, 0.04)
    for start in (fat, muscle):
        level += 0.28 * np.exp(-(((depth - start) / 0.022) ** 2)) * (0.7 + 0.5 * noise(r, shape, 5))

    middle = muscle + r.uniform(0.42, 0.5) - 1
    rx, ry = r.uniform(0.68, 0.82), r.uniform(0.36, 0.43)
    gland = oval(x, y, r.uniform(-0.08, 0.08), middle, rx, ry, 0.1 * r.normal()) + 0.03 * noise(r, shape, 4)
    bright = r.uniform(0.46, 0.54)
    level += inside(gland, 0.06) * (bright + 0.03 * noise(r, shape, 5, 2) - level)
    level += 0.15 * np.exp(-((gland / 0.02) ** 2))
    artery = oval(x, y, r.uniform(0.98, 1.08), middle + r.uniform(-0.05, 0.15), 0.2, r.uniform(0.17, 0.2))
    level += inside(artery, 0.04) * (0.04 - level)
    level += 0.16 * np.exp(-(((artery - 0.02) / 0.03) ** 2))
    pipe = oval(x, y, r.uniform(-1.3, -1.16), middle + 0.25, 0.42, 0.5)
    level += inside(pipe, 0.05) * (0.1 - level) + 0.3 * np.exp(-(((pipe - 0.01) / 0.03) ** 2)) * (
        y < middle + 0.3
    )
    level += 0.06 * noise(r, shape, 6, 2) * (depth > muscle + 0.8)
    level -= r.uniform(0.08, 0.14) * np.clip(depth - 1.0, 0, 1)
    level += 0.03 * gaussian_filter(r.normal(size=shape[1]), 8)[None] * 4  # columns that couple badly

    grains = [gaussian_filter(r.normal(size=shape), (1.1, 2.0 + 0.8 * r.random())) for _ in range(2)]
    echo = np.sqrt(grains[0] ** 2 + grains[1] ** 2)
    speckle = np.log(np.maximum(echo / echo.mean(), 0.08)) * r.uniform(0.1, 0.13)

    radius, flat = r.uniform(0.18, 0.4), r.uniform(0.58, 0.88)
    cx, cy = place(r, -0.75 * radius * flat - 0.02 - gland, x, y)
    u, v = x - cx, (y - cy) / flat
    angle, reach = np.arctan2(v, u), 1.0
    for k in range(2, 7):
        reach = reach + 0.05 * r.normal() * np.cos(k * angle + r.uniform(0, 2 * np.pi))
    lump = np.sqrt(u**2 + v**2) / radius / np.clip(reach, 0.7, 1.4) - 1
    lesion, within = level.copy(), inside(gland + 0.02, 0.04)
    dark = r.random() < 0.7
    value = bright - r.uniform(0.13, 0.26) if dark else bright + r.uniform(0.1, 0.17)
    rough = value + 0.05 * noise(r, shape, 9, 2)
    lesion += inside(lump + 0.06, r.uniform(0.12, 0.3)) * within * (rough - lesion)
    if not dark or r.random() < 0.3:
        lesion -= 0.13 * np.exp(-(((lump + 0.03) / 0.09) ** 2)) * within
    if dark and r.random() < 0.5:  # small calcified points
        for _ in range(int(r.integers(2, 6))):
            px, py = place(r, -0.35 - lump, x, y)
            lesion += 0.4 * inside(oval(x, y, px, py, 0.014, 0.012), 0.02)
    lesion = np.maximum(lesion, 0.03)
    return level + speckle, lesion + speckle, (lump < 0) & (gland < 0)
