from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from zsad_core.tokens import tokenize

TOKENIZER = SimpleTokenizer()
words = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789'&;.,_-<> \t\n", max_size=60)
marks = st.sampled_from(
    ["<end_of_text>", "&amp;amp;", "it's", "naïve café", "ﬁne", "“quoted”", "損傷", "", "  a  "]
)


def padded(sequences: list[tuple[int, ...]], length: int = 77) -> torch.Tensor:
    return torch.tensor([sequence + (0,) * (length - len(sequence)) for sequence in sequences])


@settings(deadline=None)
@given(st.lists(words | st.text(max_size=30) | marks, min_size=1, max_size=8))
def test_tokens_are_open_clips(prompts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = padded(tokenize(TOKENIZER, prompts, 77))
    torch.testing.assert_close(tokens, TOKENIZER(prompts), rtol=0, atol=0)


@pytest.mark.parametrize(("n_words", "is_cut"), [(75, False), (76, True), (200, True)])
def test_prompts_longer_than_the_context_are_cut_as_in_open_clip(n_words: int, is_cut: bool) -> None:
    prompts = ["a photo", " ".join(["crack"] * n_words)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens = tokenize(TOKENIZER, prompts, 77)
    torch.testing.assert_close(padded(tokens), TOKENIZER(prompts), rtol=0, atol=0)
    expected = [
        f"1 prompts are longer than the context of 77 tokens and lose their end; the first has {n_words + 2}"
    ]
    assert [str(w.message).split(":")[0] for w in caught] == (expected if is_cut else [])
