"""Windows of an image in a Vision Transformer, and the whole image, in one pass; what one block computes.

A window (WinCLIP, Sec. 4.2) is the class token and k x k patches, run through all blocks; its embedding is
that of the class token. The blocks are open_clip's, of which both of CLIP's towers consist.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core.windows import window_indices


class MultiScaleEmbeddings(NamedTuple):
    """What one pass over n images gives, float32 on the CPU: (n, d) or None, {size: (n, n_windows, d)}, and
    {block: (n, patches, width)}, the patch tokens that leave a block (1-based), before any norm."""

    image: Tensor | None
    windows: dict[int, Tensor]
    layers: dict[int, Tensor]


@torch.no_grad()
def embed_scales(
    visual: nn.Module,
    pixels: Tensor,
    sizes: Sequence[int] = (2, 3),
    whole: bool = True,
    layers: Collection[int] = (),
    chunk_tokens: int = 3072,
) -> MultiScaleEmbeddings:
    """`ClipEncoder.embed_scales` without normalisation. pixels: (n, 3, H, W), n > 0, on the tower's device.
    chunk_tokens: tokens that go through the blocks at once; bounds the memory, not the result."""
    blocks = visual.transformer.resblocks
    check_blocks(blocks, layers or (1,), 1)
    windows = {size: F.pad(window_indices(visual.grid_size, size) + 1, (1, 0)) for size in sizes}
    tokens = visual._embeds(pixels)  # (n, 1 + patches, width)
    n, length, _ = tokens.shape
    tokens = tokens.flatten(0, 1)  # (n (1 + patches), width)
    queries, keys = _queries_and_keys(blocks[0], tokens)  # shared by all scales
    starts = length * torch.arange(n)[:, None, None]

    def encode(members: Tensor, layers: Collection[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """(n, windows, d) and layers of sequences (windows, l) of token numbers, the same in every image."""
        sequences = (members + starts).flatten(0, 1).to(pixels.device)  # (n windows, l)
        chunks = sequences.split(max(1, chunk_tokens // members.shape[1]))
        found = [_run(blocks, tokens[r], queries[r], keys[r], layers) for r in chunks]
        classes = visual.ln_post(torch.cat([classes for classes, _ in found])) @ visual.proj
        embeddings = classes.float().unflatten(0, (n, -1)).cpu()
        return embeddings, {layer: torch.cat([kept[layer] for _, kept in found]) for layer in layers}

    image, kept = encode(torch.arange(length)[None], layers) if whole or layers else (None, {})
    found = {size: encode(members)[0] for size, members in windows.items()}
    return MultiScaleEmbeddings(image[:, 0] if whole else None, found, kept)


def _run(
    blocks: nn.ModuleList, x: Tensor, queries: Tensor, keys: Tensor, layers: Collection[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """The class tokens (s, width) of s sequences after all blocks, and the layers' patches. x: (s, l, width).
    queries, keys: of the first block, see `_queries_and_keys`."""
    kept = {}
    for number, block in enumerate(blocks, start=1):
        # nothing reads the patches that leave the last block
        read = slice(0, 1) if number == len(blocks) and number not in layers else slice(None)
        if number > 1:
            queries, keys = _queries_and_keys(block, x, read)
        x, queries = x[:, read], queries[:, read]
        parts = (queries, *keys.chunk(2, dim=-1))  # (s, l, width) each
        q, k, v = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in parts)
        x = x + attend(block, q, k, v)
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        if number in layers:
            kept[number] = x[:, 1:].float().cpu()
    return x[:, 0], kept


def _queries_and_keys(block: nn.Module, x: Tensor, read: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Queries (..., width) of the tokens to read, and keys beside values (..., 2 width) of all tokens."""
    z, width, attention = block.ln_1(x), x.shape[-1], block.attn
    queries = F.linear(z[..., read, :], attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    return queries, F.linear(z, attention.in_proj_weight[width:], attention.in_proj_bias[width:])


def run_block(block: nn.Module, x: Tensor, causal: bool = False, read: Tensor | None = None) -> Tensor:
    """(n, t, width) through a block; open_clip's own attention reorders the tokens, which takes longer.
    read: (n,) places of the tokens that alone are read after the last block, which gives (n, width)."""
    x = x + attend(block, *heads(block, block.ln_1(x)), causal)
    x = x if read is None else x[torch.arange(len(x), device=x.device), read]  # no MLP for the others
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def heads(block: nn.Module, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The block's own queries, keys and values of z (n, t, width): (n, heads, t, width / heads) each."""
    attention = block.attn
    joined = F.linear(z, attention.in_proj_weight, attention.in_proj_bias)  # (n, t, 3 width)
    return joined.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def attend(block: nn.Module, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """(n, t, width): attention with the block's own output projection."""
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # (n, heads, t, 64), with 1 / sqrt(64)
    return block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))


def check_blocks(blocks: nn.ModuleList, layers: Sequence[int], first: int) -> None:
    """ValueError unless the tower has these 1-based blocks, all open_clip's ResidualAttentionBlock."""
    depth = len(blocks)
    if not layers or not {*layers, first} <= set(range(1, depth + 1)):
        raise ValueError(f"layers={tuple(layers)}, first={first}: expected some blocks of 1 to {depth}")
    if others := {type(block).__name__ for block in blocks} - {"ResidualAttentionBlock"}:
        raise ValueError(f"expected open_clip's ResidualAttentionBlock (ViT-L-14), got {', '.join(others)}")
