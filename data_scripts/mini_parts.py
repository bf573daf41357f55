"""The parts and surfaces of the mini datasets. None of them, and no near copy of them, is among the mini
model's training categories."""

from __future__ import annotations

import numpy as np

from data_scripts.render.shapes import (
    Part,
    cut,
    ellipse,
    fill,
    line,
    polygon,
    rectangle,
    rounded,
    stroke,
    teeth,
)
from data_scripts.render.textures import noise

R = np.random.Generator
DARK, METAL, COPPER, CREAM = (0.12, 0.12, 0.14), (0.66, 0.67, 0.7), (0.75, 0.5, 0.25), (0.93, 0.88, 0.76)


# mini_mvtec: objects
def bottle_top(r: R) -> list[Part]:
    """A bottle seen from above: rings around a dark mouth."""
    return [
        fill(ellipse(0, 0, 1)),
        stroke(ellipse(0, 0, 0.93), 0.06, 0.7),
        fill(ellipse(0, 0, 0.74), 0.8),
        stroke(ellipse(0, 0, 0.7), 0.07, 1.35),
        fill(ellipse(0, 0, 0.5), DARK),
    ]


def capsule(r: R) -> list[Part]:
    text = [stroke(line((x, -0.1), (x + 0.05, 0.1)), 0.035, DARK) for x in np.linspace(0.2, 0.66, 5)]
    return [
        fill(rounded(0, 0, 1, 0.36, 0.35)),
        fill(rounded(-0.5, 0, 0.5, 0.36, 0.35), CREAM),
        fill(rectangle(-0.1, 0, 0.12, 0.36), CREAM),
        stroke(line((0.03, -0.35), (0.03, 0.35)), 0.05, 0.6),
        *text,
    ]


def hex_nut(r: R) -> list[Part]:
    return [
        fill(polygon(6, 1.0)),
        stroke(ellipse(0, 0, 0.78), 0.04, 1.2),
        cut(ellipse(0, 0, 0.46)),
        stroke(ellipse(0, 0, 0.52), 0.07, 0.6),
    ]


def hex_nut_underside(r: R) -> list[Part]:
    """The face that belongs on the part below: as whole as the other, with a wide collar and its grooves."""
    grooves = [
        stroke(0.6 * spoke + 0.24 * spoke * np.array([[0], [1]]), 0.05, 0.72)
        for spoke in polygon(12, 1.0, 0.13)
    ]
    return [
        fill(polygon(6, 1.0)),
        fill(ellipse(0, 0, 0.85), 1.15),
        *grooves,
        cut(ellipse(0, 0, 0.46)),
        stroke(ellipse(0, 0, 0.49), 0.04, 0.75),
    ]


def screw(r: R) -> list[Part]:
    thread = [
        stroke(line((x - 0.05, -0.17), (x + 0.06, 0.17)), 0.05, 0.55) for x in np.arange(-0.3, 0.8, 0.13)
    ]
    head = line((-1, -0.42), (-0.82, -0.42), (-0.6, -0.16), (-0.6, 0.16), (-0.82, 0.42), (-1, 0.42))
    return [
        fill(line((-0.65, -0.15), (0.8, -0.14), (1, 0), (0.8, 0.14), (-0.65, 0.15))),
        *thread,
        fill(head, 0.9),
    ]


def transistor(r: R) -> list[Part]:
    legs = [stroke(line((x, 0.1), (x, 1)), 0.1, METAL) for x in (-0.36, 0, 0.36)]
    return [
        *legs,
        fill(rectangle(0, -0.62, 0.5, 0.36), METAL),
        cut(ellipse(0, -0.72, 0.15)),
        fill(rectangle(0, -0.1, 0.58, 0.42)),
        stroke(line((-0.35, -0.2), (0.3, -0.2)), 0.05, 2.2),
        stroke(line((-0.35, -0.02), (0.15, -0.02)), 0.05, 2.2),
    ]


def toothbrush(r: R) -> list[Part]:
    tufts = [
        fill(ellipse(x, y, 0.1), (0.9, 0.92, 0.95) if (i + j) % 2 else (0.68, 0.8, 0.92))
        for i, x in enumerate(np.linspace(-0.28, 0.28, 4))
        for j, y in enumerate(np.linspace(-0.8, 0.12, 7))
    ]
    return [
        fill(rounded(0, -0.34, 0.5, 0.66, 0.3)),
        fill(line((-0.2, 0.2), (0.2, 0.2), (0.1, 0.5), (0.1, 1), (-0.1, 1), (-0.1, 0.5))),
        *tufts,
    ]


def zipper(r: R) -> list[Part]:
    links = [
        fill(rectangle(0.1 if i % 2 else -0.1, y, 0.17, 0.035), METAL)
        for i, y in enumerate(np.linspace(-0.95, 0.95, 24))
    ]
    return [
        fill(rectangle(-0.42, 0, 0.36, 1)),
        fill(rectangle(0.42, 0, 0.36, 1)),
        fill(rectangle(0, 0, 0.12, 1), 0.5),
        *links,
    ]


# mini_mvtec: surfaces
def carpet(u, v, r: R) -> np.ndarray:
    loops = 0.13 * np.sin(2 * np.pi * u / 0.09) * np.sin(2 * np.pi * v / 0.09)
    return _grey(1 + loops + 0.13 * noise(r, u.shape, 45, 2))


def grid(u, v, r: R) -> np.ndarray:
    a, b = (u + v) / 0.3, (u - v) / 0.3
    wire = np.minimum(np.abs(a % 1 - 0.5), np.abs(b % 1 - 0.5)) < 0.09
    return _grey(np.where(wire, 1.25, 0.35))


def leather(u, v, r: R) -> np.ndarray:
    n = noise(r, u.shape, 26)
    return _grey(0.95 + 0.16 * np.tanh(4 * np.abs(n) - 0.8) + 0.05 * noise(r, u.shape, 4))


def tile(u, v, r: R) -> np.ndarray:
    n = noise(r, u.shape, 18, 2)
    return _grey(np.where(n > 0.38, 0.6, np.where(n < -0.5, 1.22, 0.98)) + 0.03 * noise(r, u.shape, 50))


def wood(u, v, r: R) -> np.ndarray:
    warp = u + 0.08 * noise(r, u.shape, 2) + 0.02 * np.sin(3 * v)
    return _grey(0.95 + 0.1 * np.sin(2 * np.pi * warp / 0.13) + 0.07 * np.sin(2 * np.pi * warp / 0.051 + 2))


def _grey(value: np.ndarray) -> np.ndarray:
    return np.repeat(value[..., None], 3, 2).astype(np.float32)


# mini_visa
def candle(r: R) -> list[Part]:
    return [
        fill(ellipse(0, 0, 0.95)),
        stroke(ellipse(0, 0, 0.8), 0.05, 0.85),
        stroke(line((0, 0), (0.1 * r.uniform(-1, 1), -0.3)), 0.09, DARK),
    ]


def macaroni(r: R) -> list[Part]:
    t = np.deg2rad(np.linspace(200, 340, 26))
    middle = np.stack([0.85 * np.cos(t), 0.85 * np.sin(t) + 0.6], 1)
    return [
        stroke(middle, 0.46),
        stroke(middle - [0, 0.06], 0.1, 1.15),
        fill(ellipse(*middle[0], 0.13), 0.55),
    ]


def bean(r: R) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 50)
    radius = 0.8 - 0.2 * np.exp(-((t - 1.5 * np.pi) ** 2) / 0.15)
    return [
        fill(np.stack([radius * np.cos(t), 0.62 * radius * np.sin(t)], 1)),
        fill(ellipse(0, -0.28, 0.14, 0.06), CREAM),
    ]


def circuit_board(r: R) -> list[Part]:
    traces = [
        stroke(line((-1.3, y), (x, y), (x + 0.2, y + 0.18), (1.3, y + 0.18)), 0.035, (0.7, 0.62, 0.25))
        for x, y in ((-0.6, -0.7), (-0.3, -0.45), (0.1, 0.05), (-0.5, 0.3), (0.2, 0.55))
    ]
    chips = [
        fill(rectangle(-0.45, -0.1, 0.3, 0.24), DARK),
        fill(rectangle(0.65, -0.35, 0.22, 0.22), DARK),
        fill(rectangle(0.55, 0.35, 0.36, 0.12), (0.2, 0.2, 0.24)),
    ]
    pads = [fill(ellipse(x, 0.8, 0.07), (0.85, 0.82, 0.72)) for x in np.linspace(-1.2, 1.2, 11)]
    caps = [fill(ellipse(x, y, 0.13), METAL) for x, y in ((-1.05, -0.2), (1.1, -0.65), (-1.05, 0.45))]
    holes = [cut(ellipse(x, y, 0.08)) for x in (-1.28, 1.28) for y in (-0.84, 0.84)]
    return [fill(rounded(0, 0, 1.42, 0.97, 0.06)), *traces, *chips, *pads, *caps, *holes]


def cashew(r: R) -> list[Part]:
    t = np.deg2rad(np.linspace(20, 230, 34))
    width = 0.36 + 0.1 * np.sin(np.linspace(0, np.pi, 34))
    outer, inner = 0.62 + width / 2, 0.62 - width / 2
    ring = np.concatenate(
        [
            np.stack([outer * np.cos(t), outer * np.sin(t)], 1),
            np.stack([inner * np.cos(t), inner * np.sin(t)], 1)[::-1],
        ]
    )
    ends = [fill(ellipse(0.62 * np.cos(a), 0.62 * np.sin(a), 0.18)) for a in (t[0], t[-1])]
    return [fill(ring + [0, -0.2]), *[Part(p.kind, p.points + [0, -0.2], p.shade) for p in ends]]


def cookie(r: R) -> list[Part]:
    angles, radii = r.uniform(0, 2 * np.pi, 9), 0.75 * np.sqrt(r.random(9))
    chips = [
        fill(ellipse(d * np.cos(a), d * np.sin(a), r.uniform(0.06, 0.1)), (0.25, 0.14, 0.09))
        for a, d in zip(angles, radii, strict=True)
    ]
    wobble = 1 + 0.03 * np.sin(np.linspace(0, 2 * np.pi, 40, endpoint=False) * 5 + r.uniform(0, 6))
    return [fill(ellipse(0, 0, 0.95) * wobble[:, None]), stroke(ellipse(0, 0, 0.88), 0.05, 0.85), *chips]


def pretzel(r: R) -> list[Part]:
    t = np.linspace(-0.15 * np.pi, 1.15 * np.pi, 40)
    loop = np.stack([0.82 * np.cos(t), 0.2 - 0.82 * np.sin(t)], 1)
    arms = [line(loop[0], (0.25, 0.75), (-0.45, -0.05)), line(loop[-1], (-0.25, 0.75), (0.45, -0.05))]
    salt = [fill(ellipse(*loop[i], 0.045), CREAM) for i in range(4, 38, 5)]
    return [stroke(loop, 0.25), *[stroke(a, 0.22, 0.92) for a in arms], *salt]


def gear(r: R) -> list[Part]:
    bolts = [
        cut(p)
        for p in (
            ellipse(0.45 * np.cos(a), 0.45 * np.sin(a), 0.09)
            for a in np.linspace(0, 2 * np.pi, 5, endpoint=False)
        )
    ]
    return [
        fill(teeth(14, 1.0, 0.8)),
        stroke(ellipse(0, 0, 0.66), 0.04, 0.75),
        *bolts,
        cut(ellipse(0, 0, 0.2)),
    ]


def fuse(r: R) -> list[Part]:
    wire = np.stack([np.linspace(-1, 1, 30), 0.05 * np.sin(np.linspace(0, 6 * np.pi, 30))], 1)
    return [
        fill(rectangle(0, 0, 1.1, 0.4), (0.8, 0.86, 0.88)),
        stroke(wire, 0.06, COPPER),
        fill(rectangle(-1.15, 0, 0.3, 0.46)),
        fill(rectangle(1.15, 0, 0.3, 0.46)),
        stroke(line((-0.8, -0.27), (0.8, -0.27)), 0.06, (0.95, 0.97, 0.98)),
    ]
