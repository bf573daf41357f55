"""Zero-shot maps without windows that WinCLIP compares with (its Table 4): MaskCLIP and Trans-MM."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core.vit_windows import check_blocks, heads, run_block

TOKENS = 2048  # go through the tower at once, half as many with gradients


@torch.no_grad()
def maskclip_tokens(visual: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(n, patches, d) patch tokens in the joint space, not normalised: MaskCLIP (Zhou et al., ECCV 2022).

    In the last block every patch keeps its own value instead of the values that attention gathers:
    out_proj(W_v LN1(x) + b_v), then the final layer norm and the projection. Key smoothing and prompt
    denoising are not part of it. pixels: (n, 3, H, W), preprocessed.
    Returns two kinds, as WinCLIP does not say which it means: of the values alone, as the MaskCLIP in FeatUp
    reads them; and with the block's input added and its MLP passed, as the authors' code does for a ViT.
    """
    _check(visual, pixels)
    *blocks, last = visual.transformer.resblocks
    width, found = last.attn.embed_dim, []
    weight, bias = last.attn.in_proj_weight[-width:], last.attn.in_proj_bias[-width:]  # rows are q, k, v
    for batch in pixels.split(max(1, TOKENS // len(visual.positional_embedding))):
        x = visual._embeds(batch.to(visual.conv1.weight))  # (b, 1 + patches, width)
        for block in blocks:
            x = run_block(block, x)
        x = x[:, 1:]  # no patch sees another one from here on
        values = last.ls_1(last.attn.out_proj(F.linear(last.ln_1(x), weight, bias)))  # (b, patches, width)
        passed = x + values
        passed = passed + last.ls_2(last.mlp(last.ln_2(passed)))
        found.append([(visual.ln_post(own) @ visual.proj).float().cpu() for own in (values, passed)])
    return tuple(map(torch.cat, zip(*found)))


def trans_mm(
    model: nn.Module, pixels: Tensor, texts: Tensor, targets: Sequence[str] = ("logit",)
) -> dict[str, Tensor]:
    """By target (n, rows, columns) relevance of patches, finite, >= 0: Trans-MM (Chefer et al., ICCV 2021).

    R = I; for each block R = R + A' R with A' = mean over heads of relu(dy/dA * A), A the block's attention
    probabilities and y the target (Eq. 5 and 6); the map is the class token's row of R over the patches.

    pixels: (n, 3, H, W), preprocessed. texts: (2, d), normal first; normalised here.
    targets: "logit" takes as y the logit of the anomalous side, as in the authors' CLIP example; "difference"
        subtracts that of the normal side. WinCLIP does not say. Logits have the model's own temperature.
    """
    visual = model.visual
    _check(visual, pixels)
    if texts.shape != (2, visual.output_dim):
        expected = f"(2, {visual.output_dim}), the mean of the normal prompts and that of the anomalous ones"
        raise ValueError(f"texts are {tuple(texts.shape)}; expected {expected}")
    if not set(targets) <= {"logit", "difference"}:
        raise ValueError(f"targets={tuple(targets)}: expected some of logit, difference")
    maps = []
    with torch.inference_mode(False), torch.enable_grad():
        texts = F.normalize(texts.detach().to(visual.conv1.weight), dim=-1)  # (2, d)
        for batch in pixels.split(max(1, TOKENS // 2 // len(visual.positional_embedding))):
            embeddings, attentions = encode_with_attention(visual, batch.detach())
            logits = model.logit_scale.exp().item() * F.normalize(embeddings, dim=-1) @ texts.T  # (b, 2)
            y = {"logit": logits[:, 1], "difference": logits[:, 1] - logits[:, 0]}  # (b,) each
            maps.append([_class_row(attentions, y[target]) for target in targets])
            del embeddings, attentions, logits, y  # and with them the graph: only one at a time
    maps = [torch.cat(own).unflatten(1, visual.grid_size).float().cpu() for own in zip(*maps)]
    return dict(zip(targets, maps, strict=True))


def encode_with_attention(visual: nn.Module, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(n, d) embeddings, not normalised, and the attention probabilities of each block: (n, heads, tokens,
    tokens) and, where gradients are enabled, part of the embeddings' graph."""
    with torch.no_grad():
        x = visual._embeds(pixels.to(visual.conv1.weight))  # (n, 1 + patches, width)
    x.requires_grad_(torch.is_grad_enabled())  # autograd records the steps, despite frozen weights
    attentions = []
    for block in visual.transformer.resblocks:
        q, k, v = heads(block, block.ln_1(x))  # (n, heads, l, width / heads) each
        attentions.append((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))  # (n, heads, l, l)
        gathered = (attentions[-1] @ v).transpose(1, 2).flatten(2)  # (n, l, width)
        x = x + block.ls_1(block.attn.out_proj(gathered))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return visual.ln_post(x[:, 0]) @ visual.proj, attentions


def _class_row(attentions: list[Tensor], y: Tensor) -> Tensor:
    """(n, patches): the class token's row of (I + A'_last) ... (I + A'_first), its own column left out."""
    # an image's y depends on its own attention only; other targets read the same graph
    gradients = torch.autograd.grad(y.sum(), attentions, retain_graph=True)
    row = torch.zeros_like(attentions[0][:, 0, :1])  # (n, 1, tokens)
    row[..., 0] = 1
    for attention, gradient in zip(reversed(attentions), reversed(gradients)):
        row = row + row @ (gradient * attention.detach()).relu().mean(1)
    return row[:, 0, 1:]


def _check(visual: nn.Module, pixels: Tensor) -> None:
    """ValueError unless the tower has a class token and plain blocks, and the pixels are its images."""
    from open_clip.transformer import VisionTransformer  # here: it takes seconds, and kept records need none

    if not isinstance(visual, VisionTransformer) or visual.pool_type != "tok" or visual.attn_pool is not None:
        expected = "a VisionTransformer with a class token, such as ViT-B-16-plus-240"
        raise ValueError(f"MaskCLIP and Trans-MM need {expected}, not this {type(visual).__name__}")
    check_blocks(visual.transformer.resblocks, (1,), 1)
    height, width = visual.image_size
    if pixels.shape[1:] != (3, height, width) or not pixels.is_floating_point():
        found = f"{pixels.dtype} {tuple(pixels.shape)}; stack what encoder.preprocess(image) returns"
        raise ValueError(f"expected images as a float tensor (n, 3, {height}, {width}), got {found}")
