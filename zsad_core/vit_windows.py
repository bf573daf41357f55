"""The image tower on a whole image and on its windows in one pass, without repeating what they share.

A window (WinCLIP, section 4.2) is a short sequence: the class token and k x k patches, run through all
blocks. `plain_windows` says so in five lines. `embed_scales` gives the same up to rounding, on a CPU 1.5 to 5
times as fast, because nothing is computed twice or for no output:

- one patch embedding, and in the first block one layer norm and one q, k, v per patch, for all scales;
- in the last block output projection and MLP of the class token alone;
- a key's bias adds the same to all scores of a query, so the softmax drops it; a value's bias passes through
  the softmax unchanged (weights sum to 1), so it belongs to the output projection's bias;
- many sequences at once, in chunks of bounded memory whose buffers are reused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from zsad_core.windows import window_indices


@torch.no_grad()
def plain_windows(visual: nn.Module, pixels: Tensor, size: int) -> Tensor:
    """(n, n_windows, d): embeddings of all windows of size x size patches, not normalised (WinCLIP, Eq. 2).

    visual: open_clip's Vision Transformer with a class token. pixels: (n, 3, H, W).
    """
    tokens = visual._embeds(pixels)  # (n, 1 + patches, width): patches with their positions in the image
    windows = F.pad(window_indices(visual.grid_size, size) + 1, (1, 0))  # (n_windows, 1 + size^2)
    classes = [visual.transformer(tokens[:, window])[:, 0] for window in windows]  # (n, width) each
    return visual.ln_post(torch.stack(classes, dim=1)) @ visual.proj


@dataclass(frozen=True)
class BlockWeights:
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
class MultiScaleEmbeddings:
    """What one pass over n images gives, float32 on the CPU, not normalised.

    image: (n, d), the whole image; None if it was not asked for.
    windows: {size: (n, n_windows, d)}, in the order of `windows.window_indices`.
    layers: {block: (n, patches, width)}, the patch tokens that leave this block (1-based), before any norm.
    """

    image: Tensor | None
    windows: dict[int, Tensor]
    layers: dict[int, Tensor]


def prepare(visual: nn.Module, dtype: torch.dtype) -> list[BlockWeights]:
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


def _prepare_block(block: ResidualAttentionBlock, dtype: torch.dtype) -> BlockWeights:
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
    return BlockWeights(
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
    blocks: Sequence[BlockWeights],
    pixels: Tensor,
    sizes: Sequence[int] = (2, 3),
    *,
    whole: bool = True,
    layers: Sequence[int] = (),
    chunk_tokens: int = 3072,
) -> MultiScaleEmbeddings:
    """The whole image, all windows of these sizes and the patch tokens of these blocks, from one pass.

    visual: open_clip's Vision Transformer with a class token; blocks: `prepare(visual, dtype)`.
    pixels: (n, 3, H, W), n > 0, on the model's device. One batch: the caller bounds n.
    whole: False leaves the whole image out. layers: 1-based block numbers.
    chunk_tokens: tokens that go through the blocks at once; bounds the memory, not the result.
    """
    tokens = visual._embeds(pixels).to(blocks[0].qkv.dtype)
    n, length, _ = tokens.shape
    tokens = tokens.flatten(0, 1)  # (n (1 + patches), width)
    first = _qkv(tokens, blocks[0], {})  # (n (1 + patches), 3 width), shared by all scales
    starts = length * torch.arange(n, device=pixels.device)[:, None, None]
    buffers: dict[str, Tensor] = {}
    kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def encode(members: Tensor, keep: dict[int, list[Tensor]]) -> Tensor:
        """(n, windows, d) of sequences (windows, l) of token numbers, the same for every image."""
        sequences = (members.to(pixels.device) + starts).flatten(0, 1)  # (n windows, l)
        chunks = sequences.split(max(1, chunk_tokens // members.shape[1]))
        classes = torch.cat([_run(blocks, tokens[rows], first[rows], buffers, keep) for rows in chunks])
        return (visual.ln_post(classes.float()) @ visual.proj.float()).unflatten(0, (n, -1)).cpu()

    image = encode(torch.arange(length)[None], kept)[:, 0] if whole or layers else None
    windows = {s: encode(F.pad(window_indices(visual.grid_size, s) + 1, (1, 0)), {}) for s in sizes}
    tokens_of = {layer: torch.cat(parts).float().cpu() for layer, parts in kept.items()}
    return MultiScaleEmbeddings(image if whole else None, windows, tokens_of)


def _run(
    blocks: Sequence[BlockWeights],
    x: Tensor,
    qkv: Tensor,
    buffers: dict[str, Tensor],
    keep: dict[int, list[Tensor]],
) -> Tensor:
    """(s, width): the class tokens of s sequences after all blocks.

    x, qkv: (s, l, width) and (s, l, 3 width), the tokens and their q, k, v in the first block.
    keep: lists that get the patch tokens (s, l - 1, width) which leave these blocks.
    """
    s, length, width = x.shape
    x, qkv = x.flatten(0, 1), qkv.flatten(0, 1)  # (s l, ...): only attention knows where a sequence ends
    for number, block in enumerate(blocks, start=1):
        last = number == len(blocks) and number not in keep  # read at the class token alone
        if last and number > 1:
            q, k, v = _class_qkv(x.view(s, length, width), block)
        else:
            qkv = qkv if number == 1 else _qkv(x, block, buffers)
            q, k, v = qkv.view(s, length, 3, block.heads, -1).permute(
                2, 0, 3, 1, 4
            )  # (s, heads, l, ...) each
        if last:
            q, x = q[:, :, :1], x.view(s, length, width)[:, 0].contiguous()
        attended = F.scaled_dot_product_attention(q, k, v)  # (s, heads, l or 1, width / heads)
        x = _residual(x, attended.transpose(1, 2).reshape(-1, width), block, buffers)
        if number in keep:
            keep[number].append(x.view(s, length, width)[:, 1:].clone())
    return x.view(s, -1, width)[:, 0]


def _residual(x: Tensor, attended: Tensor, block: BlockWeights, buffers: dict[str, Tensor]) -> Tensor:
    """(t, width): the tokens x after output projection and MLP, both added to them in place."""
    x += block.out_bias
    x.addmm_(attended, block.out)
    hidden = _product(_norm(x, block.norms[1]), block.up, buffers, "up")  # (t, mlp)
    hidden = block.activation(hidden.add_(block.up_bias))
    x += block.down_bias
    return x.addmm_(hidden, block.down)


def _qkv(x: Tensor, block: BlockWeights, buffers: dict[str, Tensor]) -> Tensor:
    """(t, 3 width) from tokens (t, width); keys and values without their biases."""
    qkv = _product(_norm(x, block.norms[0]), block.qkv, buffers, "qkv")
    qkv[:, : x.shape[1]] += block.q_bias
    return qkv


def _class_qkv(x: Tensor, block: BlockWeights) -> tuple[Tensor, Tensor, Tensor]:
    """q (s, heads, 1, ...) of the class tokens, k and v (s, heads, l, ...) of all tokens (s, l, width)."""
    s, length, width = x.shape
    normed = _norm(x.flatten(0, 1), block.norms[0])
    q = normed.view(s, length, width)[:, 0] @ block.qkv[:, :width] + block.q_bias  # (s, width)
    k, v = (normed @ block.qkv[:, width:]).view(s, length, 2, block.heads, -1).permute(2, 0, 3, 1, 4)
    return q.view(s, 1, block.heads, -1).transpose(1, 2), k, v


def _norm(x: Tensor, norm: tuple[Tensor, Tensor, float]) -> Tensor:
    weight, bias, epsilon = norm
    return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), epsilon)


def _product(x: Tensor, matrix: Tensor, buffers: dict[str, Tensor], name: str) -> Tensor:
    """x @ matrix in reused memory: fresh memory for each product costs more than bias and activation."""
    rows, columns = len(x), matrix.shape[1]
    if name not in buffers or len(buffers[name]) < rows:
        buffers[name] = x.new_empty(rows, columns)
    return torch.mm(x, matrix, out=buffers[name][:rows])
