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
from zsad_core.vit_windows import MultiScaleEmbeddings, embed_scales, plain_windows, prepare
from zsad_core.windows import window_indices

VISION = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
PLAIN = {
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
    windows = {size: plain_windows(visual, pixels, size) for size in sizes}
    layers, x = {}, visual._embeds(pixels)
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        layers[number] = x[:, 1:]
    return MultiScaleEmbeddings(visual(pixels), windows, layers)


def assert_same(actual: MultiScaleEmbeddings, expected: MultiScaleEmbeddings, **tolerance: float) -> None:
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(vars(actual), vars(expected), check_dtype=False, **tolerance)


@pytest.mark.parametrize("changes", PLAIN.values(), ids=PLAIN)
def test_one_pass_gives_what_open_clip_gives_one_by_one(tiny: Callable, changes: dict) -> None:
    encoder = tiny(**changes)
    visual, pixels = encoder.model.visual, pixels_of(encoder, 3)
    depth = len(visual.transformer.resblocks)
    expected = one_by_one(visual, pixels, (1, 2, 3))
    actual = embed_scales(
        visual, prepare(visual, torch.float32), pixels, (1, 2, 3), layers=range(1, depth + 1)
    )
    assert_same(actual, expected)
    torch.testing.assert_close(actual.image, encoder.embed_images(pixels, normalize=False))
    own = visual.forward_intermediates(pixels, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close([*actual.layers.values()], own["image_intermediates"], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error")  # of products that do not fit their buffers
def test_neither_chunks_nor_batches_nor_what_else_is_asked_for_matter(tiny: Callable) -> None:
    encoder = tiny()
    visual, pixels = encoder.model.visual, pixels_of(encoder, 5)
    blocks = prepare(visual, torch.float32)
    expected = embed_scales(visual, blocks, pixels, (3, 1, 2), layers=(1, 3))
    for chunk in (1, 11, 23, 10**6):  # one sequence, whatever its length; 11 tokens do not divide into fives
        found = embed_scales(visual, blocks, pixels, (3, 1, 2), layers=(1, 3), chunk_tokens=chunk)
        assert_same(found, expected, rtol=1e-5, atol=1e-6)
    for i in range(5):
        alone = embed_scales(visual, blocks, pixels[i : i + 1], (3, 1, 2), layers=(1, 3))
        assert_same(
            alone,
            MultiScaleEmbeddings(
                expected.image[i : i + 1],
                {size: values[i : i + 1] for size, values in expected.windows.items()},
                {layer: values[i : i + 1] for layer, values in expected.layers.items()},
            ),
            rtol=1e-5,
            atol=1e-6,
        )
    only = embed_scales(visual, blocks, pixels, (), whole=False, layers=(3,))
    assert only.image is None and only.windows == {}
    torch.testing.assert_close(only.layers, {3: expected.layers[3]}, rtol=1e-5, atol=1e-6)
    few = embed_scales(visual, blocks, pixels, (2,), whole=False)
    assert few.image is None and few.layers == {}
    torch.testing.assert_close(few.windows, {2: expected.windows[2]}, rtol=1e-5, atol=1e-6)


def test_a_window_of_all_patches_is_the_whole_image(tiny: Callable) -> None:
    encoder = tiny()
    scales = encoder.embed_scales(pixels_of(encoder, 2), (3,))
    torch.testing.assert_close(scales.windows[3][:, 0], scales.image)


def test_windows_differ_from_each_other_and_see_nothing_outside(tiny: Callable) -> None:
    """Were attention across windows, not within them, all would be equal, as in some public code."""
    encoder = tiny(image_size=40)  # 5 x 5 patches
    pixels = pixels_of(encoder, 1)
    for size in (2, 3):
        before = encoder.embed_windows(pixels, size)[0]  # (n_windows, d)
        assert before.std(0).min() > 0.01
        distances = torch.cdist(before, before) + torch.eye(len(before))
        assert distances.min() > 0.05
        windows = window_indices(encoder.grid, size)
        for patch in (0, 7, 24):
            changed = pixels.clone()
            row, column = divmod(patch, 5)
            changed[..., row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
            moved = (encoder.embed_windows(changed, size)[0] - before).abs().amax(1)  # (n_windows,)
            sees = (windows == patch).any(1)
            assert moved[sees].min() > 1e-3 and moved[~sees].max() < 1e-6


def test_windows_know_their_place(tiny: Callable) -> None:
    """Positions are those in the image: one content at two places gives two embeddings."""
    encoder = tiny()
    tile = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2)).tile(1, 3, 3)[None]
    windows = encoder.embed_windows(tile, 2)[0]
    assert (windows - windows[0]).norm(dim=1)[1:].min() > 0.05
    encoder.model.visual.positional_embedding[1:] = 0
    windows = encoder.embed_windows(tile, 2)[0]
    torch.testing.assert_close(windows, windows[:1].expand_as(windows))


def test_the_model_stays_as_it_was(tiny: Callable) -> None:
    encoder = tiny()
    visual, pixels = encoder.model.visual, pixels_of(encoder, 2).requires_grad_()
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    given = pixels.detach().clone()
    for _ in range(2):
        scales = encoder.embed_scales(pixels, (2, 3), layers=(2,))
    tensors = [scales.image, *scales.windows.values(), *scales.layers.values()]
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in tensors)
    torch.testing.assert_close(encoder.model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(pixels.detach(), given, rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.model.modules())
    attention = visual.transformer.resblocks[0].attn
    assert prepare(visual, torch.float32)[0].qkv.data_ptr() == attention.in_proj_weight.data_ptr()  # no copy


@pytest.mark.parametrize("changes", [{}, {"ls_init_value": 0.1}])
def test_bfloat16_is_close_to_float32(tiny: Callable, changes: dict) -> None:
    encoder = tiny(**changes)
    visual, pixels = encoder.model.visual, pixels_of(encoder, 3)
    exact, fast = (
        embed_scales(visual, prepare(visual, dtype), pixels, (2,), layers=(3,))
        for dtype in (torch.float32, torch.bfloat16)
    )
    for a, b in ((exact.image, fast.image), (exact.windows[2], fast.windows[2])):
        cosines = F.cosine_similarity(a, b, dim=-1)
        assert b.dtype == torch.float32 and 0.99 < cosines.min() < 1 - 1e-6
    assert F.cosine_similarity(exact.layers[3], fast.layers[3], dim=-1).min() > 0.99


@pytest.mark.parametrize("changes", [{"block_type": "custom"}, {"qk_norm": True}, {"scale_fc": True}])
def test_other_blocks_are_refused(tiny: Callable, changes: dict) -> None:
    encoder = tiny(**changes)
    message = "need open_clip's ResidualAttentionBlock, got CustomResidualAttentionBlock"
    with pytest.raises(ValueError, match=message):
        encoder.embed_scales(pixels_of(encoder, 1))
    assert encoder.embed_images(pixels_of(encoder, 1)).shape == (1, 16)  # whole images need no windows


# the encoder's methods on top of it


def test_embeddings_have_length_1_and_tokens_are_raw(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny()
    pixels = pixels_of(encoder, 5)
    expected = one_by_one(encoder.model.visual, pixels, (2, 3))
    layers = {layer: expected.layers[layer] for layer in (1, 3)}
    unit = {size: F.normalize(values, dim=-1) for size, values in expected.windows.items()}
    for numbers in (2**21, 1):  # all images in one batch; one image, one window at a time
        monkeypatch.setitem(encoders._WINDOW_NUMBERS, "cpu", numbers)
        found = encoder.embed_scales(pixels, (2, 3), layers=(1, 3))
        assert_same(found, MultiScaleEmbeddings(F.normalize(expected.image, dim=-1), unit, layers))
        torch.testing.assert_close(encoder.embed_windows(pixels, 2), found.windows[2])
    assert encoder.embed_scales(pixels, (2,), whole=False).image is None


def test_projected_tokens_are_open_clips(tiny: Callable) -> None:
    """Last norm, then projection: where the class token goes too."""
    encoder = tiny(output_tokens=True)
    visual, pixels = encoder.model.visual, pixels_of(encoder, 2)
    _, normed = visual(pixels)  # (n, patches, width), after the last norm, not projected
    last = encoder.embed_scales(pixels, (), layers=(3,)).layers[3]
    torch.testing.assert_close(encoder.project_tokens(last), normed @ visual.proj, rtol=1e-4, atol=1e-5)


def test_no_images(tiny: Callable) -> None:
    scales = tiny().embed_scales(torch.empty(0, 3, 24, 24), (2,), layers=(1,))
    shapes = scales.image.shape, scales.windows[2].shape, scales.layers[1].shape
    assert shapes == ((0, 16), (0, 4, 16), (0, 9, 32))


@pytest.mark.parametrize(
    ("vision", "options", "message"),
    [
        ({}, {"sizes": (4,)}, "4 x 4 patches does not fit a grid of 3 x 3"),
        ({}, {"sizes": (0,)}, "0 x 0 patches does not fit"),
        ({}, {"layers": (4,)}, r"layers=\(4,\): tiny@\w+ has blocks 1 to 3"),
        ({}, {"layers": (0,)}, "has blocks 1 to 3"),
        ({"pool_type": "avg"}, {}, "reads the class token"),
    ],
)
def test_what_cannot_be_embedded(tiny: Callable, vision: dict, options: dict, message: str) -> None:
    encoder = tiny(**vision)
    with pytest.raises(ValueError, match=message):
        encoder.embed_scales(pixels_of(encoder, 1), **options)
