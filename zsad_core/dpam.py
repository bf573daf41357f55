"""Diagonally prominent attention, DPAM: local features beside the untouched path (AnomalyCLIP, Sec. 3.3, C).

From block `first` on a local path runs beside the tower's ordinary one. It adds up what each block's
attention would give if the weights were the softmax of v v^T (or q q^T, k k^T) instead of q k^T.

    h_l = h' + MLP_l(LN2_l(h')),  h' = h_{l-1} + Out_l(softmax(q k^T / sqrt(64)) v)       the ordinary path
    d_l = d_{l-1} + Out_l(softmax(v v^T / sqrt(64)) v),  d_{first-1} = h_{first-1}         the local path

The local path has no MLP, and its queries, keys and values come from LN1_l(h_{l-1}), the ordinary path. The
paper says "replace"; its equations leave open what feeds what, and this is what its numbers were made with.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from zsad_core.vit_windows import attend, check_blocks, heads

KINDS = ("qk", "qq", "kk", "vv")  # of attention; "qk" is the tower's own, on the ordinary path


def quarter_blocks(depth: int) -> tuple[int, ...]:
    """The four output blocks: 6, 12, 18 and 24 of 24 (App. A.1), the same parts of another depth.

    >>> quarter_blocks(24), quarter_blocks(6)
    ((6, 12, 18, 24), (2, 3, 5, 6))
    """
    if depth < 1:
        raise ValueError(f"depth={depth}: local features need a Vision Transformer; a ResNet has no blocks")
    return tuple(math.ceil(depth * part / 4) for part in (1, 2, 3, 4))


def attention_kinds(attention: str) -> tuple[str, ...]:
    """The kinds in a name like "vv" or "qq+kk+vv", an ensemble; ValueError for anything else."""
    kinds = tuple(attention.split("+"))
    if not set(kinds) <= set(KINDS) or len(set(kinds)) < len(kinds):
        raise ValueError(f"attention={attention!r}: expected some of {', '.join(KINDS)}, joined by '+'")
    return kinds


def dual_path(
    visual: nn.Module, pixels: Tensor, layers: Sequence[int], kinds: Sequence[str] = ("vv",), first: int = 6
) -> tuple[Tensor, dict[str, dict[int, Tensor]]]:
    """The class token (n, width) of the ordinary path, and {kind: {block: (n, 1 + patches, width)}}.

    visual: open_clip's Vision Transformer. pixels: (n, 3, H, W).
    layers: 1-based blocks, or none, whose tokens are returned as they leave the block, without norm or
        projection. Those below `first` are the ordinary path's.
    first: first block of the local path; 6 of 24 in the paper. "qk" has no local path and ignores it.
    """
    blocks, diagonal = visual.transformer.resblocks, [kind for kind in kinds if kind != "qk"]
    check_blocks(blocks, layers or (1,), first if diagonal else 1)
    x = visual._embeds(pixels)  # (n, t, width)
    local: dict[str, Tensor] = {}
    found: dict[str, dict[int, Tensor]] = {kind: {} for kind in kinds}
    for number, block in enumerate(blocks, start=1):
        q, k, v = heads(block, block.ln_1(x))  # (n, heads, t, 64) each
        for kind in diagonal if number >= first else ():
            same = {"q": q, "k": k, "v": v}[kind[0]]
            local[kind] = local.get(kind, x) + attend(block, same, same, v)
        if number == len(blocks) and not ("qk" in kinds and number in layers):
            x, q = x[:, :1], q[:, :, :1]  # nothing reads the ordinary patch tokens
        x = x + attend(block, q, k, v)
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        if number in layers:
            for kind in kinds:
                found[kind][number] = local.get(kind, x)
    return x[:, 0], found
