"""The two paths of a tower of 24 blocks, against a plain implementation in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import heads_of, pixels_of, refused
from PIL import Image
from torch import nn

from zsad_core.dpam import attention_kinds, dual_path
from zsad_papers.anomalyclip.analysis import attention_weights

LAYERS = (6, 12, 18, 24)


@pytest.fixture(scope="module")
def load(small_clip):
    """load(image_size, ...): a CLIP with 24 blocks and 2 x 2 patches."""
    own = {"lively": True, "pixels": 28, "patch_size": 14, "width": 64, "layers": 24, "mlp_ratio": 2.0}
    config = {"embed_dim": 32}
    return lambda image_size=None, **changes: small_clip(0, image_size, config=config, **own | changes)


@pytest.fixture(scope="module")
def encoder(load):
    return load()


def plain(encoder, pixels, kind="vv", first=6):
    """(h_0 ... h_L, u_1 ... u_L, attention weights of `kind`) in float64, from the formulas of Sec. 3.3."""
    visual = copy.deepcopy(encoder.model.visual).double()
    h = [visual._embeds(pixels.double())]
    u, weights = [], []
    for block in visual.transformer.resblocks:
        z = F.layer_norm(h[-1], h[-1].shape[-1:], block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
        q, k, v = heads_of(block.attn, z)
        parts, out = {"q": q, "k": k, "v": v}, block.attn.out_proj
        shares, mixed = {}, {}
        for name in {kind, "qk"}:
            scores = torch.einsum("nhsd,nhtd->nhst", parts[name[0]], parts[name[1]])
            shares[name] = (scores / math.sqrt(q.shape[-1])).softmax(-1)
            heads_joined = torch.einsum("nhst,nhtd->nshd", shares[name], v).flatten(2)
            mixed[name] = heads_joined @ out.weight.T + out.bias
        weights.append(shares[kind])
        u.append(mixed[kind])
        x = h[-1] + mixed["qk"]
        h.append(x + block.mlp(block.ln_2(x)))
    return h, u, weights


@pytest.mark.parametrize("kind", ["vv", "qq", "kk"])
def test_local_path_is_the_residual_sum_of_the_formulas(encoder, kind):
    pixels = pixels_of(encoder)
    h, u, _ = plain(encoder, pixels, kind)
    class_token, tokens = dual_path(encoder.model.visual, pixels, (3, *LAYERS), (kind,))
    expected = {layer: h[5] + sum(u[5:layer]) for layer in LAYERS}  # d_24 = h_5 + u_6 + ... + u_24
    expected[3] = h[3]  # below the first block there is no second path
    close = {"rtol": 1e-3, "atol": 1e-3, "check_dtype": False}
    torch.testing.assert_close(class_token, h[24][:, 0], **close)
    torch.testing.assert_close(tokens[kind], expected, **close)
    ordinary = dual_path(encoder.model.visual, pixels, LAYERS, (kind, "qk"))[1]["qk"]
    torch.testing.assert_close(ordinary, {layer: h[layer] for layer in LAYERS}, **close)
    maps = [F.normalize(tokens[kind][layer][:, 1:], dim=-1) for layer in LAYERS]
    for one, other in zip(maps, maps[1:]):
        assert (one - other).abs().max() > 0.01  # the code before April 2025 had four times the same


def test_features_are_projected_and_only_local_ones_see_the_last_norm(load):
    encoder = load()
    visual, pixels = encoder.model.visual, pixels_of(encoder)
    h, u, _ = plain(encoder, pixels)
    before = encoder.embed_glocal(pixels, (24,))
    normed = visual.ln_post((h[5] + sum(u[5:]))[:, 1:].float()) @ visual.proj
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(before[1][24], F.normalize(normed, dim=-1), **close)
    torch.testing.assert_close(before[0], F.normalize(h[24][:, 0].float() @ visual.proj, dim=-1), **close)
    torch.testing.assert_close(before[0], encoder.embed_images(pixels, final_norm=False))
    with_norm, _ = encoder.embed_glocal(pixels, (24,), final_norm=True)
    torch.testing.assert_close(with_norm, encoder.embed_images(pixels))
    torch.testing.assert_close(encoder.embed_patches(pixels, (24,), "vv"), before[1])
    usual = {24: encoder.project_tokens(h[24][:, 1:].float())}
    torch.testing.assert_close(encoder.embed_patches(pixels, (24,), normalize=False), usual, **close)
    visual.ln_post.weight.mul_(torch.linspace(0.1, 3, 64))
    after = encoder.embed_glocal(pixels, (24,))
    assert torch.equal(after[0], before[0])
    assert (after[1][24] - before[1][24]).abs().max() > 0.01
    assert (encoder.embed_glocal(pixels, (24,), final_norm=True)[0] - with_norm).abs().max() > 0.01


def test_attention_weights_are_those_of_each_block(encoder):
    pixels = pixels_of(encoder)
    blocks = list(attention_weights(encoder, pixels))
    for kind in ("qk", "vv"):
        _, _, weights = plain(encoder, pixels, kind)
        for number, (block, expected) in enumerate(zip(blocks, weights, strict=True), start=1):
            close = {"atol": 1e-4, "rtol": 1e-4, "msg": f"block {number}"}
            torch.testing.assert_close(block[kind].double(), expected, **close)
    for block in blocks:
        torch.testing.assert_close(block["qq"].sum(-1), torch.ones(3, 4, 5))


def test_positions_are_resized_bilinear_and_the_class_token_keeps_its_own(load):
    small, large = load(), load(image_size=70)
    assert (large.image_size, large.grid) == ((70, 70), (5, 5))
    assert large.model_id == f"{small.model_id}-70px" and load(image_size=28).model_id == small.model_id
    assert large.preprocess(Image.new("RGB", (90, 40))).shape == (3, 70, 70)
    before, after = (e.model.visual.positional_embedding for e in (small, large))
    assert torch.equal(after[0], before[0])
    grid = before[1:].reshape(2, 2, 64).permute(2, 0, 1)[None]
    expected = F.interpolate(grid, (5, 5), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(after[1:], expected.reshape(25, 64))
    assert large.embed_patches(pixels_of(large), (6,), "vv")[6].shape == (3, 25, 32)


def test_what_is_refused(load, encoder, small_resnet):
    pixels = pixels_of(encoder, 1)
    for layers, first in (((0,), 6), ((25,), 6), ((24,), 0), ((24,), 25)):
        refused("blocks of 1 to 24", encoder.embed_patches, pixels, layers, "vv", first)
    for attention in ("xx", "vv+vv"):
        refused("qk, qq, kk, vv", attention_kinds, attention)
    refused("class token", small_resnet.embed_patches, pixels_of(small_resnet, 1), (1,), "vv", 1)
    for image_size in (29, 0):
        refused("multiple of the patch edge, 14", load, image_size)
    shallow = load(layers=5)
    assert shallow.embed_patches(pixels, (3,))[3].shape == (1, 4, 32)  # "qk" needs no first block
    shallow.model.visual.transformer.resblocks[4] = nn.Identity()
    refused("ResidualAttentionBlock .*got Identity", shallow.embed_patches, pixels, (5,), "vv", 2)
