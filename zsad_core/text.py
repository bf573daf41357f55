"""CLIP's text tower: prompts to tokens, tokens to embeddings, no longer than the prompts are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsad_core.dpam import plain_blocks


def causal_text_tower(model: nn.Module, tokenizer: Any) -> nn.Module:
    """The module that holds the text tower's parts. Every token sees only those before it, and the embedding
    is read at the end token, so later tokens have no effect. ValueError for another tower."""
    tower = getattr(model, "text", model)
    if tower is model:  # open_clip's plain CLIP
        pool, end_id, plain = tower.text_pool_type, tower.text_eos_id, True
    else:
        pool, end_id, plain = tower.pool_type, tower.eos_id, tower.cls_emb is None
    end_id = max(tokenizer.all_special_ids) if pool == "argmax" else end_id
    reads_end = pool in ("argmax", "eos") and end_id == tokenizer.eot_token_id
    known = plain and plain_blocks(tower.transformer.resblocks)
    if not (known and reads_end and tower.attn_mask is not None and tokenizer.reduction_fn is None):
        raise ValueError(
            "expected a causal text tower that is read at the end token of open_clip's own tokenizer; choose "
            "a CLIP such as ViT-L-14-336-quickgelu"
        )
    return tower


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
