"""Objects of daily life (see objects.py)."""

from __future__ import annotations

import numpy as np

from .shapes import (
    DARK,
    LIGHT,
    WOODEN,
    Part,
    R,
    arc,
    cut,
    ellipse,
    fill,
    line,
    mildly,
    polygon,
    rectangle,
    rounded,
    star,
    stroke,
)


def coin(r: R) -> list[Part]:
    return [
        fill(ellipse(0, 0, 1)),
        stroke(ellipse(0, 0, 0.86), 0.05, 0.75),
        fill(star(5, mildly(r, 0.5), 0.22), 1.2),
    ]


def button(r: R) -> list[Part]:
    holes = [cut(ellipse(x, y, 0.13)) for x in (-0.25, 0.25) for y in (-0.25, 0.25)]
    return [fill(ellipse(0, 0, 0.95)), fill(ellipse(0, 0, mildly(r, 0.68)), 0.82), *holes]


def plate(r: R) -> list[Part]:
    return [
        fill(ellipse(0, 0, 1)),
        stroke(ellipse(0, 0, 0.92), 0.05, 0.7),
        fill(ellipse(0, 0, mildly(r, 0.62)), 1.12),
    ]


def clock(r: R) -> list[Part]:
    ticks = [stroke(np.stack([p * 0.72, p * 0.86]), 0.06, DARK) for p in polygon(12, 1.0)]
    a, b = r.random(2) * 2 * np.pi
    hands = [
        stroke(line((0, 0), (size * np.cos(t), size * np.sin(t))), 0.07, DARK)
        for t, size in ((a, 0.45), (b, 0.66))
    ]
    return [fill(ellipse(0, 0, 1)), fill(ellipse(0, 0, 0.9), LIGHT), *ticks, *hands]


def cup(r: R) -> list[Part]:
    body = line((-0.75, -0.8), (0.45, -0.8), (0.35, 0.8), (-0.65, 0.8))
    return [
        stroke(arc(0.45, -0.1, mildly(r, 0.4), -90, 90), 0.14, 0.9),
        fill(body),
        fill(ellipse(-0.15, -0.8, 0.6, 0.12), 0.65),
    ]


def vase(r: R) -> list[Part]:
    y = np.linspace(-1, 1, 24)
    w = 0.32 + 0.4 * np.exp(-((y - 0.3) ** 2) / 0.18) + 0.1 * (y < -0.85)
    outline = np.concatenate([np.stack([-w, y], 1), np.stack([w, y], 1)[::-1]])
    return [fill(outline), stroke(line((-0.6, 0.3), (0.6, 0.3)), mildly(r, 0.1), 0.7)]


def key(r: R) -> list[Part]:
    bits = [fill(rectangle(x, 0.25, 0.07, 0.17)) for x in (0.5, 0.72, 0.92)]
    return [
        stroke(line((-0.3, 0), (1, 0)), 0.17),
        fill(ellipse(-0.6, 0, 0.42)),
        cut(ellipse(-0.65, 0, mildly(r, 0.2))),
        *bits,
    ]


def spoon(r: R) -> list[Part]:
    return [
        fill(ellipse(0, -0.62, 0.34, 0.42)),
        fill(ellipse(0, -0.6, 0.22, 0.29), 0.8),
        stroke(line((0, -0.2), (0, 1)), mildly(r, 0.13)),
    ]


def fork(r: R) -> list[Part]:
    tines = [stroke(line((x, -0.35), (x, -1)), 0.09) for x in (-0.3, -0.1, 0.1, 0.3)]
    return [
        stroke(line((0, -0.1), (0, 1)), mildly(r, 0.15)),
        fill(line((-0.35, -0.4), (0.35, -0.4), (0.12, 0), (-0.12, 0))),
        *tines,
    ]


def comb(r: R) -> list[Part]:
    tines = [stroke(line((x, -0.2), (x, 0.75)), 0.07) for x in np.linspace(-0.92, 0.92, 13)]
    return [fill(rounded(0, -0.4, 1, mildly(r, 0.26), 0.1)), *tines]


def dice(r: R) -> list[Part]:
    dots = [
        fill(ellipse(x, y, 0.14), DARK)
        for x, y in ((-0.45, -0.45), (0.45, 0.45), (0, 0), (-0.45, 0.45), (0.45, -0.45))
    ]
    return [fill(rounded(0, 0, 0.85, 0.85, mildly(r, 0.2))), *dots]


def envelope(r: R) -> list[Part]:
    return [
        fill(rectangle(0, 0, 1, 0.68)),
        stroke(line((-1, -0.66), (0, mildly(r, 0.15)), (1, -0.66)), 0.05, 0.65),
        fill(rectangle(0.72, -0.4, 0.14, 0.16), (0.75, 0.3, 0.3)),
    ]


def book(r: R) -> list[Part]:
    return [
        fill(rectangle(0, 0, 0.72, 0.95)),
        fill(rectangle(-0.6, 0, 0.12, 0.95), 0.7),
        fill(rectangle(0.12, -0.45, 0.42, 0.2), LIGHT),
        stroke(line((-0.2, 0.4), (0.45, 0.4)), mildly(r, 0.06), 1.3),
    ]


def heart(r: R) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 60)
    x, y = 16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [fill(np.stack([x / 16.5, y / mildly(r, 16)], 1))]


def star_badge(r: R) -> list[Part]:
    return [fill(star(5, 1, 0.45)), fill(star(5, mildly(r, 0.6), 0.27), 1.2)]


def leaf(r: R) -> list[Part]:
    x = np.linspace(-0.8, 0.9, 30)
    w = 0.42 * np.sin(np.pi * (x + 0.8) / 1.7).clip(0) ** 0.8
    veins = [
        stroke(line((v, 0), (v + 0.22, s * 0.25)), 0.03, 0.7) for v in (-0.4, -0.1, 0.2, 0.5) for s in (-1, 1)
    ]
    return [
        fill(np.concatenate([np.stack([x, -w], 1), np.stack([x, w], 1)[::-1]])),
        stroke(line((-1, 0), (0.85, 0)), mildly(r, 0.05), 0.65),
        *veins,
    ]


def mushroom(r: R) -> list[Part]:
    cap = np.concatenate([arc(0, 0, 0.95, 180, 360), line((0.6, 0.12), (-0.6, 0.12))])
    return [
        fill(rounded(0, 0.5, 0.26, 0.45, 0.12), LIGHT),
        fill(cap),
        fill(ellipse(-0.35, -0.4, mildly(r, 0.14)), 1.35),
        fill(ellipse(0.35, -0.45, 0.12), 1.35),
    ]


def fish(r: R) -> list[Part]:
    return [
        fill(line((0.45, 0), (1, -0.45), (1, 0.45)), 0.85),
        fill(ellipse(-0.15, 0, 0.8, mildly(r, 0.42))),
        fill(ellipse(-0.62, -0.1, 0.08), DARK),
        stroke(arc(-0.75, 0, 0.4, -40, 40), 0.04, 0.7),
    ]


def apple(r: R) -> list[Part]:
    return [
        stroke(line((0, -0.6), (0.1, -1)), 0.09, WOODEN),
        fill(ellipse(0.33, -0.8, 0.22, 0.1), (0.3, 0.55, 0.25)),
        fill(ellipse(-0.25, 0.1, 0.6, mildly(r, 0.75))),
        fill(ellipse(0.25, 0.1, 0.6, 0.75)),
    ]


def egg(r: R) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 50)
    return [fill(np.stack([mildly(r, 0.72) * np.cos(t) * (1 + 0.12 * np.sin(t)), 0.95 * np.sin(t)], 1))]


def donut(r: R) -> list[Part]:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + r.random()
    sprinkles = [fill(ellipse(0.66 * np.cos(a), 0.66 * np.sin(a), 0.07), (0.95, 0.85, 0.4)) for a in angles]
    return [
        fill(ellipse(0, 0, 0.98), 0.75),
        fill(ellipse(0, 0, 0.9)),
        *sprinkles,
        cut(ellipse(0, 0, mildly(r, 0.33))),
    ]


def arrow(r: R) -> list[Part]:
    return [
        fill(
            line(
                (-1, -0.22), (0.2, -0.22), (0.2, -0.6), (1, 0), (0.2, 0.6), (0.2, 0.22), (-1, mildly(r, 0.22))
            )
        )
    ]


def shield(r: R) -> list[Part]:
    outline = line((-0.8, -0.9), (0.8, -0.9), (0.8, 0.1), (0.45, 0.7), (0, 1), (-0.45, 0.7), (-0.8, 0.1))
    return [
        fill(outline),
        fill(outline * 0.78, 1.15),
        stroke(line((0, -0.65), (0, 0.7)), mildly(r, 0.12), 0.7),
    ]


def bell(r: R) -> list[Part]:
    body = line(
        (-0.2, -0.9),
        (0.2, -0.9),
        (0.5, -0.3),
        (0.55, 0.3),
        (0.85, 0.65),
        (-0.85, 0.65),
        (-0.55, 0.3),
        (-0.5, -0.3),
    )
    return [
        fill(ellipse(0, 0.75, mildly(r, 0.18)), 0.7),
        fill(body),
        stroke(line((-0.7, 0.5), (0.7, 0.5)), 0.07, 0.75),
    ]


def flower(r: R) -> list[Part]:
    petals = [
        fill(ellipse(0.6 * np.cos(a), 0.6 * np.sin(a), 0.36))
        for a in np.linspace(0, 2 * np.pi, 7, endpoint=False)
    ]
    return [*petals, fill(ellipse(0, 0, mildly(r, 0.33)), (0.9, 0.75, 0.2))]


def sailboat(r: R) -> list[Part]:
    return [
        fill(line((-0.8, 0.5), (0.8, 0.5), (0.5, 0.9), (-0.5, 0.9)), WOODEN),
        stroke(line((0, 0.5), (0, -0.95)), 0.08, DARK),
        fill(line((0.07, -0.9), (0.07, 0.38), (mildly(r, 0.75), 0.38))),
        fill(line((-0.08, -0.6), (-0.08, 0.38), (-0.6, 0.38)), 0.85),
    ]
