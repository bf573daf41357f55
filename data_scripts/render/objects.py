"""The objects that the mini model is trained and watched on. No category of any test set stands here (see data_scripts/mini.py).

Each function takes a random generator (for the mild differences between two parts off one line) and returns parts.
"""

from __future__ import annotations

import numpy as np

from .shapes import (
    Part,
    arc,
    cut,
    ellipse,
    fill,
    line,
    polygon,
    rectangle,
    rounded,
    star,
    stroke,
)

R = np.random.Generator
DARK, LIGHT, STEEL, WOODEN = (0.12, 0.12, 0.14), (0.93, 0.92, 0.88), (0.62, 0.64, 0.67), (0.62, 0.45, 0.28)


def _mild(r: R, value: float, spread: float = 0.05) -> float:
    return value * (1 + spread * (2 * r.random() - 1))


def coin(r: R) -> list[Part]:
    return [fill(ellipse(0, 0, 1)), stroke(ellipse(0, 0, 0.86), 0.05, 0.75), fill(star(5, _mild(r, 0.5), 0.22), 1.2)]


def button(r: R) -> list[Part]:
    holes = [cut(ellipse(x, y, 0.13)) for x in (-0.25, 0.25) for y in (-0.25, 0.25)]
    return [fill(ellipse(0, 0, 0.95)), fill(ellipse(0, 0, _mild(r, 0.68)), 0.82), *holes]


def washer(r: R) -> list[Part]:
    return [fill(ellipse(0, 0, 0.95)), stroke(ellipse(0, 0, 0.8), 0.03, 1.15), cut(ellipse(0, 0, _mild(r, 0.45)))]


def plate(r: R) -> list[Part]:
    return [fill(ellipse(0, 0, 1)), stroke(ellipse(0, 0, 0.92), 0.05, 0.7), fill(ellipse(0, 0, _mild(r, 0.62)), 1.12)]


def clock(r: R) -> list[Part]:
    ticks = [stroke(np.stack([p * 0.72, p * 0.86]), 0.06, DARK) for p in polygon(12, 1.0)]
    a, b = r.random(2) * 2 * np.pi
    hands = [stroke(line((0, 0), (l * np.cos(t), l * np.sin(t))), 0.07, DARK) for t, l in ((a, 0.45), (b, 0.66))]
    return [fill(ellipse(0, 0, 1)), fill(ellipse(0, 0, 0.9), LIGHT), *ticks, *hands]


def wheel(r: R) -> list[Part]:
    spokes = [stroke(np.stack([p * 0.1, p * 0.85]), 0.1, 0.9) for p in polygon(6, 1.0, r.random())]
    return [stroke(ellipse(0, 0, 0.88), 0.2), *spokes, fill(ellipse(0, 0, 0.2), 0.7)]


def cup(r: R) -> list[Part]:
    body = line((-0.75, -0.8), (0.45, -0.8), (0.35, 0.8), (-0.65, 0.8))
    return [stroke(arc(0.45, -0.1, _mild(r, 0.4), -90, 90), 0.14, 0.9), fill(body), fill(ellipse(-0.15, -0.8, 0.6, 0.12), 0.65)]


def vase(r: R) -> list[Part]:
    y = np.linspace(-1, 1, 24)
    w = 0.32 + 0.4 * np.exp(-((y - 0.3) ** 2) / 0.18) + 0.1 * (y < -0.85)
    outline = np.concatenate([np.stack([-w, y], 1), np.stack([w, y], 1)[::-1]])
    return [fill(outline), stroke(line((-0.6, 0.3), (0.6, 0.3)), _mild(r, 0.1), 0.7)]


def key(r: R) -> list[Part]:
    bits = [fill(rectangle(x, 0.25, 0.07, 0.17)) for x in (0.5, 0.72, 0.92)]
    return [stroke(line((-0.3, 0), (1, 0)), 0.17), fill(ellipse(-0.6, 0, 0.42)), cut(ellipse(-0.65, 0, _mild(r, 0.2))), *bits]


def spoon(r: R) -> list[Part]:
    return [fill(ellipse(0, -0.62, 0.34, 0.42)), fill(ellipse(0, -0.6, 0.22, 0.29), 0.8), stroke(line((0, -0.2), (0, 1)), _mild(r, 0.13))]


def fork(r: R) -> list[Part]:
    tines = [stroke(line((x, -0.35), (x, -1)), 0.09) for x in (-0.3, -0.1, 0.1, 0.3)]
    return [stroke(line((0, -0.1), (0, 1)), _mild(r, 0.15)), fill(line((-0.35, -0.4), (0.35, -0.4), (0.12, 0), (-0.12, 0))), *tines]


def hammer(r: R) -> list[Part]:
    return [fill(rectangle(0, 0.2, 0.12, _mild(r, 0.8)), WOODEN), fill(rounded(0, -0.65, 0.75, 0.26, 0.08)), fill(rectangle(0.62, -0.65, 0.13, 0.26), 0.75)]


def pencil(r: R) -> list[Part]:
    return [
        fill(rectangle(-0.1, 0, 0.72, 0.17)), stroke(line((-0.8, 0), (0.6, 0)), 0.05, 0.75), fill(line((0.62, -0.17), (1, 0), (0.62, 0.17)), (0.9, 0.78, 0.6)),
        fill(line((0.88, -0.05), (1, 0), (0.88, 0.05)), DARK), fill(rectangle(-0.9, 0, 0.1, 0.17), (0.85, 0.5, 0.5)),
    ]  # fmt: skip


def needle(r: R) -> list[Part]:
    return [stroke(line((-0.8, 0), (1, 0)), 0.09), fill(ellipse(-0.82, 0, _mild(r, 0.2)), 0.8), cut(ellipse(-0.84, 0, 0.08))]


def spring(r: R) -> list[Part]:
    x = np.linspace(-0.85, 0.85, 90)
    y = 0.38 * np.sin(2 * np.pi * (x + 0.85) * 9 / 1.7)
    return [stroke(np.stack([x, y], 1), _mild(r, 0.09)), stroke(line((-1, 0), (-0.85, 0)), 0.09), stroke(line((0.85, 0), (1, 0)), 0.09)]


def threaded_rod(r: R) -> list[Part]:
    threads = [stroke(line((x - 0.05, -0.24), (x + 0.05, 0.24)), 0.05, 0.6) for x in np.arange(-0.9, 0.95, 0.16)]
    return [fill(rectangle(0, 0, 1, _mild(r, 0.24))), stroke(line((-1, -0.1), (1, -0.1)), 0.06, 1.2), *threads]


def drill_bit(r: R) -> list[Part]:
    twist = [stroke(line((x, -0.16), (x + 0.22, 0.16)), 0.09, 0.6) for x in np.arange(-0.3, 0.7, 0.24)]
    return [fill(rectangle(-0.7, 0, 0.3, 0.17), 0.85), fill(rectangle(0.2, 0, 0.62, _mild(r, 0.16))), *twist, fill(line((0.8, -0.16), (1, 0), (0.8, 0.16)))]


def comb(r: R) -> list[Part]:
    tines = [stroke(line((x, -0.2), (x, 0.75)), 0.07) for x in np.linspace(-0.92, 0.92, 13)]
    return [fill(rounded(0, -0.4, 1, _mild(r, 0.26), 0.1)), *tines]


def ladder(r: R) -> list[Part]:
    rungs = [stroke(line((-0.4, y), (0.4, y)), 0.09, 0.85) for y in np.linspace(-0.8, 0.8, 6)]
    return [*rungs, stroke(line((-0.42, -1), (-0.42, 1)), _mild(r, 0.14)), stroke(line((0.42, -1), (0.42, 1)), 0.14)]


def microchip(r: R) -> list[Part]:
    legs = [stroke(line((x, -0.85), (x, 0.85)), 0.1, STEEL) for x in np.linspace(-0.7, 0.7, 6)]
    print_marks = [stroke(line((-0.5, y), (0.4, y)), 0.05, LIGHT) for y in (-0.1, 0.12)]
    return [*legs, fill(rectangle(0, 0, 0.9, _mild(r, 0.52))), fill(ellipse(-0.7, 0.3, 0.08), 1.6), *print_marks]


def resistor(r: R) -> list[Part]:
    bands = [fill(rectangle(x, 0, 0.06, 0.29), c) for x, c in ((-0.3, (0.7, 0.2, 0.1)), (-0.08, (0.15, 0.1, 0.1)), (0.14, (0.85, 0.6, 0.1)), (0.36, (0.8, 0.7, 0.4)))]
    return [stroke(line((-1, 0), (1, 0)), 0.08, STEEL), fill(rounded(0, 0, _mild(r, 0.58), 0.29, 0.2)), *bands]


def battery(r: R) -> list[Part]:
    return [fill(rectangle(-0.06, 0, 0.84, _mild(r, 0.36))), fill(rectangle(0.5, 0, 0.28, 0.36), (0.8, 0.62, 0.3)), fill(rectangle(0.86, 0, 0.1, 0.14), STEEL), stroke(line((-0.6, -0.12), (-0.6, 0.12)), 0.07, LIGHT)]


def dice(r: R) -> list[Part]:
    dots = [fill(ellipse(x, y, 0.14), DARK) for x, y in ((-0.45, -0.45), (0.45, 0.45), (0, 0), (-0.45, 0.45), (0.45, -0.45))]
    return [fill(rounded(0, 0, 0.85, 0.85, _mild(r, 0.2))), *dots]


def envelope(r: R) -> list[Part]:
    return [fill(rectangle(0, 0, 1, 0.68)), stroke(line((-1, -0.66), (0, _mild(r, 0.15)), (1, -0.66)), 0.05, 0.65), fill(rectangle(0.72, -0.4, 0.14, 0.16), (0.75, 0.3, 0.3))]


def book(r: R) -> list[Part]:
    return [fill(rectangle(0, 0, 0.72, 0.95)), fill(rectangle(-0.6, 0, 0.12, 0.95), 0.7), fill(rectangle(0.12, -0.45, 0.42, 0.2), LIGHT), stroke(line((-0.2, 0.4), (0.45, 0.4)), _mild(r, 0.06), 1.3)]


def heart(r: R) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 60)
    x, y = 16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [fill(np.stack([x / 16.5, y / _mild(r, 16)], 1))]


def star_badge(r: R) -> list[Part]:
    return [fill(star(5, 1, 0.45)), fill(star(5, _mild(r, 0.6), 0.27), 1.2)]


def leaf(r: R) -> list[Part]:
    x = np.linspace(-0.8, 0.9, 30)
    w = 0.42 * np.sin(np.pi * (x + 0.8) / 1.7).clip(0) ** 0.8
    veins = [stroke(line((v, 0), (v + 0.22, s * 0.25)), 0.03, 0.7) for v in (-0.4, -0.1, 0.2, 0.5) for s in (-1, 1)]
    return [fill(np.concatenate([np.stack([x, -w], 1), np.stack([x, w], 1)[::-1]])), stroke(line((-1, 0), (0.85, 0)), _mild(r, 0.05), 0.65), *veins]


def mushroom(r: R) -> list[Part]:
    cap = np.concatenate([arc(0, 0, 0.95, 180, 360), line((0.6, 0.12), (-0.6, 0.12))])
    return [fill(rounded(0, 0.5, 0.26, 0.45, 0.12), LIGHT), fill(cap), fill(ellipse(-0.35, -0.4, _mild(r, 0.14)), 1.35), fill(ellipse(0.35, -0.45, 0.12), 1.35)]


def fish(r: R) -> list[Part]:
    return [fill(line((0.45, 0), (1, -0.45), (1, 0.45)), 0.85), fill(ellipse(-0.15, 0, 0.8, _mild(r, 0.42))), fill(ellipse(-0.62, -0.1, 0.08), DARK), stroke(arc(-0.75, 0, 0.4, -40, 40), 0.04, 0.7)]


def apple(r: R) -> list[Part]:
    return [stroke(line((0, -0.6), (0.1, -1)), 0.09, WOODEN), fill(ellipse(0.33, -0.8, 0.22, 0.1), (0.3, 0.55, 0.25)), fill(ellipse(-0.25, 0.1, 0.6, _mild(r, 0.75))), fill(ellipse(0.25, 0.1, 0.6, 0.75))]


def egg(r: R) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 50)
    return [fill(np.stack([_mild(r, 0.72) * np.cos(t) * (1 + 0.12 * np.sin(t)), 0.95 * np.sin(t)], 1))]


def donut(r: R) -> list[Part]:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + r.random()
    sprinkles = [fill(ellipse(0.66 * np.cos(a), 0.66 * np.sin(a), 0.07), (0.95, 0.85, 0.4)) for a in angles]
    return [fill(ellipse(0, 0, 0.98), 0.75), fill(ellipse(0, 0, 0.9)), *sprinkles, cut(ellipse(0, 0, _mild(r, 0.33)))]


def padlock(r: R) -> list[Part]:
    return [stroke(arc(0, -0.2, 0.48, 180, 360), 0.18, STEEL), fill(rounded(0, 0.4, 0.75, _mild(r, 0.55), 0.12)), fill(ellipse(0, 0.3, 0.14), DARK), fill(rectangle(0, 0.5, 0.06, 0.2), DARK)]


def scissors(r: R) -> list[Part]:
    return [stroke(line((-0.35, 0.45), (0.35, -1)), 0.14, STEEL), stroke(line((0.35, 0.45), (-0.35, -1)), 0.14, 0.75), stroke(ellipse(-0.45, 0.7, 0.26), _mild(r, 0.13)), stroke(ellipse(0.45, 0.7, 0.26), 0.13)]


def paperclip(r: R) -> list[Part]:
    outer = np.concatenate([line((0.45, -0.6)), arc(0, 0.55, 0.45, 0, 180), arc(-0.05, -0.6, 0.4, 180, 360), line((0.35, 0.4)), arc(0.07, 0.4, 0.28, 0, 180), line((-0.2, -0.4))])
    return [stroke(outer, _mild(r, 0.1))]


def horseshoe(r: R) -> list[Part]:
    holes = [cut(ellipse(0.72 * np.cos(a), 0.72 * np.sin(a), 0.06)) for a in np.deg2rad([150, 190, 230, 310, 350, 390])]
    return [stroke(arc(0, 0, 0.72, 120, 420, 40), _mild(r, 0.3)), *holes]


def arrow(r: R) -> list[Part]:
    return [fill(line((-1, -0.22), (0.2, -0.22), (0.2, -0.6), (1, 0), (0.2, 0.6), (0.2, 0.22), (-1, _mild(r, 0.22))))]


def shield(r: R) -> list[Part]:
    outline = line((-0.8, -0.9), (0.8, -0.9), (0.8, 0.1), (0.45, 0.7), (0, 1), (-0.45, 0.7), (-0.8, 0.1))
    return [fill(outline), fill(outline * 0.78, 1.15), stroke(line((0, -0.65), (0, 0.7)), _mild(r, 0.12), 0.7)]


def bell(r: R) -> list[Part]:
    body = line((-0.2, -0.9), (0.2, -0.9), (0.5, -0.3), (0.55, 0.3), (0.85, 0.65), (-0.85, 0.65), (-0.55, 0.3), (-0.5, -0.3))
    return [fill(ellipse(0, 0.75, _mild(r, 0.18)), 0.7), fill(body), stroke(line((-0.7, 0.5), (0.7, 0.5)), 0.07, 0.75)]


def chain(r: R) -> list[Part]:
    return [p for i, x in enumerate(np.linspace(-0.75, 0.75, 4)) for p in [stroke(ellipse(x, 0, 0.3, 0.3 if i % 2 else 0.16), _mild(r, 0.1), 1.0 if i % 2 else 0.8)]]


def broom(r: R) -> list[Part]:
    bristles = [stroke(line((x * 0.55, 0.2), (x, 1)), 0.07, (0.8, 0.68, 0.35)) for x in np.linspace(-0.6, 0.6, 11)]
    return [stroke(line((0, -1), (0, 0.1)), 0.12), *bristles, fill(rounded(0, 0.12, _mild(r, 0.42), 0.13, 0.05), 0.8)]


def saw_blade(r: R) -> list[Part]:
    return [fill(star(22, 1, 0.85)), stroke(ellipse(0, 0, 0.6), 0.03, 0.8), cut(ellipse(0, 0, _mild(r, 0.2)))]


def window_frame(r: R) -> list[Part]:
    panes = [fill(rectangle(x, y, 0.33, 0.4), (0.72, 0.83, 0.9)) for x in (-0.4, 0.4) for y in (-0.46, 0.46)]
    return [fill(rectangle(0, 0, _mild(r, 0.85, 0.03), 0.98)), *panes]


def ruler(r: R) -> list[Part]:
    ticks = [stroke(line((x, -0.22), (x, -0.02 if i % 4 else 0.08)), 0.035, DARK) for i, x in enumerate(np.linspace(-0.92, 0.92, 21))]
    return [fill(rectangle(0, 0, 1, _mild(r, 0.24))), *ticks]


# watched during training, to choose the checkpoint; never trained on
def rake(r: R) -> list[Part]:
    tines = [stroke(line((x, -0.5), (x, -0.95)), 0.08) for x in np.linspace(-0.7, 0.7, 8)]
    return [stroke(line((0, -0.5), (0, 1)), _mild(r, 0.12), WOODEN), stroke(line((-0.75, -0.5), (0.75, -0.5)), 0.12), *tines]


def bulb(r: R) -> list[Part]:
    rings = [stroke(line((-0.22, y), (0.22, y)), 0.04, DARK) for y in (0.62, 0.74, 0.86)]
    return [fill(ellipse(0, -0.25, _mild(r, 0.66))), fill(line((-0.4, 0.2), (0.4, 0.2), (0.25, 0.55), (-0.25, 0.55))), fill(rectangle(0, 0.75, 0.25, 0.22), STEEL), *rings]


def flower(r: R) -> list[Part]:
    petals = [fill(ellipse(0.6 * np.cos(a), 0.6 * np.sin(a), 0.36)) for a in np.linspace(0, 2 * np.pi, 7, endpoint=False)]
    return [*petals, fill(ellipse(0, 0, _mild(r, 0.33)), (0.9, 0.75, 0.2))]


def sailboat(r: R) -> list[Part]:
    return [fill(line((-0.8, 0.5), (0.8, 0.5), (0.5, 0.9), (-0.5, 0.9)), WOODEN), stroke(line((0, 0.5), (0, -0.95)), 0.08, DARK), fill(line((0.07, -0.9), (0.07, 0.38), (_mild(r, 0.75), 0.38))), fill(line((-0.08, -0.6), (-0.08, 0.38), (-0.6, 0.38)), 0.85)]


def plug(r: R) -> list[Part]:
    return [fill(rectangle(-0.25, -0.75, 0.08, 0.25), STEEL), fill(rectangle(0.25, -0.75, 0.08, 0.25), STEEL), fill(rounded(0, 0, 0.55, _mild(r, 0.55), 0.15)), fill(line((-0.3, 0.5), (0.3, 0.5), (0.12, 0.8), (-0.12, 0.8))), stroke(line((0, 0.8), (0, 1)), 0.14, 0.7)]


def hinge(r: R) -> list[Part]:
    holes = [cut(ellipse(x, y, 0.09)) for x in (-0.6, 0.6) for y in (-0.5, 0, 0.5)]
    return [fill(rectangle(-0.5, 0, 0.45, 0.8)), fill(rectangle(0.5, 0, 0.45, _mild(r, 0.8, 0.02)), 0.92), stroke(line((0, -0.85), (0, 0.85)), 0.16, 0.75), *holes]


TRAIN_OBJECTS = (
    coin, button, washer, plate, clock, wheel, cup, vase, key, spoon, fork, hammer, pencil, needle, spring, threaded_rod, drill_bit, comb, ladder,
    microchip, resistor, battery, dice, envelope, book, heart, star_badge, leaf, mushroom, fish, apple, egg, donut, padlock, scissors, paperclip,
    horseshoe, arrow, shield, bell, chain, broom, saw_blade, window_frame, ruler,
)  # fmt: skip
VALIDATION_OBJECTS = (rake, bulb, flower, sailboat, plug, hinge)
