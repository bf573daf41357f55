"""The model and its training forward.

The model is open_clip's own `CLIP`. For training its modules are called in the same order as open_clip does,
with two differences: attention is written as bmm-softmax-bmm, because the fused attention's backward is slow
on CPUs, and only the patches that are given go through the image tower, because patches are dropped and
windows are patch blocks.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def build_model(config: Path | dict, seed: int = 0) -> open_clip.CLIP:
    """An untrained open_clip CLIP from a model config (a JSON file or its content), seeded."""
    if not isinstance(config, dict):
        config = json.loads(Path(config).read_text())
    config = config.get("model_cfg", config)
    torch.manual_seed(seed)
    return open_clip.CLIP(config["embed_dim"], dict(config["vision_cfg"]), dict(config["text_cfg"]))


def grid_of(model: open_clip.CLIP) -> tuple[int, int]:
    """(patches a side, pixels a patch side) of a square image tower."""
    return model.visual.grid_size[0], model.visual.patch_size[0]


def transformer_block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One block of open_clip with explicit attention; x (b, n, w), mask (n, n) is added to the logits."""
    b, n, w = x.shape
    heads = block.attn.num_heads
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)  # (b, n, 3w)
    q, k, v = (
        qkv.view(b, n, 3, heads, w // heads).permute(2, 0, 3, 1, 4).flatten(1, 2)
    )  # each (b*heads, n, d)
    logits = torch.bmm(q * (w // heads) ** -0.5, k.transpose(1, 2))  # (b*heads, n, n)
    if mask is not None:
        logits = logits + mask.to(logits.dtype)
    out = torch.bmm(logits.softmax(-1), v)  # (b*heads, n, d)
    out = out.view(b, heads, n, w // heads).transpose(1, 2).reshape(b, n, w)
    x = x + block.ls_1(block.attn.out_proj(out))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def encode_patches(model: open_clip.CLIP, patches: Tensor, index: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Embeds images from some of their patches.

    patches: (b, n, 3*p*p) normalised pixels, channel first; index: (b, n) row-major places of the patches in
    the grid. Returns unit embeddings (b, d) in float32 and the patch tokens (b, n, w) after each of the last
    two blocks.
    """
    visual = model.visual
    x = F.linear(patches, visual.conv1.weight.flatten(1))  # (b, n, w)
    x = x + F.embedding(index, visual.positional_embedding[1:])
    first = (visual.class_embedding + visual.positional_embedding[0]).to(x.dtype).expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([first, x], dim=1))  # (b, 1+n, w)
    tokens = []
    for block in visual.transformer.resblocks:
        x = transformer_block(block, x)
        tokens.append(x[:, 1:])
    pooled = visual.ln_post(x[:, 0]) @ visual.proj  # (b, d)
    return F.normalize(pooled.float(), dim=-1), tokens[-2:]


def encode_tokens(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Unit text embeddings (b, d) in float32 of token rows (b, length), which may be cut to the longest text.

    The text tower is causal and reads out at the end-of-text token, so columns behind it change nothing.
    """
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]  # (b, length, w)
    mask = torch.full((length, length), -math.inf).triu(1)
    for block in model.transformer.resblocks:
        x = transformer_block(block, x, mask)
    end = x[torch.arange(len(x)), tokens.argmax(dim=-1)]  # (b, w); end-of-text has the highest number
    return F.normalize((model.ln_final(end) @ model.text_projection).float(), dim=-1)
