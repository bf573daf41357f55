"""Prompts: RWDA's pair and random words, WinCLIP's ensemble; normal sentences first, anomalous second."""

import json
import string
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Literal, get_args

import numpy as np

ALPHABETS = {
    "letters_digits36": string.ascii_lowercase + string.digits,
    "letters_digits62": string.ascii_letters + string.digits,
}
"""RWDA's "letters from the English alphabet and digits" (Sec. 3.2), by the name that a profile gives."""

WORD_LENGTHS = (5, 10)  # of the shortest and of the longest random word (RWDA, Sec. 3.2)

NORMAL_WORDS = ("an", "a normal", "a good", "a flawless")
ANOMALY_WORDS = ("a damaged", "a broken", "a defective", "an anomalous")
WORD_PAIRS = tuple((normal, anomaly) for normal in NORMAL_WORDS for anomaly in ANOMALY_WORDS)
"""RWDA's 16 word pairs, row by row of Table 4, spelt as printed; "an" is the article of the default pair."""

_LISTS = json.loads((resources.files("zsad_core") / "winclip_prompts.json").read_text(encoding="utf-8"))
WINCLIP_STATES = _LISTS["state_normal"], _LISTS["state_anomaly"]
WINCLIP_TEMPLATES = _LISTS["templates"]
"""WinCLIP's 7 normal and 4 anomalous states, with "{}" for the object, and 22 templates, with "{}" for the
state (supplement, Figure 6)."""

PromptKind = Literal["two_class", "imagenet", "state_ens", "prompt_ens", "specific_states"]


def object_name(category: str) -> str:
    """How a category is called in a prompt: underscores become spaces, and "pcb1" stays "pcb1"."""
    return category.replace("_", " ").strip()


def prompt_pair(
    object_name: str = "object", normal: str = "a", anomaly: str = "a damaged", *, literal: bool = False
) -> tuple[str, str]:
    """RWDA's two guiding sentences, "a photo of [n] object" and "a photo of [a] object" (Sec. 3.1).

    normal, anomaly: the words [n] and [a] with their article. The bare article of [n] becomes "an" before a
        vowel and "a" elsewhere: Sec. 4.2 prints "a" and Table 4 "an" for the same results, which only this
        rule reconciles. literal: True leaves it.

    >>> prompt_pair("metal nut", "an", "a broken")
    ('a photo of a metal nut', 'a photo of a broken metal nut')
    """
    _check_words(object_name=object_name, normal=normal, anomaly=anomaly)
    if normal in ("a", "an") and not literal:
        normal = "an" if object_name[0].lower() in "aeiou" else "a"
    return f"a photo of {normal} {object_name}", f"a photo of {anomaly} {object_name}"


def compositional_ensemble(
    object_name: str,
    states: tuple[Sequence[str], Sequence[str]] | None = None,
    templates: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """WinCLIP's sentences: every state of the object in every template (WinCLIP, Sec. 4.1 and supplement).

    states: (normal, anomalous) phrases with "{}" for the object; None: WinCLIP's 7 and 4.
    templates: sentences with "{}" for the state; None: WinCLIP's 22.

    >>> normal, anomalous = compositional_ensemble("metal nut")
    >>> len(normal), len(anomalous), anomalous[0]
    (154, 88, 'a cropped photo of the damaged metal nut.')
    """
    _check_words(object_name=object_name)
    states = WINCLIP_STATES if states is None else states
    templates = WINCLIP_TEMPLATES if templates is None else templates
    lists = (*states, templates)
    if len(lists) != 3 or not all(lists) or any(text.count("{}") != 1 for texts in lists for text in texts):
        raise ValueError(f"{lists}: expected normal states, anomalous states, templates, one '{{}}' in each")
    normal, anomalous = ([state.format(object_name) for state in side] for side in states)
    return tuple([text.format(own) for own in side for text in templates] for side in (normal, anomalous))


def zero_shot_prompts(
    object_name: str, kind: PromptKind = "prompt_ens", defects: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """The prompt sets that WinCLIP compares (Sec. 4.1, 5.1 and Table 3), from plain to its own.

    kind: "two_class": "normal [o]" and "anomalous [o]" (CLIP-AC). "imagenet": the same two in the 80
        templates that CLIP's authors wrote for ImageNet. "state_ens": the 7 and 4 states without templates.
        "prompt_ens": all states in all templates. "specific_states": these and, on the anomalous side,
        "[o] with <defect>" for each of `defects`; the paper prints two examples of such states and no list.

    >>> [len(side) for side in zero_shot_prompts("bottle", "specific_states", ["broken_large"])]
    [154, 110]
    """
    if kind not in get_args(PromptKind):
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(get_args(PromptKind))}")
    states, templates = WINCLIP_STATES, WINCLIP_TEMPLATES
    if kind in ("two_class", "imagenet"):
        states = ["normal {}"], ["anomalous {}"]
    if kind in ("two_class", "state_ens"):
        templates = ["{}"]
    if kind == "imagenet":
        templates = _LISTS["imagenet_templates"]
    if kind == "specific_states":
        specific = [f"{{}} with {defect.replace('_', ' ').strip()}" for defect in defects]
        states = states[0], [*states[1], *specific]
    return compositional_ensemble(object_name, states, templates)


def random_word_prompts(
    n_pairs: int,
    *,
    normal: str = "a",
    anomaly: str = "a damaged",
    seed: int = 0,
    alphabet: str = ALPHABETS["letters_digits36"],
    words: bool = True,
    literal: bool = False,
) -> tuple[list[str], list[str]]:
    """RWDA's training sentences, n_pairs normal and n_pairs anomalous ones (Sec. 3.2):
    "[w0] a [w1] photo [w2] of [w3] [n] [w4]" and "[w5] a [w6] photo [w7] of [w8] [a] [w9]".

    The ten words of a pair are drawn anew, with a uniform length (`WORD_LENGTHS`) and uniform symbols. For
    one seed they do not depend on [n] and [a], and the first k of n_pairs are those of n_pairs=k.

    alphabet: the symbols. CLIP's tokenizer lower-cases, so upper case only makes digits rarer.
    normal: the article "an" becomes "a", because Sec. 4.2 prints "a"; literal: True leaves it.
    words: False leaves the random words out: n_pairs times the same two sentences.

    >>> random_word_prompts(1, seed=1)[1]
    ['d4zyomgf a l0sglcvo photo c24fqp of gyvjf88 a damaged 1nuy4']
    """
    _check_words(normal=normal, anomaly=anomaly)
    if n_pairs < 1 or not alphabet or any(symbol.isspace() for symbol in alphabet):
        raise ValueError(f"n_pairs={n_pairs}, alphabet={alphabet!r}: expected 1 or more, no blanks")
    normal = "a" if normal == "an" and not literal else normal
    if not words:
        return [f"a photo of {normal}"] * n_pairs, [f"a photo of {anomaly}"] * n_pairs
    drawn = _random_words(n_pairs, seed, alphabet)  # (n_pairs, 10)
    return (
        [f"{w[0]} a {w[1]} photo {w[2]} of {w[3]} {normal} {w[4]}" for w in drawn],
        [f"{w[5]} a {w[6]} photo {w[7]} of {w[8]} {anomaly} {w[9]}" for w in drawn],
    )


@lru_cache(maxsize=1)  # the sentences of several word pairs have the same random words
def _random_words(n_pairs: int, seed: int, alphabet: str) -> list[list[str]]:
    """(n_pairs, 10) words. Lengths and symbols have streams of their own, filled row by row: nested sets."""
    shape, longest = (n_pairs, 10), WORD_LENGTHS[1]
    lengths_stream, symbols_stream = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    lengths = lengths_stream.integers(*WORD_LENGTHS, size=shape, endpoint=True)
    symbols = symbols_stream.integers(len(alphabet), size=(*shape, longest))
    words = np.array(list(alphabet))[symbols].view(f"U{longest}")[..., 0]  # (n_pairs, 10), of the longest
    rows = zip(words.tolist(), lengths.tolist(), strict=True)
    return [[word[:length] for word, length in zip(*row, strict=True)] for row in rows]


def _check_words(**words: str) -> None:
    for name, word in words.items():
        if not isinstance(word, str) or not word.strip() or word != word.strip():
            raise ValueError(f"{name}={word!r}: expected text without blanks at its ends")
