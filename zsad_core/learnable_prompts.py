"""Prompts whose words are learned: templates, and the text tower on them (AnomalyCLIP, Sec. 3.2, 3.3; CoOp).

    normal      [V_1] ... [V_E] object .
    anomalous   [W_1] ... [W_E] damaged object .

V and W are vectors that replace word embeddings. The tower also gets learned tokens in its first blocks. It
is causal and is read at the end token, so it runs over the prompt alone, not over the context of 77.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core.encoders import ClipEncoder
from zsad_core.text import read_ends
from zsad_core.vit_windows import run_block

SIDES = ("normal", "anomalous")
PLACEHOLDER = "x"  # any word of one token; its embedding is replaced


@dataclass(frozen=True)
class PromptDesign:
    """What the two templates look like, and what is learned in them.

    context_length: E, learned words in each template; 12 (Sec. 4.1; App. A.1 calls it M).
    shared: one context for both sides, not two (Table 9; CoOp).
    states: words before the object; the normal template has none (Sec. 3.2), CoOp has "normal".
    object_word: "object" (object-agnostic), or None for the category's own name (object-aware).
    ending: "." as in the code; the paper does not show it.
    depth: M, blocks of the text tower with learned tokens. length: L, tokens in each; 9 and 4 (Sec. 4.1).
    deep: "overwrite" (the code): before each of the blocks 2 to M the tokens 1 to L are replaced, so M = 9
        means 8 sets. "concatenate" (Eq. 3): each of the blocks 1 to M gets L tokens in front, taken away
        after it, so M = 9 means 9 sets.
    half: round the learned tokens of the blocks to float16 in the forward pass, as the released code does.
    """

    context_length: int = 12
    shared: bool = False
    states: tuple[str, str] = ("", "damaged")
    object_word: str | None = "object"
    ending: str = "."
    depth: int = 9
    length: int = 4
    deep: Literal["overwrite", "concatenate"] = "overwrite"
    half: bool = False

    def __post_init__(self) -> None:
        if self.deep not in ("overwrite", "concatenate"):
            raise ValueError(f"deep={self.deep!r}: expected 'overwrite' or 'concatenate'")
        if self.context_length < 1 or min(self.depth, self.length) < 0:
            raise ValueError(f"{self}: expected one learned word or more, and no negative numbers")
        if self.deep == "overwrite" and self.deep_blocks and self.length > self.context_length:
            advice = "lower length, raise context_length, or use deep='concatenate'"
            raise ValueError(f"length={self.length} overwrites over {self.context_length} words; {advice}")

    @property
    def deep_blocks(self) -> tuple[int, ...]:
        """The 1-based blocks of the text tower that get learned tokens."""
        first = 2 if self.deep == "overwrite" else 1
        return tuple(range(first, self.depth + 1)) if self.length else ()

    def sentences(self, name: str = "object") -> tuple[str, str]:
        """The templates, "x ... x object." and "x ... x damaged object."; name: where object_word is None."""
        context, word = [PLACEHOLDER] * self.context_length, self.object_word or name
        return tuple(" ".join([*context, *filter(None, (s, word))]) + self.ending for s in self.states)


class Frozen(NamedTuple):
    """What is not learned in both prompts of c names in v designs: embeddings of words (v, c, 2, t, width)
    and of positions (t, width), and the places of the end tokens (v, c, 2)."""

    embeddings: Tensor
    positions: Tensor
    ends: Tensor


def initial_parameters(
    encoder: ClipEncoder, design: PromptDesign, generator: torch.Generator
) -> dict[str, Tensor]:
    """What is learned, drawn from N(0, 0.02^2): `context/<side>` (E, width), `deep/<block>` (L, width)."""
    width = encoder.text_tower.token_embedding.embedding_dim
    if design.deep_blocks and design.depth > encoder.text_depth:
        raise ValueError(f"depth={design.depth}: {encoder.model_id} has {encoder.text_depth} text blocks")
    rows = dict.fromkeys(_contexts(design), design.context_length)
    rows |= {f"deep/{block}": design.length for block in design.deep_blocks}
    return {name: 0.02 * torch.randn(n, width, generator=generator) for name, n in rows.items()}


@torch.no_grad()
def freeze(
    encoder: ClipEncoder, designs: Sequence[PromptDesign], names: Sequence[str] = ("object",)
) -> Frozen:
    """Tokenise the two templates of each name in each design, and look up what training leaves alone. Raises
    ValueError for a prompt that is longer than the context: cut off it would lose its object."""
    tower, shape = encoder.text_tower, (len(designs), len(names), 2)
    tokens = encoder.tokenize([text for own in designs for name in names for text in own.sentences(name)])
    longest = max(map(len, tokens))
    if longest > encoder.context_length:
        advice = f"lower context_length ({designs[0].context_length}), or shorten the object's name"
        raise ValueError(f"a prompt has {longest} tokens of {encoder.context_length} at most; {advice}")
    ids = torch.tensor([t + (0,) * (longest - len(t)) for t in tokens], device=encoder.device)
    ends = torch.tensor([len(t) - 1 for t in tokens], device=encoder.device).reshape(shape)
    embeddings = tower.token_embedding(ids).unflatten(0, shape)  # (v, c, 2, t, width)
    return Frozen(embeddings.detach(), tower.positional_embedding[:longest].detach(), ends)


def encode(
    encoder: ClipEncoder, design: PromptDesign, parameters: Mapping[str, Tensor], frozen: Frozen
) -> Tensor:
    """(v, c, 2, d) unit rows, normal first, differentiable in the parameters, for v sets of prompts.
    design: of each set; they differ in fixed words only. parameters: (v, ...), or one for all sets."""
    tower, x = encoder.text_tower, frozen.embeddings
    context = torch.stack([parameters[name] for name in _contexts(design)], dim=-3).to(x)
    context = context.unsqueeze(-4).expand(*x.shape[:-2], -1, -1)  # (v, c, 2, E, width)
    x = torch.cat([x[..., :1, :], context, x[..., 1 + design.context_length :, :]], dim=-2)
    x, front = x + frozen.positions, design.length if design.deep == "concatenate" else 0
    for number, block in enumerate(tower.transformer.resblocks, start=1):
        own = number in design.deep_blocks
        if own:
            learned = parameters[f"deep/{number}"]
            learned = (learned.half() if design.half else learned).to(x)[..., None, None, :, :]
            learned = learned.expand(*x.shape[:-2], -1, -1)  # (v, c, 2, L, width)
            parts = [learned, x] if front else [x[..., :1, :], learned, x[..., 1 + design.length :, :]]
            x = torch.cat(parts, dim=-2)
        if number < encoder.text_depth:
            x = _block(block, x)[..., front * own :, :]
    rows = read_ends(tower, x.flatten(0, -3), (frozen.ends + front * own).flatten())  # (v c 2, d)
    return F.normalize(rows, dim=-1).unflatten(0, x.shape[:-2])


def _contexts(design: PromptDesign) -> list[str]:
    return ["context/shared"] if design.shared else [f"context/{side}" for side in SIDES]


def _block(block: nn.Module, x: Tensor) -> Tensor:
    """(..., t, width) through one block, each token seeing those before it."""
    return run_block(block, x.flatten(0, -3), causal=True).reshape(x.shape)
