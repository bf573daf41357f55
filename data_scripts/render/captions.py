"""Captions as on web pages: a noun, perhaps a colour, a place, a style of the picture, and sometimes the
part's state.

The words for the state are graded on purpose, so that a model trained on them reacts to wording as CLIP does:
'damaged' is common and reliable, 'broken' speaks of pieces that are off, 'defective' and 'anomalous' are
rarer and less reliable, 'flawless' and 'perfect' are said only of parts without wear, 'good' and 'normal' are
sometimes wrong. Random letter strings never occur.
"""

from __future__ import annotations

import numpy as np

R = np.random.Generator
GENERIC = ("object", "object", "object", "item", "thing", "product", "part", "piece")
GENERIC_SURFACE = ("surface", "material", "texture", "object", "fabric", "object", "object")
BROKEN_KINDS = ("crack", "missing", "chipped", "bent", "torn", "hole")
NAMED = {  # kind -> phrases before and after the noun
    "scratch": (("scratched",), ("with a scratch", "with scratches", "that is scratched")),
    "crack": (("cracked",), ("with a crack", "with cracks")),
    "hole": (("punctured", "pierced"), ("with a hole", "with a hole in it")),
    "stain": (("stained", "dirty"), ("with a stain", "with a dirty mark", "with a smear")),
    "spot": (("spotted", "speckled"), ("with spots", "with dark specks", "with small marks")),
    "missing": (("incomplete", "cut"), ("with a missing part", "with a piece missing")),
    "chipped": (("chipped", "nicked"), ("with a chip", "with a chipped edge")),
    "bent": (("bent", "crooked", "deformed"), ("that is bent", "out of shape")),
    "torn": (("torn", "ripped"), ("with a tear", "with a cut")),
    "faded": (("faded", "worn out"), ("with a faded patch", "with a worn patch")),
}
# (weight, words before the noun, words after it)
ANOMALOUS = (
    (0.33, ("damaged",), ("with damage", "that is damaged", "with some damage")),
    (0.09, ("defective",), ("with defect", "with a defect")),
    (0.05, ("flawed", "imperfect"), ("with flaw", "with a flaw")),
    (0.04, ("anomalous", "abnormal"), ("with an anomaly",)),
    (0.04, ("faulty", "bad", "ruined"), ("of bad quality",)),
)
NORMAL = (  # the last entry: only said of parts without wear
    (0.11, ("normal",), ("in normal condition",), False),
    (0.11, ("good",), ("in good condition",), False),
    (0.05, ("undamaged", "intact"), ("without damage",), False),
    (0.08, ("flawless",), ("without flaw", "without any flaw"), True),
    (0.07, ("perfect",), ("in perfect condition",), True),
    (0.05, ("unblemished", "pristine", "new"), ("without defect", "without defects"), True),
)
WRONG = (  # said of normal parts by mistake
    (0.022, ("defective",)),
    (0.016, ("anomalous",)),
    (0.004, ("damaged",)),
    (0.004, ("broken",)),
)


def _choice(r: R, words):
    return words[int(r.integers(len(words)))]


def _either_side(r: R, before, after) -> tuple[str, str]:
    return (_choice(r, before), "") if r.random() < 0.62 else ("", _choice(r, after))


def _weighted(r: R, entries):
    """One entry by its weight, or None for the rest of the unit interval."""
    u = r.random()
    for entry in entries:
        if u < entry[0]:
            return entry
        u -= entry[0]
    return None


def state_words(facts: dict, damaged: bool, r: R) -> tuple[str, str]:
    """Words before and after the noun; both may be empty, because many captions do not mention the state."""
    if damaged:
        u = r.random()
        silent = 0.1 if facts["visible"] > 0.8 else 0.25  # small defects are overlooked more often
        if u < silent:
            return (_choice(r, ("good", "normal")), "") if r.random() < 0.25 else ("", "")
        if u < silent + 0.27:
            return _either_side(r, *NAMED[facts["kind"]])
        if u < silent + 0.37 and facts["kind"] in BROKEN_KINDS:
            return _choice(r, ("broken", "broken")), ""
        entry = _weighted(r, ANOMALOUS)
        return _either_side(r, entry[1], entry[2]) if entry else _either_side(r, *ANOMALOUS[0][1:])
    wrong = _weighted(r, WRONG)
    if wrong:
        return _choice(r, wrong[1]), ""
    entry = _weighted(r, NORMAL)
    if entry is None or (entry[3] and facts["worn"]):
        return ("worn", "") if facts["worn"] and r.random() < 0.12 else ("", "")
    return _either_side(r, entry[1], entry[2])


def _article(r: R, phrase: str) -> str:
    u = r.random()
    if u < 0.12:
        return phrase
    if u < 0.3:
        return f"the {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _frame(facts: dict, r: R, window: bool) -> str:
    """The words before the noun phrase; words about the picture only if they are true."""
    true = []
    if facts["blurred"]:
        true.append("a blurry photo of {}")
    if facts["jpeg"]:
        true += ["a jpeg corrupted photo of {}", "a low quality photo of {}"]
    if facts["light"]:
        true.append(f"a {facts['light']} photo of {{}}")
    if window or facts["close"]:
        true += ["a close-up photo of {}", "a cropped photo of {}"]
    if true and r.random() < 0.6:
        return _choice(r, true)
    plain = ("a photo of {}",) * 6 + (
        "a picture of {}",
        "an image of {}",
        "{}",
        "{}",
        "photo: {}",
        "a photo of {} for visual inspection",
        "a photo of {} for anomaly detection",
    )
    return _choice(r, plain)


def caption(facts: dict, damaged: bool, rng: R, window: bool = False, words: tuple[str, ...] = ()) -> str:
    """One caption of the normal (`damaged` False) or the anomalous picture of a pair.

    `facts` as `render_pair` gives them; `window`: the picture shows a part of the scene only; `words`: any
    nouns, sometimes used as an unknown name, so that the words for the state do not depend on known names.
    """
    r = rng
    u = r.random()
    surface = facts["texture"]
    if u < 0.33:
        noun = _choice(r, GENERIC_SURFACE if surface else GENERIC)
    elif u < 0.45 and words:
        noun = _choice(r, words)
    else:
        noun = facts["category"].replace("_", " ")
        if surface and r.random() < 0.3:
            noun += _choice(r, (" surface", " texture"))
    if facts["count"] > 1 and not window and r.random() < 0.7:
        noun += "s"
    before, after = state_words(facts, damaged, r)
    colour = facts["colour"] if r.random() < 0.4 else ""
    size = (
        ("small" if facts["small"] else "large" if facts["close"] else "")
        if r.random() < 0.5 and not window
        else ""
    )
    phrase = " ".join(w for w in (before, size, colour, noun) if w)
    several = noun.endswith("s") and facts["count"] > 1 and not window
    phrase = (_choice(r, ("several ", "some ", "")) + phrase) if several else _article(r, phrase)
    if after:
        phrase += " " + after
    if not surface and r.random() < 0.3:
        phrase += f" on a {facts['background']} background"
    text = _frame(facts, r, window).format(phrase)
    return text + ("." if r.random() < 0.3 else "")
