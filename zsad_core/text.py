"""CLIP's text tower: prompts to tokens, tokens to embeddings, no longer than the prompts are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

Tokenizer = Callable[[list[str]], Tensor]


def causal_text_tower(model: nn.Module, tokenizer: Tokenizer) -> nn.Module | None:
    """The module that holds the text tower's parts, if tokens after the end token cannot matter; else None.

    They cannot where every token sees only those before it, and the embedding is read at the end token. Some
    towers append a class token or see both ways, and those of other libraries are not looked into.
    """
    tower = getattr(model, "text", model)
    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return None
    if isinstance(tower, open_clip.CLIP):
        pool, end_id = tower.text_pool_type, tower.text_eos_id
    elif isinstance(tower, TextTransformer) and tower.cls_emb is None:
        pool, end_id = tower.pool_type, tower.eos_id
    else:
        return None
    end_id = max(tokenizer.all_special_ids) if pool == "argmax" else end_id
    reads_end = pool in ("argmax", "eos") and end_id == tokenizer.eot_token_id
    return tower if reads_end and tower.attn_mask is not None else None


def cut(sequences: dict[str, tuple[int, ...]], most: int) -> dict[str, tuple[int, ...]]:
    """The tokens of each prompt, at most so many; of a longer one the end token stays. A warning says so."""
    long = [prompt for prompt, tokens in sequences.items() if len(tokens) > most]
    if long:
        warnings.warn(
            f"{len(long)} prompts are longer than the context of {most} tokens and lose their end; "
            f"the first has {len(sequences[long[0]])}: {long[0][:60]!r}...",
            stacklevel=4,
        )
    return {p: t if len(t) <= most else (*t[: most - 1], t[-1]) for p, t in sequences.items()}


def read_ends(tower: nn.Module, x: Tensor, ends: Sequence[int] | Tensor) -> Tensor:
    """(b, d): the embeddings that the tower reads of tokens (b, l, width) at the places `ends` (b,)."""
    x = tower.ln_final(x[torch.arange(len(x)), ends])  # (b, width)
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection
