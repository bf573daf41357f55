from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from zsad_papers.baselines import relevance
from zsad_papers.baselines.relevance import _class_row, encode_with_attention, maskclip_tokens, trans_mm

VISION = {"image_size": [24, 32], "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 50}
KINDS = {
    "CLIP": {},
    "QuickGELU": {"quick_gelu": True},
    "LayerScale": {"vision_cfg": {"ls_init_value": 0.3}},
    "final norm after pooling": {"vision_cfg": {"final_ln_after_pool": True}},
    "no first norm": {"vision_cfg": {"no_ln_pre": True}},
}


def tiny(frozen: bool = True, **changes: Any) -> nn.Module:
    """A CLIP of a 3 x 4 grid with random weights, biases and norms; keywords are merged into its config."""
    vision = VISION | changes.pop("vision_cfg", {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**{"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT} | changes)
        for name, parameter in model.visual.named_parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=float("ln" in name and "weight" in name), std=0.3)
    return model.eval().requires_grad_(not frozen)


def pixels_of(model: nn.Module, n: int) -> Tensor:
    return torch.randn(n, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(1))


def texts_of(model: nn.Module) -> Tensor:
    return torch.randn(2, model.visual.output_dim, generator=torch.Generator().manual_seed(2))


def logits_with(visual: nn.Module, pixels: Tensor, texts: Tensor, scale: float, change: Callable) -> Tensor:
    """(n, 2): the tower by hand, nn.MultiheadAttention head by head; change(block number, A) may alter A."""
    x = visual._embeds(pixels)
    for number, block in enumerate(visual.transformer.resblocks):
        attention, heads = block.attn, block.attn.num_heads
        y, size = block.ln_1(x), attention.embed_dim // heads
        w, b = attention.in_proj_weight, attention.in_proj_bias
        probabilities, values = [], []
        for head in range(heads):
            q, k, v = (
                y @ w[start : start + size].T + b[start : start + size]
                for start in (part * attention.embed_dim + head * size for part in range(3))
            )
            probabilities.append(torch.softmax(torch.einsum("nid,njd->nij", q, k) / size**0.5, -1))
            values.append(v)
        probabilities = change(number, torch.stack(probabilities, 1))  # (n, heads, l, l)
        x = x + block.ls_1(
            attention.out_proj(torch.cat([probabilities[:, h] @ values[h] for h in range(heads)], -1))
        )
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    image = visual.ln_post(x[:, 0]) @ visual.proj
    return scale * F.cosine_similarity(image[:, None], texts[None], dim=-1)


def relevance_by_hand(
    model: nn.Module, pixels: Tensor, texts: Tensor, target: Callable, scale: float
) -> Tensor:
    """(n, tokens, tokens): R of every image, with whole matrices as in the paper; gradients by autograd."""
    result = []
    for image in pixels.split(1):
        seen = {}

        def keep(number: int, attention: Tensor, seen: dict = seen) -> Tensor:
            seen[number] = attention.detach().requires_grad_()
            return attention + seen[number] - seen[number].detach()

        y = target(logits_with(model.visual, image, texts, scale, keep))
        gradients = torch.autograd.grad(y.sum(), list(seen.values()))
        relevance = torch.eye(seen[0].shape[-1], dtype=pixels.dtype)
        for number in range(len(seen)):
            weighted = (gradients[number] * seen[number].detach())[0].clamp(min=0).mean(0)
            relevance = relevance + weighted @ relevance
        result.append(relevance)
    return torch.stack(result)


TARGETS = {
    "logit": lambda logits: logits[:, 1],
    "difference": lambda logits: logits[:, 1] - logits[:, 0],
}


# MaskCLIP


def patch_by_hand(model: nn.Module, image: Tensor, patch: int, residual_and_mlp: bool) -> Tensor:
    """(d,) of one patch in float64."""
    visual = copy.deepcopy(model.visual).double()
    x = visual._embeds(image[None].double())
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    x, last = x[0, 1 + patch], visual.transformer.resblocks[-1]
    value_weight, value_bias = last.attn.in_proj_weight.chunk(3)[2], last.attn.in_proj_bias.chunk(3)[2]
    value = last.ls_1(last.attn.out_proj.weight @ (value_weight @ last.ln_1(x) + value_bias))
    value = value + last.ls_1(last.attn.out_proj.bias)
    if residual_and_mlp:
        value = value + x
        value = value + last.ls_2(last.mlp(last.ln_2(value)))
    return visual.ln_post(value) @ visual.proj


@pytest.mark.parametrize("residual_and_mlp", [False, True])
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_maskclip_by_hand(changes: dict, residual_and_mlp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(**changes)
    pixels = pixels_of(model, 3)
    expected = torch.stack(
        [torch.stack([patch_by_hand(model, x, p, residual_and_mlp) for p in range(12)]) for x in pixels]
    )
    for tokens in (2048, 26, 1):  # one batch; two images a batch; one
        monkeypatch.setattr(relevance, "TOKENS", tokens)
        actual = maskclip_tokens(model.visual, pixels, residual_and_mlp=residual_and_mlp)
        assert actual.dtype == torch.float32 and not actual.requires_grad
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


def test_maskclip_is_the_tower_whose_last_attention_looks_at_itself() -> None:
    model = tiny()
    pixels = pixels_of(model, 2)
    last = model.visual.transformer.resblocks[-1]
    x = model.visual._embeds(pixels)
    x = model.visual.transformer.resblocks[0](x)
    itself = torch.full((13, 13), -torch.inf).fill_diagonal_(0)
    expected = model.visual.ln_post(last(x, attn_mask=itself))[:, 1:] @ model.visual.proj
    actual = maskclip_tokens(model.visual, pixels, residual_and_mlp=True)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_tower_of_one_block_keeps_patches_apart() -> None:
    model = tiny(vision_cfg={"layers": 1})
    one = pixels_of(model, 1)
    other = one.clone()
    other[..., 16:24, 8:16] += 1  # row 2, column 1 of 3 x 4 patches
    first, second = (maskclip_tokens(model.visual, x).reshape(3, 4, -1) for x in (one, other))
    changed = (first != second).any(-1)
    assert changed.nonzero().tolist() == [[2, 1]]


# Trans-MM


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_explicit_forward_is_open_clips(changes: dict) -> None:
    model = tiny(**changes)
    pixels = pixels_of(model, 3)
    expected = model.encode_image(pixels)
    embeddings, attentions = encode_with_attention(model.visual, pixels)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)
    assert [a.shape for a in attentions] == [(3, 2, 13, 13)] * 2
    for attention in attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2, 13))


def test_gradients_are_finite_differences() -> None:
    model = tiny().double()
    pixels, texts = pixels_of(model, 1).double(), texts_of(model).double()
    embeddings, attentions = encode_with_attention(model.visual, pixels)
    logit = F.cosine_similarity(embeddings, texts[1:])
    gradients = torch.autograd.grad(logit.sum(), attentions)
    step, draw = 1e-5, np.random.default_rng(0)
    for block, gradient in enumerate(gradients):
        for _ in range(12):
            place = (0, draw.integers(2), draw.integers(13) if block == 0 else 0, draw.integers(13))
            values = []
            for sign in (1, -1):

                def nudge(number: int, attention: Tensor, sign: int = sign, place: tuple = place) -> Tensor:
                    attention = attention.clone()
                    attention[place] += sign * step * (number == block)  # noqa: B023
                    return attention

                values.append(logits_with(model.visual, pixels, texts, 1, nudge)[0, 1])
            slope = (values[0] - values[1]) / (2 * step)
            torch.testing.assert_close(gradient[place], slope, rtol=1e-6, atol=1e-9)
    assert (gradients[-1][:, :, 1:] == 0).all()  # after the last block only the class token is read


@pytest.mark.parametrize("target", TARGETS)
def test_relevance_by_hand(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(vision_cfg={"layers": 3})
    pixels, texts = pixels_of(model, 3), texts_of(model)
    scale, precise = model.logit_scale.exp().item(), [x.double() for x in (pixels, texts)]
    whole = relevance_by_hand(model.double(), *precise, TARGETS[target], scale)
    expected = whole[:, 0, 1:].unflatten(1, (3, 4))
    model.float()
    for tokens in (2048, 52, 1):
        monkeypatch.setattr(relevance, "TOKENS", tokens)
        actual = trans_mm(model, pixels, texts, target=target)
        assert actual.dtype == torch.float32 and not actual.requires_grad
        assert actual.isfinite().all() and (actual >= 0).all() and actual.amax((1, 2)).min() > 0
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-7)


def test_one_block_gives_identity_plus_weighted_attention() -> None:
    model = tiny(vision_cfg={"layers": 1})
    pixels, texts = pixels_of(model, 1), texts_of(model)
    embeddings, (attention,) = encode_with_attention(model.visual, pixels)
    logit = model.logit_scale.exp() * F.cosine_similarity(embeddings, texts[1:])
    (gradient,) = torch.autograd.grad(logit.sum(), attention)
    expected = torch.eye(13)
    for row in range(13):
        for column in range(13):
            products = [(gradient * attention)[0, head, row, column].item() for head in range(2)]
            expected[row, column] += sum(max(product, 0) for product in products) / 2
    actual = trans_mm(model, pixels, texts)
    torch.testing.assert_close(actual, expected[:1, 1:].reshape(1, 3, 4))


def test_the_row_is_that_of_the_whole_matrix() -> None:
    draw = torch.Generator().manual_seed(0)
    attentions = [torch.rand(2, 3, 5, 5, generator=draw).requires_grad_() for _ in range(4)]
    weights = [torch.randn(2, 3, 5, 5, generator=draw) for _ in range(4)]
    y = sum((a * w).sum((1, 2, 3)) for a, w in zip(attentions, weights))
    relevance = torch.eye(5).expand(2, 5, 5)
    for a, w in zip(attentions, weights):
        relevance = relevance + (w * a.detach()).clamp(min=0).mean(1) @ relevance
    torch.testing.assert_close(_class_row(attentions, y), relevance[:, 0, 1:])


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(4))
def test_the_patch_that_matters_is_where_it_is(row: int, column: int) -> None:
    """A bright patch has its own channel; the class token attends to it, the anomalous text points to it."""
    model = tiny(vision_cfg={"layers": 1, "width": 16})
    visual, block = model.visual, model.visual.transformer.resblocks[0]
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.zero_()
        for norm in (visual.ln_pre, visual.ln_post, block.ln_1, block.ln_2):
            norm.weight.fill_(1)
        visual.class_embedding[0] = 1
        visual.conv1.weight[1] = 1  # a bright patch has channel 1
        block.attn.in_proj_weight[:16] = 2 * torch.eye(16).roll(1, 0)  # the class token attends to channel 1
        block.attn.in_proj_weight[16:32] = torch.eye(16)
        block.attn.in_proj_weight[32:] = torch.eye(16)
        block.attn.out_proj.weight.copy_(torch.eye(16))
        visual.proj.copy_(torch.eye(16))
    pixels = torch.zeros(1, 3, 24, 32)
    pixels[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
    texts = torch.eye(16)[:2]  # normal: channel 0; anomalous: channel 1
    found = trans_mm(model, pixels, texts)[0]
    assert divmod(found.argmax().item(), 4) == (row, column)
    assert found[row, column] > 2 * found.flatten().sort().values[-2]


@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_left_as_it_was(frozen: bool) -> None:
    model = tiny(frozen)
    before = copy.deepcopy(model.state_dict())
    pixels, texts = pixels_of(model, 2), texts_of(model).requires_grad_()
    expected = trans_mm(model, pixels, texts)
    maskclip_tokens(model.visual, pixels)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not model.training and not any(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad is not frozen for p in model.parameters())
    assert pixels.grad is None and texts.grad is None and not pixels.requires_grad
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            actual = trans_mm(model, pixels + 0, texts + 0)
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_only_directions_of_texts_count() -> None:
    model = tiny()
    pixels, texts = pixels_of(model, 2), texts_of(model)
    torch.testing.assert_close(
        trans_mm(model, pixels, 5 * texts), trans_mm(model, pixels, texts), rtol=1e-4, atol=1e-7
    )


# what does not fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "loss"}, "target='loss'; expected 'logit' or 'difference'"),
        ({"texts": torch.ones(16)}, r"texts are \(16,\); expected \(2, 16\)"),
        ({"texts": torch.ones(2, 8)}, r"texts are \(2, 8\); expected \(2, 16\)"),
        ({"pixels": torch.ones(1, 3, 32, 24)}, r"\(n, 3, 24, 32\), got torch.float32 \(1, 3, 32, 24\)"),
        ({"pixels": torch.ones(1, 3, 24, 32, dtype=torch.uint8)}, "got torch.uint8"),
    ],
)
def test_wrong_arguments_are_named(options: dict, message: str) -> None:
    model = tiny()
    arguments = {"pixels": pixels_of(model, 1), "texts": texts_of(model)} | options
    with pytest.raises(ValueError, match=message):
        trans_mm(model, **arguments)


@pytest.mark.parametrize(
    ("visual", "name"),
    [
        (ModifiedResNet((1, 1, 1, 1), 16, 4, 64, 8), "ModifiedResNet"),
        (tiny(vision_cfg={"pool_type": "avg"}).visual, "VisionTransformer"),
        (tiny(vision_cfg={"attentional_pool": True, "attn_pooler_heads": 2}).visual, "VisionTransformer"),
        (tiny(vision_cfg={"scale_fc": True}).visual, "VisionTransformer"),
    ],
)
def test_towers_that_do_not_fit(visual: nn.Module, name: str) -> None:
    model = nn.Module()
    model.visual = visual
    message = f"with a class token and plain blocks, not this {name}; choose an architecture"
    with pytest.raises(ValueError, match=message):
        maskclip_tokens(visual, torch.zeros(1, 3, 24, 32))
    with pytest.raises(ValueError, match=message):
        trans_mm(model, torch.zeros(1, 3, 24, 32), torch.zeros(2, 16))
