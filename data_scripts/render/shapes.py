"""Outlines in a unit square and the strokes that draw them: the vocabulary in which every category is
written.

Coordinates: x to the right, y downwards, an object fills about [-1, 1] x [-1, 1]. A *part* is one of
``fill(points, shade)``, ``cut(points)``, ``stroke(points, width, shade)``. A shade is a factor on the
object's own colour, or an RGB triple in [0, 1] for a part that keeps its colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Shade = float | tuple[float, float, float]
R = np.random.Generator
DARK, LIGHT, STEEL, WOODEN = (0.12, 0.12, 0.14), (0.93, 0.92, 0.88), (0.62, 0.64, 0.67), (0.62, 0.45, 0.28)


def mildly(r: R, value: float, spread: float = 0.05) -> float:
    """`value`, more or less: within `spread` of it."""
    return value * (1 + spread * (2 * r.random() - 1))


@dataclass(frozen=True)
class Part:
    """One drawing step: `kind` is fill, cut or stroke; `points` (n, 2); `width` only for strokes."""

    kind: str
    points: np.ndarray
    shade: Shade = 1.0
    width: float = 0.0


def fill(points: np.ndarray, shade: Shade = 1.0) -> Part:
    return Part("fill", np.asarray(points, float), shade)


def cut(points: np.ndarray) -> Part:
    return Part("cut", np.asarray(points, float))


def stroke(points: np.ndarray, width: float, shade: Shade = 1.0) -> Part:
    return Part("stroke", np.asarray(points, float), shade, width)


def ellipse(x: float, y: float, rx: float, ry: float | None = None, n: int = 40) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1)


def rectangle(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    w, h = half_width, half_height
    return np.array([[x - w, y - h], [x + w, y - h], [x + w, y + h], [x - w, y + h]])


def rounded(x: float, y: float, w: float, h: float, radius: float) -> np.ndarray:
    """Rectangle with half sizes w, h and round corners."""
    t = np.linspace(0, np.pi / 2, 8)
    centres = [
        (w - radius, h - radius, 0),
        (-w + radius, h - radius, 1),
        (-w + radius, -h + radius, 2),
        (w - radius, -h + radius, 3),
    ]
    arcs = [
        np.stack(
            [x + cx + radius * np.cos(t + q * np.pi / 2), y + cy + radius * np.sin(t + q * np.pi / 2)], 1
        )
        for cx, cy, q in centres
    ]
    return np.concatenate(arcs)


def polygon(n: int, r: float = 1.0, turn: float = 0.0) -> np.ndarray:
    t = turn + np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([r * np.cos(t), r * np.sin(t)], 1)


def star(n: int, outer: float, inner: float, turn: float = -np.pi / 2) -> np.ndarray:
    t = turn + np.linspace(0, 2 * np.pi, 2 * n, endpoint=False)
    r = np.where(np.arange(2 * n) % 2 == 0, outer, inner)
    return np.stack([r * np.cos(t), r * np.sin(t)], 1)


def teeth(n: int, outer: float, inner: float) -> np.ndarray:
    """Outline of a toothed wheel with square teeth."""
    t = np.linspace(0, 2 * np.pi, 4 * n, endpoint=False)
    r = np.where((np.arange(4 * n) // 2) % 2 == 0, outer, inner)
    return np.stack([r * np.cos(t), r * np.sin(t)], 1)


def arc(x: float, y: float, r: float, start: float, stop: float, n: int = 24) -> np.ndarray:
    """Points on a circle, angles in degrees, clockwise on screen."""
    t = np.deg2rad(np.linspace(start, stop, n))
    return np.stack([x + r * np.cos(t), y + r * np.sin(t)], 1)


def line(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


def shifted(parts: list[Part], x: float, y: float, scale: float = 1.0, turn: float = 0.0) -> list[Part]:
    """The same parts scaled, turned by `turn` radians and moved."""
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return [Part(p.kind, p.points @ rotation.T * scale + [x, y], p.shade, p.width * scale) for p in parts]


def colour_of(base: np.ndarray, shade: Shade) -> tuple[int, int, int]:
    rgb = np.clip(base * shade, 0, 1) if isinstance(shade, (int, float)) else np.asarray(shade)
    return tuple(int(v) for v in np.round(255 * rgb))


def rasterise(
    parts: list[Part], base: np.ndarray, centre: np.ndarray, scale: float, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Parts -> colours (H, W, 3) and silhouette (H, W), both float32 in [0, 1], without antialiasing (the
    scene is reduced later)."""
    height, width = shape
    colours = Image.new("RGB", (width, height), colour_of(base, 1.0))
    silhouette = Image.new("L", (width, height), 0)
    on_colours, on_silhouette = ImageDraw.Draw(colours), ImageDraw.Draw(silhouette)
    for part in parts:
        points = [tuple(p) for p in part.points * scale + centre]
        if part.kind == "stroke":
            w = max(1, round(part.width * scale))
            on_colours.line(points, fill=colour_of(base, part.shade), width=w, joint="curve")
            on_silhouette.line(points, fill=255, width=w, joint="curve")
        elif part.kind == "fill":
            on_colours.polygon(points, fill=colour_of(base, part.shade))
            on_silhouette.polygon(points, fill=255)
        else:
            on_silhouette.polygon(points, fill=0)
    return np.asarray(colours, np.float32) / 255, np.asarray(silhouette, np.float32) / 255
