"""The image tower on a whole image and on its windows in one pass, without repeating what they share.

Windows (WinCLIP, section 4.2) are short sequences: the class token and k x k patches, run through all blocks.
Most of the time goes into matrix products, so the rest is kept small, and nothing is computed that no output
depends on:

- one patch embedding, and in the first block one layer norm and one q, k, v per patch, for all scales;
- in the last block of a window only the class token's query, output projection and MLP;
- a key's bias adds the same to all scores of a query, so the softmax drops it; a value's bias passes through
  the softmax unchanged (weights sum to 1), so it belongs to the output projection's bias;
- many windows at once, in chunks small enough for the caches, in buffers that are reused.

All of this is exact up to rounding. No hooks, no change of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from zsad_core.windows import window_indices


@dataclass(frozen=True)
class Block:
    """The tensors of one block in the type that it computes in; matrices as (inputs, outputs)."""

    heads: int
    norms: tuple[tuple[Tensor, Tensor, float], tuple[Tensor, Tensor, float]]  # weight, bias, epsilon of each
    qkv: Tensor  # (width, 3 width)
    q_bias: Tensor  # (width,)
    out: Tensor  # (width, width)
    out_bias: Tensor  # (width,), the values' bias included
    up: Tensor  # (width, mlp)
    up_bias: Tensor  # (mlp,)
    down: Tensor  # (mlp, width)
    down_bias: Tensor  # (width,)
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scales:
    """What one pass over n images gives, float32 on the CPU, not normalised.

    image: (n, d), the whole image; None if it was not asked for.
    windows: {size: (n, n_windows, d)}, in the order of `windows.window_indices`.
    layers: {block: (n, patches, width)}, the patch tokens that leave this block (1-based), before any norm.
    """

    image: Tensor | None
    windows: dict[int, Tensor]
    layers: dict[int, Tensor]


def prepare(visual: nn.Module, dtype: torch.dtype) -> list[Block]:
    """The blocks of an open_clip Vision Transformer, ready for `embed_scales`.

    In float32 the matrices are views of the model's own. Raises ValueError for blocks that are not the plain
    ones (pre-norm attention and MLP) that all of CLIP's towers have.
    """
    for block in visual.transformer.resblocks:
        plain = type(block) is ResidualAttentionBlock and isinstance(block.attn, nn.MultiheadAttention)
        if not plain or block.attn.in_proj_bias is None:
            raise ValueError(
                f"windows need open_clip's ResidualAttentionBlock, got {type(block).__name__} with "
                f"{type(block.attn).__name__}; choose an architecture such as ViT-B-16-plus-240"
            )
    return [_prepare_block(block, dtype) for block in visual.transformer.resblocks]


def _prepare_block(block: ResidualAttentionBlock, dtype: torch.dtype) -> Block:
    attention, width = block.attn, block.attn.embed_dim
    matrix = lambda weight: weight.detach().T.to(dtype)  # noqa: E731
    q_bias, _, v_bias = attention.in_proj_bias.detach().split(width)
    out, out_bias = attention.out_proj.weight.detach(), attention.out_proj.bias.detach()
    down, down_bias = block.mlp.c_proj.weight.detach(), block.mlp.c_proj.bias.detach()
    out_bias = out_bias + out @ v_bias
    scales = [getattr(layer, "gamma", None) for layer in (block.ls_1, block.ls_2)]  # LayerScale, if any
    if scales[0] is not None:
        out, out_bias = out * scales[0][:, None], out_bias * scales[0]
    if scales[1] is not None:
        down, down_bias = down * scales[1][:, None], down_bias * scales[1]
    gelu = isinstance(block.mlp.gelu, nn.GELU) and block.mlp.gelu.approximate == "none"
    return Block(
        heads=attention.num_heads,
        norms=tuple((n.weight.detach(), n.bias.detach(), n.eps) for n in (block.ln_1, block.ln_2)),
        qkv=matrix(attention.in_proj_weight),
        q_bias=q_bias.to(dtype),
        out=matrix(out),
        out_bias=out_bias.to(dtype),
        up=matrix(block.mlp.c_fc.weight),
        up_bias=block.mlp.c_fc.bias.detach().to(dtype),
        down=matrix(down),
        down_bias=down_bias.to(dtype),
        activation=torch.ops.aten.gelu_ if gelu else block.mlp.gelu,
    )


def embed_scales(
    visual: nn.Module,
    blocks: Sequence[Block],
    pixels: Tensor,
    sizes: Sequence[int] = (2, 3),
    *,
    whole: bool = True,
    layers: Sequence[int] = (),
    chunk_tokens: int = 2048,
) -> Scales:
    """The whole image, all windows of these sizes and the patch tokens of these blocks, from one pass.

    visual: open_clip's Vision Transformer with a class token; blocks: `prepare(visual, dtype)`.
    pixels: (n, 3, H, W) on the model's device. One batch: the caller bounds n.
    whole: False leaves the whole image out. layers: 1-based block numbers.
    chunk_tokens: tokens that go through the blocks at once; bounds the memory, not the result.
    """
    if not len(pixels):
        return _nothing(visual, sizes, whole, layers)
    dtype = blocks[0].qkv.dtype
    tokens = visual._embeds(pixels).to(dtype)  # (n, 1 + patches, width)
    n, length, width = tokens.shape
    tokens = tokens.flatten(0, 1)  # (n (1 + patches), width)
    first = _qkv(tokens, blocks[0])  # (n (1 + patches), 3 width), shared by all scales
    offsets = length * torch.arange(n, device=pixels.device)[:, None, None]
    buffers: dict[str, Tensor] = {}
    kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def encode(members: Tensor, keep: dict[int, list[Tensor]]) -> Tensor:
        """(n, windows, d) of sequences (windows, l) of token numbers, the same for every image."""
        sequences = (members + offsets).flatten(0, 1)  # (n windows, l)
        chunk = max(1, chunk_tokens // sequences.shape[1])
        classes = [
            _run(blocks, tokens[part.flatten()], first[part.flatten()], part.shape, buffers, keep)
            for part in sequences.split(chunk)
        ]
        pooled = visual.ln_post(torch.cat(classes).float()) @ visual.proj.float()  # (n windows, d)
        return pooled.unflatten(0, (n, -1)).cpu()

    everything = torch.arange(length, device=pixels.device)[None]  # (1, 1 + patches)
    image = encode(everything, kept)[:, 0] if whole or layers else None
    windows = {
        size: encode(F.pad(window_indices(visual.grid_size, size).to(pixels.device) + 1, (1, 0)), {})
        for size in sizes
    }
    tokens_of = {layer: torch.cat(parts).float().cpu() for layer, parts in kept.items()}
    return Scales(image if whole else None, windows, tokens_of)


def _nothing(visual: nn.Module, sizes: Sequence[int], whole: bool, layers: Sequence[int]) -> Scales:
    """The scales of no image."""
    rows, columns = visual.grid_size
    windows = {s: torch.empty(0, len(window_indices((rows, columns), s)), visual.output_dim) for s in sizes}
    tokens = {layer: torch.empty(0, rows * columns, visual.conv1.out_channels) for layer in layers}
    return Scales(torch.empty(0, visual.output_dim) if whole else None, windows, tokens)


def _run(
    blocks: Sequence[Block],
    x: Tensor,
    qkv: Tensor,
    shape: tuple[int, int],
    buffers: dict[str, Tensor],
    keep: dict[int, list[Tensor]],
) -> Tensor:
    """(c, width): the class tokens after all blocks.

    x, qkv: (c l, width) and (c l, 3 width) tokens of c sequences of length l, and q, k, v in the first block.
    """
    count, length = shape
    for number, block in enumerate(blocks, start=1):
        if number == len(blocks) > 1 and number not in keep:
            return _last_block(x, block, count)
        if number > 1:
            qkv = _qkv(x, block, buffers)
        split = qkv.view(count, length, 3, block.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (c, heads, l, w / heads) each
        attended = F.scaled_dot_product_attention(query, key, value)  # (c, heads, l, w / heads)
        x = _residual(x, attended.transpose(1, 2), block, buffers)
        if number in keep:
            keep[number].append(x.view(count, length, -1)[:, 1:].clone())  # (c, patches, width)
    return x.view(count, -1, x.shape[-1])[:, 0]


def _last_block(x: Tensor, block: Block, count: int) -> Tensor:
    """(c, width): the class tokens of c sequences after the last block. All tokens (c l, width) give keys and
    values; the query, the output projection and the MLP are those of the class token alone."""
    width = x.shape[1]
    normed = _norm(x, block.norms[0])
    memory = torch.mm(normed, block.qkv[:, width:]).view(count, -1, 2, block.heads, width // block.heads)
    key, value = memory.permute(2, 0, 3, 1, 4)  # (c, heads, l, w / heads) each
    first = normed.view(count, -1, width)[:, 0]  # (c, width)
    query = torch.addmm(block.q_bias, first, block.qkv[:, :width]).view(count, block.heads, 1, -1)
    attended = F.scaled_dot_product_attention(query, key, value)  # (c, heads, 1, w / heads)
    return _residual(x.view(count, -1, width)[:, 0].contiguous(), attended, block, {})


def _residual(x: Tensor, attended: Tensor, block: Block, buffers: dict[str, Tensor]) -> Tensor:
    """(t, width): the tokens x after output projection and MLP, both added to them in place."""
    x += block.out_bias
    x.addmm_(attended.reshape(len(x), -1), block.out)
    hidden = torch.mm(_norm(x, block.norms[1]), block.up, out=_buffer(buffers, "up", x, block.up))
    hidden = block.activation(hidden.add_(block.up_bias))  # (t, mlp)
    x += block.down_bias
    return x.addmm_(hidden, block.down)


def _qkv(x: Tensor, block: Block, buffers: dict[str, Tensor] | None = None) -> Tensor:
    """(t, 3 width) from tokens (t, width); keys and values without their biases."""
    out = None if buffers is None else _buffer(buffers, "qkv", x, block.qkv)
    qkv = torch.mm(_norm(x, block.norms[0]), block.qkv, out=out)
    qkv[:, : x.shape[1]] += block.q_bias
    return qkv


def _norm(x: Tensor, norm: tuple[Tensor, Tensor, float]) -> Tensor:
    weight, bias, epsilon = norm
    return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), epsilon)


def _buffer(buffers: dict[str, Tensor], name: str, x: Tensor, matrix: Tensor) -> Tensor:
    """Room for x @ matrix: fresh memory for each product costs more than the bias and the activation."""
    rows, columns = len(x), matrix.shape[1]
    if name not in buffers or len(buffers[name]) < rows:
        buffers[name] = x.new_empty(rows, columns)
    return buffers[name][:rows]
