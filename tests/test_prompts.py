import collections
import re

import numpy as np
import pytest
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st

from zsad_core import prompts
from zsad_core.prompts import compositional_ensemble, prompt_pair, random_word_prompts, zero_shot_prompts


def words_of(normal, anomalous):
    """The ten random words of a pair with [n] = "a" and [a] = "a damaged", sentences of the template."""
    word = r"(\S+)"
    n = re.fullmatch(f"{word} a {word} photo {word} of {word} a {word}", normal)
    a = re.fullmatch(f"{word} a {word} photo {word} of {word} a damaged {word}", anomalous)
    assert n and a, (normal, anomalous)
    return [*n.groups(), *a.groups()]


@given(st.integers(1, 30), st.integers(0, 2**31), st.sampled_from([*prompts.ALPHABETS.values(), "z"]))
def test_random_words_keep_to_lengths_and_alphabet(n_pairs, seed, alphabet):
    normal, anomalous = random_word_prompts(n_pairs, seed=seed, alphabet=alphabet)
    assert len(normal) == len(anomalous) == n_pairs
    for pair in zip(normal, anomalous, strict=True):
        for word in words_of(*pair):
            assert 5 <= len(word) <= 10
            assert set(word) <= set(alphabet)


def test_random_words_use_every_length_and_symbol_evenly():
    words = [word for pair in zip(*random_word_prompts(2000), strict=True) for word in words_of(*pair)]
    lengths = np.bincount([len(word) for word in words])
    np.testing.assert_allclose(lengths[5:] / len(words), 6 * [1 / 6], atol=0.02)
    symbols = collections.Counter("".join(words))
    share = {symbol: n / symbols.total() for symbol, n in symbols.items()}
    assert share == pytest.approx(dict.fromkeys(prompts.ALPHABETS["letters_digits36"], 1 / 36), abs=0.003)
    assert len(set(words)) > 0.999 * len(words)  # drawn anew: sharing within a pair would halve this


def test_same_seed_same_words_for_every_word_pair_and_nested_sets():
    normal, anomalous = random_word_prompts(50, seed=3)
    swapped = random_word_prompts(50, normal="a good", anomaly="an anomalous", seed=3)
    assert [s.replace(" a good ", " a ") for s in swapped[0]] == normal
    assert [s.replace(" an anomalous ", " a damaged ") for s in swapped[1]] == anomalous
    fewer = random_word_prompts(20, seed=3)
    assert fewer == (normal[:20], anomalous[:20])
    assert random_word_prompts(50, seed=4)[0] != normal
    plain = ["a photo of a"] * 3, ["a photo of a broken"] * 3
    assert random_word_prompts(3, anomaly="a broken", words=False) == plain


def test_article_rule_of_table_4():
    usual = ("a photo of an object", "a photo of a damaged object")
    assert prompt_pair(normal="an") == prompt_pair(normal="a") == usual
    assert prompt_pair(normal="a", literal=True)[0] == "a photo of a object"
    assert random_word_prompts(1, normal="an", words=False, literal=True)[0] == ["a photo of an"]
    assert prompt_pair("Oil filter")[0] == "a photo of an Oil filter"
    assert prompt_pair("01")[0] == "a photo of a 01"
    bottle = ("a photo of a bottle", "a photo of an anomalous bottle")
    assert prompt_pair("bottle", "an", "an anomalous") == bottle
    assert prompt_pair("object", "a good")[0] == "a photo of a good object"
    assert random_word_prompts(1, normal="an") == random_word_prompts(1, normal="a")


def test_winclips_states_and_templates_are_all_of_the_papers():
    """Public code lacks two of the 22 templates, or the full stops; "broken" came with a later method."""
    lacks = [f"{{}} without {word}" for word in ("flaw", "defect", "damage")]
    assert prompts.WINCLIP_STATES[0] == ["{}", "flawless {}", "perfect {}", "unblemished {}", *lacks]
    assert prompts.WINCLIP_STATES[1] == ["damaged {}", *(state.replace("without", "with") for state in lacks)]
    sentences = compositional_ensemble("bottle")[1]
    kinds = ("cropped ", "close-up ", "bright ", "dark ", "jpeg corrupted ", "blurry ", "")
    openings = {(f"a {kind}photo of", "") for kind in kinds}
    openings |= {("a photo of", size) for size in ("small ", "large ")}
    expected = {f"{o} {article} {s}damaged bottle." for o, s in openings for article in ("a", "the")}
    for purpose in ("visual inspection", "anomaly detection"):
        expected |= {f"a photo of {article} damaged bottle for {purpose}." for article in ("a", "the")}
    assert expected == {sentence for sentence in sentences if "damaged" in sentence} and len(expected) == 22


def test_prompt_sets_that_winclip_compares():
    assert zero_shot_prompts("metal nut", "two_class") == (["normal metal nut"], ["anomalous metal nut"])
    normal, anomalous = zero_shot_prompts("metal nut", "imagenet")
    assert (len(set(normal)), len(set(anomalous))) == (80, 80)
    assert "a bad photo of a normal metal nut." in normal
    assert anomalous == [sentence.replace("normal", "anomalous") for sentence in normal]
    states = tuple([state.format("metal nut") for state in side] for side in prompts.WINCLIP_STATES)
    assert zero_shot_prompts("metal nut", "state_ens") == states
    usual = compositional_ensemble("metal nut")
    assert [len(set(side)) for side in usual] == [154, 88]
    assert zero_shot_prompts("metal nut") == usual == zero_shot_prompts("metal nut", "specific_states")
    normal, anomalous = zero_shot_prompts("metal nut", "specific_states", ["color", "bent_lead"])
    assert normal == usual[0] and anomalous[:88] == usual[1] and len(set(anomalous)) == 88 + 2 * 22
    assert "a photo of a metal nut with bent lead for visual inspection." in anomalous[88:]
    assert (prompts.object_name("pipe_fryum"), prompts.object_name("pcb1")) == ("pipe fryum", "pcb1")


def test_bad_arguments_say_what_was_expected():
    refused("n_pairs=0", random_word_prompts, n_pairs=0)
    refused("blanks", random_word_prompts, n_pairs=1, alphabet="a b")
    refused("expected normal states", compositional_ensemble, object_name="x", states=(["{}"], []))
    refused("'{}'", compositional_ensemble, object_name="x", templates=["a photo"])
    refused("kind='states'", zero_shot_prompts, object_name="x", kind="states")
    refused("object_name=' x'", zero_shot_prompts, object_name=" x")
