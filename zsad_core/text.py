"""CLIP's text tower: prompts to tokens, tokens to embeddings, no longer than the prompts are."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def cut(sequences: dict[str, tuple[int, ...]], most: int) -> dict[str, tuple[int, ...]]:
    """The tokens of each prompt, at most so many; of a longer one the end token stays. A warning says so."""
    long = [prompt for prompt, tokens in sequences.items() if len(tokens) > most]
    if long:
        found = f"{len(long)} prompts are longer than the context of {most} tokens and lose their end"
        warnings.warn(f"{found}; the first has {len(sequences[long[0]])}: {long[0][:60]!r}...", stacklevel=4)
    return {p: t if len(t) <= most else (*t[: most - 1], t[-1]) for p, t in sequences.items()}


def read_ends(tower: nn.Module, x: Tensor, ends: Sequence[int] | Tensor) -> Tensor:
    """(b, d): the embeddings that the tower reads of tokens (b, l, width) at the places `ends` (b,)."""
    return tower.ln_final(x[torch.arange(len(x)), ends]) @ tower.text_projection
