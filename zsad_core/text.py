"""CLIP's text tower: prompts to tokens, tokens to embeddings, no longer than the prompts are."""

import warnings

from torch import Tensor, nn

from zsad_core.vit_windows import run_block


def cut(sequences: dict[str, tuple[int, ...]], most: int) -> dict[str, tuple[int, ...]]:
    """The tokens of each prompt, at most so many; of a longer one the end token stays. A warning says so."""
    long = [prompt for prompt, tokens in sequences.items() if len(tokens) > most]
    if long:
        found = f"{len(long)} prompts are longer than the context of {most} tokens and lose their end"
        warnings.warn(f"{found}; the first has {len(sequences[long[0]])}: {long[0][:60]!r}...", stacklevel=4)
    return {p: t if len(t) <= most else (*t[: most - 1], t[-1]) for p, t in sequences.items()}


def read_ends(tower: nn.Module, x: Tensor, ends: Tensor) -> Tensor:
    """(b, d): tokens (b, l, width) through the last block, and the embeddings at the places `ends` (b,)."""
    x = run_block(tower.transformer.resblocks[-1], x, causal=True, read=ends)
    return tower.ln_final(x) @ tower.text_projection
