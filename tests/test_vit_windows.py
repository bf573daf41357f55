"""Windows, whole image and patch tokens from one pass, against open_clip's own blocks run one by one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core import encoders
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.vit_windows import MultiScaleEmbeddings, embed_scales, plain_windows
from zsad_core.windows import window_indices

VISION = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
BUILDS = {
    "GELU": {},
    "QuickGELU": {"quick_gelu": True},
    "GELU by tanh": {"act_kwargs": {"approximate": "tanh"}},
    "LayerScale": {"ls_init_value": 0.1},
    "another epsilon": {"norm_kwargs": {"eps": 0.1}},
    "no first norm": {"no_ln_pre": True},
    "norm after pooling": {"final_ln_after_pool": True},
    "one block": {"layers": 1},
    "oblong": {"image_size": [24, 32], "patch_size": [8, 4]},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ClipEncoder]:
    """tiny(...): a CLIP of a 3 x 3 grid. Fresh biases are 0 and fresh norms 1, here they are random."""
    path = tmp_path_factory.mktemp("configs") / "tiny.json"

    def load(quick_gelu: bool = False, **vision: Any) -> ClipEncoder:
        text = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 49408}
        config = {"embed_dim": 16, "vision_cfg": VISION | vision, "text_cfg": text, "quick_gelu": quick_gelu}
        path.write_text(json.dumps(config))
        encoder = load_encoder(path, "random", device="cpu")
        generator = torch.Generator().manual_seed(0)
        for name, parameter in encoder.model.visual.named_parameters():
            if parameter.ndim == 1:  # biases, norms, LayerScale
                around = 0 if name.endswith(("bias", "embedding")) else 1
                parameter.copy_(around + 0.3 * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("in_proj_weight"):
                parameter.mul_(3)  # untrained attention is almost even and would hide mistakes
        return encoder

    return load


def pixels_of(encoder: ClipEncoder, n: int) -> Tensor:
    return torch.randn(n, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def one_by_one(visual: nn.Module, pixels: Tensor, sizes: tuple[int, ...]) -> MultiScaleEmbeddings:
    """The same in float64: a run of all blocks for each window, on tokens that know their place."""
    visual, pixels = copy.deepcopy(visual).double(), pixels.double()
    layers, x = {}, visual._embeds(pixels)
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        layers[number] = x[:, 1:]
    windows = {size: plain_windows(visual, pixels, size) for size in sizes}
    return MultiScaleEmbeddings(visual(pixels), windows, layers)


def assert_same(actual: MultiScaleEmbeddings, expected: MultiScaleEmbeddings) -> None:
    torch.testing.assert_close(vars(actual), vars(expected), check_dtype=False, rtol=1e-4, atol=1e-5)


def window_by_hand(encoder: ClipEncoder, pixels: Tensor, window: list[int]) -> Tensor:
    """(d,) of one image (3, H, W) and one window, step by step in float64."""
    visual = copy.deepcopy(encoder.model.visual).double()
    height, width = encoder.patch_size
    tokens = [visual.class_embedding + visual.positional_embedding[0]]
    for patch in window:
        row, column = divmod(patch, encoder.grid[1])
        content = pixels[:, row * height : (row + 1) * height, column * width : (column + 1) * width].double()
        tokens.append((visual.conv1.weight * content).sum((1, 2, 3)) + visual.positional_embedding[1 + patch])
    x = visual.ln_pre(torch.stack(tokens))[None]
    for block in visual.transformer.resblocks:
        x = block(x)
    return visual.ln_post(x[0, 0]) @ visual.proj


@pytest.mark.parametrize("size", [1, 2, 3])
def test_windows_by_hand(tiny: Callable, size: int) -> None:
    encoder = tiny(image_size=[24, 32])
    pixels = pixels_of(encoder, 2)
    windows = window_indices(encoder.grid, size).tolist()
    expected = torch.stack([torch.stack([window_by_hand(encoder, i, w) for w in windows]) for i in pixels])
    plain = plain_windows(encoder.model.visual, pixels, size).double()
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-5)
    actual = encoder.embed_windows(pixels, size).double()
    torch.testing.assert_close(actual, F.normalize(expected, dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", BUILDS.values(), ids=BUILDS)
def test_one_pass_gives_what_open_clip_gives_one_by_one(tiny: Callable, changes: dict) -> None:
    encoder = tiny(**changes)
    visual, pixels = encoder.model.visual, pixels_of(encoder, 3)
    layers = range(1, encoder.depth + 1)
    actual = embed_scales(visual, visual.transformer.resblocks, pixels, (1, 2, 3), layers=layers)
    assert_same(actual, one_by_one(visual, pixels, (1, 2, 3)))
    if encoder.grid == (3, 3):  # a window of all patches is the whole image
        torch.testing.assert_close(actual.windows[3][:, 0], actual.image)


def test_neither_batches_nor_chunks_nor_other_scales_matter(
    tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder's embeddings have length 1, its tokens are raw."""
    encoder = tiny()
    pixels = pixels_of(encoder, 5)
    whole = one_by_one(encoder.model.visual, pixels, (2, 3))
    unit = {size: F.normalize(values, dim=-1) for size, values in whole.windows.items()}
    layers = {layer: whole.layers[layer] for layer in (1, 3)}
    expected = MultiScaleEmbeddings(F.normalize(whole.image, dim=-1), unit, layers)
    for numbers in (2**21, 11 * VISION["width"], 1):  # one batch; chunks of 11 tokens; a window at a time
        monkeypatch.setitem(encoders._WINDOW_NUMBERS, "cpu", numbers)
        assert_same(encoder.embed_scales(pixels, (2, 3), layers=(1, 3)), expected)
        few = encoder.embed_scales(pixels, (2,), whole=False)
        assert_same(few, MultiScaleEmbeddings(None, {2: unit[2]}, {}))
        only = encoder.embed_scales(pixels, (), whole=False, layers=(3,))
        assert_same(only, MultiScaleEmbeddings(None, {}, {3: layers[3]}))
    none = encoder.embed_scales(pixels[:0], (2,), layers=(1,))
    assert (none.image.shape, none.windows[2].shape, none.layers[1].shape) == (
        (0, 16),
        (0, 4, 16),
        (0, 9, 32),
    )


def test_windows_differ_from_each_other_and_see_nothing_outside(tiny: Callable) -> None:
    """Were attention across windows, not within them, all would be equal, as in some public code."""
    encoder = tiny(image_size=40)  # 5 x 5 patches
    pixels = pixels_of(encoder, 1)
    before = encoder.embed_windows(pixels, 3)[0]  # (n_windows, d)
    assert (torch.cdist(before, before) + torch.eye(len(before))).min() > 0.05
    for patch in (0, 7, 24):
        changed = pixels.clone()
        row, column = divmod(patch, 5)
        changed[..., row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
        moved = (encoder.embed_windows(changed, 3)[0] - before).abs().amax(1)  # (n_windows,)
        sees = (window_indices(encoder.grid, 3) == patch).any(1)
        assert moved[sees].min() > 1e-3 and moved[~sees].max() < 1e-6


def test_the_model_stays_as_it_was(tiny: Callable) -> None:
    encoder = tiny()
    pixels = pixels_of(encoder, 2).requires_grad_()
    before, given = copy.deepcopy(encoder.model.state_dict()), pixels.detach().clone()
    scales = encoder.embed_scales(pixels, (2, 3), layers=(2,))
    tensors = [scales.image, *scales.windows.values(), *scales.layers.values()]
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in tensors)
    torch.testing.assert_close(encoder.model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(pixels.detach(), given, rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{}, {"ls_init_value": 0.1}])
def test_bfloat16_is_close_to_float32(tiny: Callable, changes: dict) -> None:
    exact, fast = tiny(**changes), tiny(**changes)
    fast.precision = "bf16"  # load_encoder refuses it where it is slow
    exact, fast = (e.embed_scales(pixels_of(e, 3), (2,), layers=(3,)) for e in (exact, fast))
    pairs = (exact.image, fast.image), (exact.windows[2], fast.windows[2]), (exact.layers[3], fast.layers[3])
    for a, b in pairs:
        cosines = F.cosine_similarity(a, b, dim=-1)
        assert b.dtype == torch.float32 and 0.99 < cosines.min() < 1 - 1e-6


@pytest.mark.parametrize("changes", [{"block_type": "custom"}, {"qk_norm": True}, {"scale_fc": True}])
def test_other_blocks_are_refused(tiny: Callable, changes: dict) -> None:
    encoder = tiny(**changes)
    message = r"expected open_clip's ResidualAttentionBlock .*, got CustomResidualAttentionBlock"
    with pytest.raises(ValueError, match=message):
        encoder.embed_scales(pixels_of(encoder, 1))
    assert encoder.embed_images(pixels_of(encoder, 1)).shape == (1, 16)  # whole images need no windows


def test_projected_tokens_are_open_clips(tiny: Callable) -> None:
    """Last norm, then projection: where the class token goes too."""
    encoder = tiny(output_tokens=True)
    visual, pixels = encoder.model.visual, pixels_of(encoder, 2)
    _, normed = visual(pixels)  # (n, patches, width), after the last norm, not projected
    last = encoder.embed_scales(pixels, (), layers=(3,)).layers[3]
    torch.testing.assert_close(encoder.project_tokens(last), normed @ visual.proj, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("vision", "options", "message"),
    [
        ({}, {"sizes": (4,)}, "4 x 4 patches does not fit a grid of 3 x 3"),
        ({}, {"layers": (4,)}, r"layers=\(4,\).*blocks of 1 to 3"),
        ({}, {"layers": (0,)}, r"layers=\(0,\).*blocks of 1 to 3"),
        ({"pool_type": "avg"}, {}, "reads the class token"),
        (
            {"patch_size": None, "layers": [1, 1, 1, 1]},
            {"layers": (1,)},
            "is a ResNet and has no patch tokens",
        ),
    ],
)
def test_what_cannot_be_embedded(tiny: Callable, vision: dict, options: dict, message: str) -> None:
    encoder = tiny(**vision)
    with pytest.raises(ValueError, match=message):
        encoder.embed_scales(pixels_of(encoder, 1), **options)
