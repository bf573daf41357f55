"""Windows, whole image and patch tokens from one pass, against open_clip's own blocks run one by one."""

import copy

import pytest
import torch
import torch.nn.functional as F

from zsad_core import encoders
from zsad_core.vit_windows import MultiScaleEmbeddings, embed_scales
from zsad_core.windows import window_indices

BUILDS = {
    "GELU": {},
    "QuickGELU": {"config": {"quick_gelu": True}},
    "another epsilon": {"norm_kwargs": {"eps": 0.1}},
    "LayerScale": {"ls_init_value": 0.1},
    "no first norm": {"no_ln_pre": True},
    "norm after pooling": {"final_ln_after_pool": True},
    "oblong": {"pixels": [24, 32], "patch_size": [8, 4]},
}


@pytest.fixture(scope="module")
def tiny(small_clip):
    """tiny(...): a CLIP of a 3 x 3 grid and 3 blocks."""
    return lambda **changes: small_clip(lively=True, **{"layers": 3} | changes)


def pixels_of(encoder, n):
    return torch.randn(n, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def one_by_one(visual, pixels, sizes):
    """The same in float64: a run of all blocks for each window, on tokens that know their place."""
    visual, pixels = copy.deepcopy(visual).double(), pixels.double()
    layers, tokens = {}, visual._embeds(pixels)
    x = tokens
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        layers[number] = x[:, 1:]
    windows = {}
    for size in sizes:
        members = F.pad(
            window_indices(visual.grid_size, size) + 1, (1, 0)
        )  # the class token before the patches
        classes = [visual.transformer(tokens[:, window])[:, 0] for window in members]
        windows[size] = visual.ln_post(torch.stack(classes, dim=1)) @ visual.proj
    return MultiScaleEmbeddings(visual(pixels), windows, layers)


def assert_same(actual, expected):
    torch.testing.assert_close(vars(actual), vars(expected), check_dtype=False, rtol=1e-4, atol=1e-5)


def window_by_hand(encoder, pixels, window):
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
def test_windows_by_hand(tiny, size):
    encoder = tiny(pixels=[24, 32])
    pixels = pixels_of(encoder, 2)
    windows = window_indices(encoder.grid, size).tolist()
    expected = torch.stack([torch.stack([window_by_hand(encoder, i, w) for w in windows]) for i in pixels])
    actual = encoder.embed_windows(pixels, size).double()
    torch.testing.assert_close(actual, F.normalize(expected, dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", BUILDS.values(), ids=BUILDS)
def test_one_pass_gives_what_open_clip_gives_one_by_one(tiny, changes):
    encoder = tiny(**changes)
    visual, pixels = encoder.model.visual, pixels_of(encoder, 3)
    layers = range(1, encoder.depth + 1)
    actual = embed_scales(visual, pixels, (1, 2, 3), layers=layers)
    assert_same(actual, one_by_one(visual, pixels, (1, 2, 3)))


def test_neither_batches_nor_chunks_nor_other_scales_matter(tiny, monkeypatch):
    """The encoder's embeddings have length 1, its tokens are raw."""
    encoder = tiny()
    pixels = pixels_of(encoder, 5)
    whole = one_by_one(encoder.model.visual, pixels, (2, 3))
    unit = {size: F.normalize(values, dim=-1) for size, values in whole.windows.items()}
    layers = {layer: whole.layers[layer] for layer in (1, 3)}
    expected = MultiScaleEmbeddings(F.normalize(whole.image, dim=-1), unit, layers)
    for numbers in (2**21, 11 * 32, 1):  # one batch; chunks of 11 tokens; a window at a time
        monkeypatch.setitem(encoders._WINDOW_NUMBERS, "cpu", numbers)
        assert_same(encoder.embed_scales(pixels, (2, 3), layers=(1, 3)), expected)
        few = encoder.embed_scales(pixels, (2,), whole=False)
        assert_same(few, MultiScaleEmbeddings(None, {2: unit[2]}, {}))
        only = encoder.embed_scales(pixels, (), whole=False, layers=(3,))
        assert_same(only, MultiScaleEmbeddings(None, {}, {3: layers[3]}))
    none = encoder.embed_scales(pixels[:0], (2,), layers=(1,))
    shapes = none.image.shape, none.windows[2].shape, none.layers[1].shape
    assert shapes == ((0, 16), (0, 4, 16), (0, 9, 32))


def test_other_blocks_are_refused(tiny):
    encoder = tiny(qk_norm=True)
    with pytest.raises(ValueError, match="CustomResidualAttentionBlock"):
        encoder.embed_scales(pixels_of(encoder, 1))


@pytest.mark.parametrize(
    ("vision", "options", "message"),
    [
        ({}, {"sizes": (4,)}, "4 x 4 patches"),
        ({}, {"layers": (4,)}, "blocks of 1 to 3"),
        ({"pool_type": "avg"}, {}, "class token"),
        ({"patch_size": None, "layers": [1, 1, 1, 1]}, {"layers": (1,)}, "ResNet"),
    ],
)
def test_what_cannot_be_embedded(tiny, vision, options, message):
    encoder = tiny(**vision)
    with pytest.raises(ValueError, match=message):
        encoder.embed_scales(pixels_of(encoder, 1), **options)
