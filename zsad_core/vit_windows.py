"""The image tower on a whole image and on its windows in one pass, without repeating what they share.

Windows (WinCLIP, section 4.2) are short sequences: the class token and k x k patches, run through all blocks.
Most of the time goes into matrix products, so the rest is kept small, and nothing is computed that no output
depends on:

- one patch embedding, and in the first block one layer norm and one q, k, v per patch, for all scales;
- in the last block of a window only the class token's query, output projection and MLP;
- a key's bias adds the same to all scores of a query, so the softmax drops it; a value's bias passes through
  the softmax unchanged (weights sum to 1), so it belongs to the output projection's bias;
- many sequences at once, of all lengths, in chunks of bounded memory: the fewer passes over the weights the
  better; the buffers are reused.

All of this is exact up to rounding. No hooks, no change of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    chunk_tokens: int = 3072,
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

    def encode(members: dict[int, Tensor], keep: dict[int, list[Tensor]]) -> dict[int, Tensor]:
        """{scale: (n, windows, d)} of sequences (windows, l) of token numbers, the same for every image."""
        sequences = {
            scale: (numbers + offsets).flatten(0, 1) for scale, numbers in members.items()
        }  # (n w, l)
        classes: dict[int, list[Tensor]] = {scale: [] for scale in members}
        for chunk in _chunks({scale: part.shape for scale, part in sequences.items()}, chunk_tokens):
            parts = [sequences[scale][start:stop] for scale, start, stop in chunk]
            rows = torch.cat([part.flatten() for part in parts])  # (t,)
            found = _run(blocks, tokens[rows], first[rows], [part.shape for part in parts], buffers, keep)
            for (scale, _, _), values in zip(chunk, found.split([len(part) for part in parts]), strict=True):
                classes[scale].append(values)
        pooled = {k: visual.ln_post(torch.cat(v).float()) @ visual.proj.float() for k, v in classes.items()}
        return {scale: values.unflatten(0, (n, -1)).cpu() for scale, values in pooled.items()}

    windows = {s: F.pad(window_indices(visual.grid_size, s).to(pixels.device) + 1, (1, 0)) for s in sizes}
    image = {0: torch.arange(length, device=pixels.device)[None]} if whole or layers else {}
    if layers:  # whole images by themselves: all their tokens go through the last block too
        pooled = encode(image, kept) | encode(windows, {})
    else:
        pooled = encode(image | windows, {})
    tokens_of = {layer: torch.cat(parts).float().cpu() for layer, parts in kept.items()}
    return Scales(pooled[0][:, 0] if whole else None, {size: pooled[size] for size in sizes}, tokens_of)


def _chunks(shapes: dict[int, tuple[int, int]], most: int) -> Iterator[list[tuple[int, int, int]]]:
    """Sequences of all scales, in order, packed into chunks of at most `most` tokens (or one sequence).

    shapes: {scale: (sequences, length)}. Yields lists of (scale, first, last + 1).

    >>> list(_chunks({0: (1, 10), 2: (5, 5)}, 20))
    [[(0, 0, 1), (2, 0, 2)], [(2, 2, 5)]]
    """
    chunk, room = [], most
    for scale, (count, length) in shapes.items():
        start = 0
        while start < count:
            if room < length and chunk:
                yield chunk
                chunk, room = [], most
            stop = min(count, start + max(1, room // length))
            chunk.append((scale, start, stop))
            room -= (stop - start) * length
            start = stop
    if chunk:
        yield chunk


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
    shapes: Sequence[tuple[int, int]],
    buffers: dict[str, Tensor],
    keep: dict[int, list[Tensor]],
) -> Tensor:
    """(c, width): the class tokens after all blocks. Only attention knows where a sequence ends, so those of
    all lengths share the products.

    x, qkv: (t, width) and (t, 3 width), tokens of groups of sequences one after the other, and their q, k, v
    in the first block. shapes: (sequences, length) of each group; c sequences and t tokens in all.
    """
    for number, block in enumerate(blocks, start=1):
        if number == len(blocks) > 1 and number not in keep:
            return _last_block(x, block, shapes)
        if number > 1:
            qkv = _qkv(x, block, buffers)
        attended = []
        for part, (count, length) in zip(_groups(qkv, shapes), shapes, strict=True):
            heads = part.view(count, length, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
            found = F.scaled_dot_product_attention(*heads)  # (count, heads, length, width / heads)
            attended.append(found.transpose(1, 2).reshape(len(part), -1))
        x = _residual(x, torch.cat(attended), block, buffers)
        if number in keep:
            keep[number] += [p.view(*s, -1)[:, 1:].clone() for p, s in zip(_groups(x, shapes), shapes)]
    return x[_class_rows(shapes, x.device)]


def _last_block(x: Tensor, block: Block, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(c, width): the class tokens of c sequences after the last block. All tokens (t, width) give keys and
    values; the query, the output projection and the MLP are those of the class tokens alone."""
    width, rows = x.shape[1], _class_rows(shapes, x.device)
    normed = _norm(x, block.norms[0])
    memories = _groups(torch.mm(normed, block.qkv[:, width:]), shapes)  # (count length, 2 width) each
    queries = torch.addmm(block.q_bias, normed[rows], block.qkv[:, :width])  # (c, width)
    attended = []
    for memory, query, (count, _) in zip(
        memories, queries.split([c for c, _ in shapes]), shapes, strict=True
    ):
        key, value = memory.view(count, -1, 2, block.heads, width // block.heads).permute(2, 0, 3, 1, 4)
        query = query.view(count, block.heads, 1, -1)
        attended.append(F.scaled_dot_product_attention(query, key, value).reshape(count, width))
    return _residual(x[rows], torch.cat(attended), block, {})


def _groups(x: Tensor, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    """The rows of each group of sequences."""
    return x.split([count * length for count, length in shapes])


def _class_rows(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(c,) where the sequences of all groups begin."""
    lengths = torch.cat([torch.full((count,), length, device=device) for count, length in shapes])
    return lengths.cumsum(0) - lengths


def _residual(x: Tensor, attended: Tensor, block: Block, buffers: dict[str, Tensor]) -> Tensor:
    """(t, width): the tokens x after output projection and MLP, both added to them in place."""
    x += block.out_bias
    x.addmm_(attended, block.out)
    room = _buffer(buffers, "up", x, block.up)
    hidden = block.activation(
        torch.addmm(block.up_bias, _norm(x, block.norms[1]), block.up, out=room)
    )  # (t, mlp)
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
