"""MaskCLIP, Trans-MM and tiling, with which WinCLIP compares its maps, by hand."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import by_patch, heads_of, mean, pixels_of, refused
from hypothesis import given
from hypothesis import strategies as st
from open_clip import CLIP
from open_clip.modified_resnet import ModifiedResNet
from test_vit_windows import BUILDS

from zsad_core.windows import window_indices
from zsad_papers.baselines import relevance
from zsad_papers.baselines.relevance import maskclip_tokens, trans_mm
from zsad_papers.baselines.tiling import tile_embeddings, tile_numbers, tiling_extractor, tiling_map

KINDS = {name: changes for name, changes in BUILDS.items() if name != "oblong"}


@pytest.fixture
def tiny(small_clip):
    """tiny(...): a CLIP of a 3 x 4 grid and 2 blocks."""
    return lambda **changes: small_clip(lively=True, **{"pixels": [24, 32], "layers": 2} | changes).model


def texts_of(model):
    return torch.randn(2, model.visual.output_dim, generator=torch.Generator().manual_seed(2))


def logits_with(visual, pixels, texts, scale, change):
    """(n, 2): the tower by hand, attention by its matrices; change(block number, A) may alter A."""
    x = visual._embeds(pixels)
    for number, block in enumerate(visual.transformer.resblocks):
        q, k, v = heads_of(block.attn, block.ln_1(x))
        probabilities = change(number, (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))  # (n, heads, l, l)
        x = x + block.ls_1(block.attn.out_proj((probabilities @ v).transpose(1, 2).flatten(2)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    image = visual.ln_post(x[:, 0]) @ visual.proj
    return scale * F.cosine_similarity(image[:, None], texts[None], dim=-1)


def relevance_by_hand(model, pixels, texts, target, scale):
    """(n, tokens, tokens): R of every image, with whole matrices as in the paper; gradients by autograd."""
    result = []
    for image in pixels.split(1):
        seen = {}

        def keep(number, attention, seen=seen):
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


TARGETS = {"logit": lambda y: y[:, 1], "difference": lambda y: y[:, 1] - y[:, 0]}


def patch_by_hand(model, image, patch, residual_and_mlp):
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
def test_maskclip_by_hand(tiny, changes, residual_and_mlp, monkeypatch):
    model = tiny(**changes)
    pixels = pixels_of(model.visual, 3)
    patches = [patch_by_hand(model, x, p, residual_and_mlp) for x in pixels for p in range(12)]
    expected = torch.stack(patches).unflatten(0, (3, 12))
    for tokens in (2048, 26, 1):  # one batch; two images a batch; one
        monkeypatch.setattr(relevance, "TOKENS", tokens)
        actual = maskclip_tokens(model.visual, pixels)[residual_and_mlp]
        assert actual.dtype == torch.float32 and not actual.requires_grad
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_relevance_by_hand(tiny, changes, target, monkeypatch):
    model = tiny(layers=3, **changes)
    pixels, texts = pixels_of(model.visual, 3), texts_of(model)
    scale, precise = model.logit_scale.exp().item(), [x.double() for x in (pixels, texts)]
    whole = relevance_by_hand(model.double(), *precise, TARGETS[target], scale)
    expected = whole[:, 0, 1:].unflatten(1, (3, 4))
    model.float()
    for tokens in (2048, 52, 1):
        monkeypatch.setattr(relevance, "TOKENS", tokens)
        actual = trans_mm(model, pixels, texts, [*TARGETS])[target]
        assert actual.dtype == torch.float32 and not actual.requires_grad
        assert actual.isfinite().all() and (actual >= 0).all() and actual.amax((1, 2)).min() > 0
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_left_as_it_was(tiny, frozen):
    model = tiny().requires_grad_(not frozen)
    before = copy.deepcopy(model.state_dict())
    pixels, texts = pixels_of(model.visual, 2), texts_of(model).requires_grad_()
    expected = trans_mm(model, pixels, 5 * texts)["logit"]  # only their directions count
    maskclip_tokens(model.visual, pixels)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad is not frozen for p in model.parameters())
    assert pixels.grad is None and texts.grad is None
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            actual = trans_mm(model, pixels + 0, texts + 0)["logit"]
            assert not torch.is_grad_enabled()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


def test_wrong_arguments_are_named(tiny):
    model = tiny()
    pixels, texts = pixels_of(model.visual, 1), texts_of(model)
    refused(r"targets=\('loss',\)", trans_mm, model, pixels, texts, ["loss"])
    refused(r"texts are \(2, 8\)", trans_mm, model, pixels, torch.ones(2, 8))
    refused(r"\(n, 3, 24, 32\), got torch.float32", trans_mm, model, pixels.mT, texts)
    refused("got torch.uint8", trans_mm, model, pixels.byte(), texts)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        (None, "not this ModifiedResNet"),
        ({"pool_type": "avg"}, "with a class token"),
        ({"attentional_pool": True}, "with a class token"),
        ({"scale_fc": True}, "got CustomResidualAttentionBlock"),
    ],
)
def test_towers_that_do_not_fit(vision, message):
    usual = {"image_size": [24, 32], "patch_size": 8, "width": 64, "layers": 2}
    resnet = SimpleNamespace(visual=ModifiedResNet((1, 1, 1, 1), 16, 4, 64, 8))
    model = CLIP(16, usual | vision, {"layers": 1}) if vision else resnet
    pixels = torch.zeros(1, 3, 24, 32)
    refused(message, maskclip_tokens, model.visual, pixels)
    refused(message, trans_mm, model, pixels, torch.zeros(2, 16))


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_tiles_cover_the_grid_with_as_few_as_possible(rows, columns, data):
    size = data.draw(st.integers(1, min(rows, columns)))
    numbers = tile_numbers((rows, columns), size)
    members = window_indices((rows, columns), size)[numbers]  # (n_tiles, size²)
    assert members.unique().tolist() == list(range(rows * columns))
    assert len(numbers) == -(-rows // size) * -(-columns // size)
    assert numbers == sorted(set(numbers)) and len(tile_numbers((15, 15), 2)) == 64  # ViT-B/16+
    tops = sorted({first // columns for first in members[:, 0].tolist()})
    assert all(b - a == size for a, b in zip(tops[:-1], tops[1:-1]))  # only the last one is moved back


def test_a_tile_is_cut_out_enlarged_and_encoded(small_clip):
    """By hand for 2 x 2 of 4 x 5 patches: rows start at patch 0 and 2, columns at 0, 2 and 3."""
    encoder = small_clip(pixels=[32, 20], patch_size=[8, 4], layers=2)
    pixels = torch.randn(2, 3, 32, 20, generator=torch.Generator().manual_seed(0))
    found = tile_embeddings(encoder, pixels, 2)
    expected = []
    for y in (0, 2):
        for x in (0, 2, 3):
            cut = pixels[:, :, 8 * y : 8 * (y + 2), 4 * x : 4 * (x + 2)]
            assert cut.shape[2:] == (16, 8)
            enlarged = F.interpolate(cut, (32, 20), mode="bicubic", antialias=True, align_corners=False)
            expected.append(encoder.embed_images(enlarged))
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=1e-4, atol=1e-5)
    extractor, other = tiling_extractor(small_clip(), (2, 3)), tiling_extractor(small_clip(), (2,))
    features = extractor.features(torch.zeros(1, 3, 24, 24))
    shapes = {"image": (1, 16), "tiles/2": (1, 4, 16), "tiles/3": (1, 1, 16)}
    assert {name: tuple(x.shape) for name, x in features.items()} == shapes
    assert extractor.key != other.key and extractor.network.image_size == (24, 24)


@pytest.mark.parametrize("grid", [(3, 3), (4, 4), (3, 5)])
def test_map_by_brute_force(grid):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return 0.05 + 0.9 * torch.rand(*shape, generator=generator).double()

    scores = {size: draw(2, len(tile_numbers(grid, size))) for size in (2, 3)}
    image = draw(2)
    found = tiling_map(scores, image, grid)
    assert found.shape == (2, *grid) and found.dtype == torch.float64
    tiles = {size: window_indices(grid, size)[tile_numbers(grid, size)].tolist() for size in scores}
    for n in range(2):
        scales = [by_patch(values[n].tolist(), tiles[size], grid) for size, values in scores.items()]
        expected = np.apply_along_axis(mean, 0, [np.full(grid, image[n]), *scales])
        np.testing.assert_allclose(found[n], expected, rtol=1e-9)
