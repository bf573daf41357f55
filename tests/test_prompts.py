from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad_core.prompts import (
    ALPHABETS,
    WINCLIP_STATES,
    WORD_PAIRS,
    compositional_ensemble,
    object_name,
    prompt_pair,
    random_word_prompts,
    zero_shot_prompts,
)


def words_of(normal: str, anomalous: str) -> list[str]:
    """The ten random words of a pair with [n] = "a" and [a] = "a damaged"; fails if a sentence is not its
    template."""
    word = r"(\S+)"
    n = re.fullmatch(f"{word} a {word} photo {word} of {word} a {word}", normal)
    a = re.fullmatch(f"{word} a {word} photo {word} of {word} a damaged {word}", anomalous)
    assert n and a, (normal, anomalous)
    return [*n.groups(), *a.groups()]


@settings(max_examples=40, deadline=None)
@given(
    n_pairs=st.integers(1, 30),
    seed=st.integers(0, 2**31),
    alphabet=st.sampled_from([*ALPHABETS.values(), "z"]),
)
def test_random_words_keep_to_lengths_and_alphabet(n_pairs: int, seed: int, alphabet: str) -> None:
    normal, anomalous = random_word_prompts(n_pairs, seed=seed, alphabet=alphabet)
    assert len(normal) == len(anomalous) == n_pairs
    for pair in zip(normal, anomalous, strict=True):
        for word in words_of(*pair):
            assert 5 <= len(word) <= 10
            assert set(word) <= set(alphabet)


def test_random_words_use_every_length_and_symbol_evenly() -> None:
    words = [word for pair in zip(*random_word_prompts(2000), strict=True) for word in words_of(*pair)]
    lengths = [len(word) for word in words]
    assert {n: lengths.count(n) / len(words) for n in range(5, 11)} == pytest.approx(
        dict.fromkeys(range(5, 11), 1 / 6), abs=0.02
    )
    symbols = "".join(words)
    share = {symbol: symbols.count(symbol) / len(symbols) for symbol in ALPHABETS["letters_digits36"]}
    assert share == pytest.approx(dict.fromkeys(share, 1 / 36), abs=0.003)
    assert len(set(words)) > 0.999 * len(words)  # drawn anew: sharing within a pair would halve this


def test_same_seed_same_words_for_every_word_pair_and_nested_sets() -> None:
    normal, anomalous = random_word_prompts(50, seed=3)
    swapped_normal, swapped_anomalous = random_word_prompts(
        50, normal="a good", anomaly="an anomalous", seed=3
    )
    assert [s.replace(" a good ", " a ") for s in swapped_normal] == normal
    assert [s.replace(" an anomalous ", " a damaged ") for s in swapped_anomalous] == anomalous
    fewer = random_word_prompts(20, seed=3)
    assert fewer == (normal[:20], anomalous[:20])
    assert random_word_prompts(50, seed=4)[0] != normal


def test_templates_without_random_words() -> None:
    assert random_word_prompts(3, anomaly="a broken", words=False) == (
        ["a photo of a"] * 3,
        ["a photo of a broken"] * 3,
    )


def test_article_rule_of_table_4() -> None:
    assert (
        prompt_pair(normal="an")
        == prompt_pair(normal="a")
        == ("a photo of an object", "a photo of a damaged object")
    )
    assert prompt_pair("Oil filter")[0] == "a photo of an Oil filter"
    assert prompt_pair("01")[0] == "a photo of a 01"
    assert prompt_pair("bottle", "an", "an anomalous") == (
        "a photo of a bottle",
        "a photo of an anomalous bottle",
    )
    assert prompt_pair("object", "a good")[0] == "a photo of a good object"
    assert random_word_prompts(1, normal="an") == random_word_prompts(1, normal="a")


def test_word_pairs_are_those_of_the_published_table() -> None:
    pd = pytest.importorskip("pandas")
    from importlib import resources

    file = resources.files("zsad_papers") / "rwda" / "published.csv"
    table = pd.read_csv(str(file)).query("artifact == 'T4' and method == 'clip'")
    assert [f"normal={n};anomaly={a}" for n, a in WORD_PAIRS] == table["variant"].tolist()


def test_compositional_ensemble_counts_and_wording() -> None:
    normal, anomalous = compositional_ensemble("cable")
    assert (len(set(normal)), len(set(anomalous))) == (154, 88)
    assert all(s.endswith(".") and "cable" in s for s in normal + anomalous)
    assert "a photo of a cable for visual inspection." in normal
    assert "a blurry photo of the cable with flaw." in anomalous
    assert compositional_ensemble("pcb1", states=(["{}"], ["burnt {}"]), templates=["a {}"]) == (
        ["a pcb1"],
        ["a burnt pcb1"],
    )


def test_winclips_states_and_templates_are_all_of_the_papers() -> None:
    """Public code lacks two of the 22 templates, or the full stops; "broken" came with a later method."""
    lacks = [f"{{}} without {word}" for word in ("flaw", "defect", "damage")]
    assert WINCLIP_STATES[0] == ["{}", "flawless {}", "perfect {}", "unblemished {}", *lacks]
    assert WINCLIP_STATES[1] == ["damaged {}", *(state.replace("without", "with") for state in lacks)]
    sentences = compositional_ensemble("bottle")[1]
    kinds = ("cropped ", "close-up ", "bright ", "dark ", "jpeg corrupted ", "blurry ", "")
    openings = {(f"a {kind}photo of", "") for kind in kinds} | {
        ("a photo of", s) for s in ("small ", "large ")
    }
    expected = {f"{o} {article} {s}damaged bottle." for o, s in openings for article in ("a", "the")}
    for purpose in ("visual inspection", "anomaly detection"):
        expected |= {f"a photo of {article} damaged bottle for {purpose}." for article in ("a", "the")}
    assert expected == {sentence for sentence in sentences if "damaged" in sentence} and len(expected) == 22


def test_prompt_sets_that_winclip_compares() -> None:
    assert zero_shot_prompts("metal nut", "two_class") == (["normal metal nut"], ["anomalous metal nut"])
    normal, anomalous = zero_shot_prompts("metal nut", "imagenet")
    assert (len(set(normal)), len(set(anomalous))) == (80, 80)
    assert "a bad photo of a normal metal nut." in normal
    assert anomalous == [sentence.replace("normal", "anomalous") for sentence in normal]
    assert zero_shot_prompts("metal nut", "state_ens") == tuple(
        [state.format("metal nut") for state in side] for side in WINCLIP_STATES
    )
    assert zero_shot_prompts("metal nut") == compositional_ensemble("metal nut")


def test_states_of_known_defects_come_on_top() -> None:
    normal, anomalous = zero_shot_prompts("metal nut", "specific_states", ["color", "bent_lead"])
    usual = compositional_ensemble("metal nut")
    assert normal == usual[0] and anomalous[:88] == usual[1]
    assert len(set(anomalous)) == 88 + 2 * 22
    assert "a photo of a metal nut with bent lead for visual inspection." in anomalous[88:]
    assert zero_shot_prompts("metal nut", "specific_states") == usual


def test_object_names() -> None:
    assert object_name("pipe_fryum") == "pipe fryum"
    assert object_name("pcb1") == "pcb1"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_word_prompts(0), "n_pairs=0"),
        (lambda: random_word_prompts(1, alphabet="a b"), "no blanks"),
        (lambda: prompt_pair(""), "object_name=''"),
        (
            lambda: compositional_ensemble("x", states=(["{}"], [])),
            "expected normal states, anomalous states, templates",
        ),
        (lambda: compositional_ensemble("x", templates=["a photo"]), "one '{}' in each"),
        (lambda: zero_shot_prompts("x", "states"), "kind='states': expected one of two_class, imagenet"),
        (lambda: zero_shot_prompts(" x"), "object_name=' x'"),
    ],
)
def test_bad_arguments_say_what_was_expected(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
