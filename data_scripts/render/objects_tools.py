"""Tools, hardware and electronics (see objects.py)."""

from __future__ import annotations

import numpy as np

from .shapes import (
    DARK,
    LIGHT,
    STEEL,
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


def washer(r: R) -> list[Part]:
    return [
        fill(ellipse(0, 0, 0.95)),
        stroke(ellipse(0, 0, 0.8), 0.03, 1.15),
        cut(ellipse(0, 0, mildly(r, 0.45))),
    ]


def wheel(r: R) -> list[Part]:
    spokes = [stroke(np.stack([p * 0.1, p * 0.85]), 0.1, 0.9) for p in polygon(6, 1.0, r.random())]
    return [stroke(ellipse(0, 0, 0.88), 0.2), *spokes, fill(ellipse(0, 0, 0.2), 0.7)]


def hammer(r: R) -> list[Part]:
    return [
        fill(rectangle(0, 0.2, 0.12, mildly(r, 0.8)), WOODEN),
        fill(rounded(0, -0.65, 0.75, 0.26, 0.08)),
        fill(rectangle(0.62, -0.65, 0.13, 0.26), 0.75),
    ]


def pencil(r: R) -> list[Part]:
    return [
        fill(rectangle(-0.1, 0, 0.72, 0.17)),
        stroke(line((-0.8, 0), (0.6, 0)), 0.05, 0.75),
        fill(line((0.62, -0.17), (1, 0), (0.62, 0.17)), (0.9, 0.78, 0.6)),
        fill(line((0.88, -0.05), (1, 0), (0.88, 0.05)), DARK),
        fill(rectangle(-0.9, 0, 0.1, 0.17), (0.85, 0.5, 0.5)),
    ]


def needle(r: R) -> list[Part]:
    return [
        stroke(line((-0.8, 0), (1, 0)), 0.09),
        fill(ellipse(-0.82, 0, mildly(r, 0.2)), 0.8),
        cut(ellipse(-0.84, 0, 0.08)),
    ]


def spring(r: R) -> list[Part]:
    x = np.linspace(-0.85, 0.85, 90)
    y = 0.38 * np.sin(2 * np.pi * (x + 0.85) * 9 / 1.7)
    return [
        stroke(np.stack([x, y], 1), mildly(r, 0.09)),
        stroke(line((-1, 0), (-0.85, 0)), 0.09),
        stroke(line((0.85, 0), (1, 0)), 0.09),
    ]


def threaded_rod(r: R) -> list[Part]:
    threads = [
        stroke(line((x - 0.05, -0.24), (x + 0.05, 0.24)), 0.05, 0.6) for x in np.arange(-0.9, 0.95, 0.16)
    ]
    return [
        fill(rectangle(0, 0, 1, mildly(r, 0.24))),
        stroke(line((-1, -0.1), (1, -0.1)), 0.06, 1.2),
        *threads,
    ]


def drill_bit(r: R) -> list[Part]:
    twist = [stroke(line((x, -0.16), (x + 0.22, 0.16)), 0.09, 0.6) for x in np.arange(-0.3, 0.7, 0.24)]
    return [
        fill(rectangle(-0.7, 0, 0.3, 0.17), 0.85),
        fill(rectangle(0.2, 0, 0.62, mildly(r, 0.16))),
        *twist,
        fill(line((0.8, -0.16), (1, 0), (0.8, 0.16))),
    ]


def ladder(r: R) -> list[Part]:
    rungs = [stroke(line((-0.4, y), (0.4, y)), 0.09, 0.85) for y in np.linspace(-0.8, 0.8, 6)]
    return [
        *rungs,
        stroke(line((-0.42, -1), (-0.42, 1)), mildly(r, 0.14)),
        stroke(line((0.42, -1), (0.42, 1)), 0.14),
    ]


def microchip(r: R) -> list[Part]:
    legs = [stroke(line((x, -0.85), (x, 0.85)), 0.1, STEEL) for x in np.linspace(-0.7, 0.7, 6)]
    print_marks = [stroke(line((-0.5, y), (0.4, y)), 0.05, LIGHT) for y in (-0.1, 0.12)]
    return [
        *legs,
        fill(rectangle(0, 0, 0.9, mildly(r, 0.52))),
        fill(ellipse(-0.7, 0.3, 0.08), 1.6),
        *print_marks,
    ]


def resistor(r: R) -> list[Part]:
    bands = [
        fill(rectangle(x, 0, 0.06, 0.29), c)
        for x, c in (
            (-0.3, (0.7, 0.2, 0.1)),
            (-0.08, (0.15, 0.1, 0.1)),
            (0.14, (0.85, 0.6, 0.1)),
            (0.36, (0.8, 0.7, 0.4)),
        )
    ]
    return [
        stroke(line((-1, 0), (1, 0)), 0.08, STEEL),
        fill(rounded(0, 0, mildly(r, 0.58), 0.29, 0.2)),
        *bands,
    ]


def battery(r: R) -> list[Part]:
    return [
        fill(rectangle(-0.06, 0, 0.84, mildly(r, 0.36))),
        fill(rectangle(0.5, 0, 0.28, 0.36), (0.8, 0.62, 0.3)),
        fill(rectangle(0.86, 0, 0.1, 0.14), STEEL),
        stroke(line((-0.6, -0.12), (-0.6, 0.12)), 0.07, LIGHT),
    ]


def padlock(r: R) -> list[Part]:
    return [
        stroke(arc(0, -0.2, 0.48, 180, 360), 0.18, STEEL),
        fill(rounded(0, 0.4, 0.75, mildly(r, 0.55), 0.12)),
        fill(ellipse(0, 0.3, 0.14), DARK),
        fill(rectangle(0, 0.5, 0.06, 0.2), DARK),
    ]


def scissors(r: R) -> list[Part]:
    return [
        stroke(line((-0.35, 0.45), (0.35, -1)), 0.14, STEEL),
        stroke(line((0.35, 0.45), (-0.35, -1)), 0.14, 0.75),
        stroke(ellipse(-0.45, 0.7, 0.26), mildly(r, 0.13)),
        stroke(ellipse(0.45, 0.7, 0.26), 0.13),
    ]


def paperclip(r: R) -> list[Part]:
    outer = np.concatenate(
        [
            line((0.45, -0.6)),
            arc(0, 0.55, 0.45, 0, 180),
            arc(-0.05, -0.6, 0.4, 180, 360),
            line((0.35, 0.4)),
            arc(0.07, 0.4, 0.28, 0, 180),
            line((-0.2, -0.4)),
        ]
    )
    return [stroke(outer, mildly(r, 0.1))]


def horseshoe(r: R) -> list[Part]:
    holes = [
        cut(ellipse(0.72 * np.cos(a), 0.72 * np.sin(a), 0.06))
        for a in np.deg2rad([150, 190, 230, 310, 350, 390])
    ]
    return [stroke(arc(0, 0, 0.72, 120, 420, 40), mildly(r, 0.3)), *holes]


def chain(r: R) -> list[Part]:
    return [
        p
        for i, x in enumerate(np.linspace(-0.75, 0.75, 4))
        for p in [stroke(ellipse(x, 0, 0.3, 0.3 if i % 2 else 0.16), mildly(r, 0.1), 1.0 if i % 2 else 0.8)]
    ]


def broom(r: R) -> list[Part]:
    bristles = [
        stroke(line((x * 0.55, 0.2), (x, 1)), 0.07, (0.8, 0.68, 0.35)) for x in np.linspace(-0.6, 0.6, 11)
    ]
    return [
        stroke(line((0, -1), (0, 0.1)), 0.12),
        *bristles,
        fill(rounded(0, 0.12, mildly(r, 0.42), 0.13, 0.05), 0.8),
    ]


def saw_blade(r: R) -> list[Part]:
    return [
        fill(star(22, 1, 0.85)),
        stroke(ellipse(0, 0, 0.6), 0.03, 0.8),
        cut(ellipse(0, 0, mildly(r, 0.2))),
    ]


def window_frame(r: R) -> list[Part]:
    panes = [fill(rectangle(x, y, 0.33, 0.4), (0.72, 0.83, 0.9)) for x in (-0.4, 0.4) for y in (-0.46, 0.46)]
    return [fill(rectangle(0, 0, mildly(r, 0.85, 0.03), 0.98)), *panes]


def ruler(r: R) -> list[Part]:
    ticks = [
        stroke(line((x, -0.22), (x, -0.02 if i % 4 else 0.08)), 0.035, DARK)
        for i, x in enumerate(np.linspace(-0.92, 0.92, 21))
    ]
    return [fill(rectangle(0, 0, 1, mildly(r, 0.24))), *ticks]


# watched during training, to choose the checkpoint; never trained on


def rake(r: R) -> list[Part]:
    tines = [stroke(line((x, -0.5), (x, -0.95)), 0.08) for x in np.linspace(-0.7, 0.7, 8)]
    return [
        stroke(line((0, -0.5), (0, 1)), mildly(r, 0.12), WOODEN),
        stroke(line((-0.75, -0.5), (0.75, -0.5)), 0.12),
        *tines,
    ]


def bulb(r: R) -> list[Part]:
    rings = [stroke(line((-0.22, y), (0.22, y)), 0.04, DARK) for y in (0.62, 0.74, 0.86)]
    return [
        fill(ellipse(0, -0.25, mildly(r, 0.66))),
        fill(line((-0.4, 0.2), (0.4, 0.2), (0.25, 0.55), (-0.25, 0.55))),
        fill(rectangle(0, 0.75, 0.25, 0.22), STEEL),
        *rings,
    ]


def plug(r: R) -> list[Part]:
    return [
        fill(rectangle(-0.25, -0.75, 0.08, 0.25), STEEL),
        fill(rectangle(0.25, -0.75, 0.08, 0.25), STEEL),
        fill(rounded(0, 0, 0.55, mildly(r, 0.55), 0.15)),
        fill(line((-0.3, 0.5), (0.3, 0.5), (0.12, 0.8), (-0.12, 0.8))),
        stroke(line((0, 0.8), (0, 1)), 0.14, 0.7),
    ]


def hinge(r: R) -> list[Part]:
    holes = [cut(ellipse(x, y, 0.09)) for x in (-0.6, 0.6) for y in (-0.5, 0, 0.5)]
    return [
        fill(rectangle(-0.5, 0, 0.45, 0.8)),
        fill(rectangle(0.5, 0, 0.45, mildly(r, 0.8, 0.02)), 0.92),
        stroke(line((0, -0.85), (0, 0.85)), 0.16, 0.75),
        *holes,
    ]
