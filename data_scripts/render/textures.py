"""Surfaces that fill the picture. Each function returns brightness and tint (H, W, 3) around the surface's
own colour.

`u, v` are the picture's coordinates in units of its shorter half edge, already turned and shifted by the
scene, so that a surface is the same at any resolution. No surface of any test set stands here.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

R = np.random.Generator


def noise(r: R, shape: tuple[int, int], cells: float, octaves: int = 1) -> np.ndarray:
    """Smooth noise (H, W) in about [-1, 1]; `cells`: bumps along the shorter edge."""
    height, width = shape
    total, weight = np.zeros(shape, np.float32), 1.0
    for octave in range(octaves):
        n = max(2, round(cells * 2**octave))
        grid = (
            r.random(
                (max(2, round(n * height / min(shape))) + 1, max(2, round(n * width / min(shape))) + 1)
            ).astype(np.float32)
            * 2
            - 1
        )
        total += weight * np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
        weight /= 2
    return total


def _grey(value: np.ndarray) -> np.ndarray:
    return np.repeat(value[..., None], 3, 2).astype(np.float32)


def _wave(x: np.ndarray, period: float) -> np.ndarray:
    return np.sin(2 * np.pi * x / period)


def _line(x: np.ndarray, period: float, width: float) -> np.ndarray:
    """1 on lines of the given width every `period`, 0 between."""
    return (np.abs((x / period) % 1 - 0.5) > 0.5 - width / period / 2).astype(np.float32)


def brick(u, v, r: R) -> np.ndarray:
    row = np.floor(v / 0.3)
    x = u + 0.35 * (row % 2)
    tone = np.take(r.random(64), (row * 7 + np.floor(x / 0.7) * 13).astype(int) % 64)
    joint = np.maximum(_line(v + 0.15, 0.3, 0.05), _line(x + 0.35, 0.7, 0.05))
    return _grey(np.where(joint > 0, 1.25, 0.85 + 0.22 * tone))


def denim(u, v, r: R) -> np.ndarray:
    return _grey(1 + 0.13 * _wave(u + v, 0.07) + 0.1 * noise(r, u.shape, 40))


def stripes(u, v, r: R) -> np.ndarray:
    return _grey(np.where(_wave(u, 0.32) > 0, 1.12, 0.72))


def checkerboard(u, v, r: R) -> np.ndarray:
    return _grey(np.where((np.floor(u / 0.27) + np.floor(v / 0.27)) % 2 > 0, 1.15, 0.65))


def dots(u, v, r: R) -> np.ndarray:
    d = (u % 0.3 - 0.15) ** 2 + (v % 0.3 - 0.15) ** 2
    return _grey(np.where(d < 0.07**2, 1.3, 0.9))


def marble(u, v, r: R) -> np.ndarray:
    vein = np.abs(np.sin(3 * u + 2 * v + 2.2 * noise(r, u.shape, 3, 3)))
    return _grey(0.75 + 0.3 * vein**0.5)


def sand(u, v, r: R) -> np.ndarray:
    return _grey(1 + 0.12 * noise(r, u.shape, 60) + 0.08 * noise(r, u.shape, 6))


def cork(u, v, r: R) -> np.ndarray:
    n = noise(r, u.shape, 22)
    return _grey(np.where(n > 0.45, 0.75, np.where(n < -0.5, 1.15, 1.0)))


def paper(u, v, r: R) -> np.ndarray:
    return _grey(1 + 0.03 * noise(r, u.shape, 50) - 0.14 * _line(v, 0.25, 0.018))


def gravel(u, v, r: R) -> np.ndarray:
    n = noise(r, u.shape, 16)
    return _grey(0.9 + 0.3 * np.abs(n) + 0.1 * noise(r, u.shape, 40))


def knit(u, v, r: R) -> np.ndarray:
    return _grey(1 + 0.2 * _wave(u + 0.05 * np.abs(_wave(v, 0.22)), 0.17) * np.abs(_wave(v, 0.22)))


def linen(u, v, r: R) -> np.ndarray:
    return _grey(1 + 0.08 * _wave(u, 0.06) + 0.08 * _wave(v, 0.06) + 0.06 * noise(r, u.shape, 50))


def corrugated(u, v, r: R) -> np.ndarray:
    return _grey(0.95 + 0.28 * _wave(v, 0.22))


def honeycomb(u, v, r: R) -> np.ndarray:
    s = np.sqrt(3)
    w = np.cos(2 * np.pi * u / 0.3) + np.cos(np.pi * (u + s * v) / 0.3) + np.cos(np.pi * (u - s * v) / 0.3)
    return _grey(np.where(w < -0.6, 0.65, 1.05))


def plaid(u, v, r: R) -> np.ndarray:
    value = 0.95 - 0.25 * (_wave(u, 0.5) > 0.3) - 0.25 * (_wave(v, 0.5) > 0.3)
    return _grey(value + 0.3 * np.maximum(_line(u, 0.5, 0.03), _line(v, 0.5, 0.03)))


def rope(u, v, r: R) -> np.ndarray:
    strand = (u / 0.34) % 1 - 0.5
    return _grey((1.1 - 0.9 * strand**2) + 0.16 * _wave(v + 0.5 * np.abs(strand), 0.12))


def herringbone(u, v, r: R) -> np.ndarray:
    fold = np.abs((u / 0.4) % 1 - 0.5)
    return _grey(np.where(_wave(v + 0.4 * fold, 0.13) > 0, 1.1, 0.75))


def felt(u, v, r: R) -> np.ndarray:
    return _grey(1 + 0.1 * noise(r, u.shape, 30, 2))


TRAIN_TEXTURES = (
    brick,
    denim,
    stripes,
    checkerboard,
    dots,
    marble,
    sand,
    cork,
    paper,
    gravel,
    knit,
    linen,
    corrugated,
    honeycomb,
    plaid,
    rope,
)
VALIDATION_TEXTURES = (herringbone, felt)
