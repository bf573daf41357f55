"""Windows, whole image and patch tokens from one pass, against open_clip's own blocks run one by one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import pixels_of, refused
from torch import nn

from zsad_core import encoders
from zsad_core.resnet_windows import embed_resnet
from zsad_core.vit_windows import MultiScaleEmbeddings, embed_scales
from zsad_core.windows import window_indices

BUILDS = {
    "GELU": {},
    "QuickGELU": {"config": {"quick_gelu": True}},
    "LayerScale": {"ls_init_value": 0.1},
    "oblong": {"pixels": [24, 32], "patch_size": [8, 4]},
}


@pytest.fixture(scope="module")
def tiny(small_clip):
    """tiny(...): a CLIP of a 3 x 3 grid and 3 blocks."""
    return lambda **changes: small_clip(lively=True, **{"layers": 3} | changes)


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
        # the class token comes before the patches
        members = F.pad(window_indices(visual.grid_size, size) + 1, (1, 0))
        classes = [visual.transformer(tokens[:, window])[:, 0] for window in members]
        windows[size] = visual.ln_post(torch.stack(classes, dim=1)) @ visual.proj
    return MultiScaleEmbeddings(visual(pixels), windows, layers)


def assert_same(actual, expected):
    torch.testing.assert_close(actual._asdict(), expected._asdict(), check_dtype=False, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", BUILDS.values(), ids=BUILDS)
def test_one_pass_gives_what_open_clip_gives_one_by_one(tiny, changes):
    encoder = tiny(**changes)
    visual, pixels = encoder.model.visual, pixels_of(encoder, 3)
    layers = range(1, encoder.depth + 1)
    actual = embed_scales(visual, pixels, (1, 2, 3), layers=layers)
    assert_same(actual, one_by_one(visual, pixels, (1, 2, 3)))


def test_neither_batches_nor_chunks_nor_other_scales_matter(tiny, monkeypatch):
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


def test_what_cannot_be_embedded(tiny):
    usual, resnet = tiny(), tiny(patch_size=None, layers=[1, 1, 1, 1])
    pixels = pixels_of(usual, 1)
    refused("4 x 4 patches", usual.embed_scales, pixels, sizes=(4,))
    refused("blocks of 1 to 3", usual.embed_scales, pixels, layers=(4,))
    refused("ResNet", resnet.embed_scales, pixels, layers=(1,))


def windows_by_hand(visual, pixels, size):
    """(n, n_windows, d): open_clip's own pooling, called on every crop with the positions of the crop."""
    features = pixels
    for layer in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        features = layer(features)  # (n, channels, rows, columns)
    rows, columns = features.shape[2:]
    result = []
    for top in range(rows - size + 1):
        for left in range(columns - size + 1):
            pool = copy.deepcopy(visual.attnpool)
            positions = pool.positional_embedding[1:].reshape(rows, columns, -1)
            inside = positions[top : top + size, left : left + size].flatten(0, 1)
            pool.positional_embedding = nn.Parameter(torch.cat([pool.positional_embedding[:1], inside]))
            result.append(pool(features[:, :, top : top + size, left : left + size]))
    return torch.stack(result, dim=1).detach()


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 3)])
def test_windows_of_a_resnet_by_hand(tiny, rows, columns):
    visual = tiny(pixels=32 * rows, patch_size=None, layers=[1, 1, 1, 1], width=8).model.visual
    visual.image_size = (32 * rows, 32 * columns)
    visual.attnpool.positional_embedding = nn.Parameter(torch.randn(1 + rows * columns, 256))
    pixels = pixels_of(visual)
    sizes = range(1, min(rows, columns) + 1)
    expected = {size: windows_by_hand(visual, pixels, size) for size in sizes}
    image, windows = embed_resnet(visual, pixels, sizes)
    torch.testing.assert_close(image, visual(pixels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(windows, expected, rtol=1e-4, atol=1e-5)


def test_a_resnet_as_part_of_a_clip(small_resnet, monkeypatch):
    encoder = small_resnet
    assert (encoder.grid, encoder.patch_size, encoder.depth) == ((2, 2), (32, 32), 0)
    pixels = pixels_of(encoder)
    image, windows = embed_resnet(encoder.model.visual, pixels, (1, 2))
    for numbers in (2**21, 1):  # all images in one batch; one image a batch
        monkeypatch.setitem(encoders._WINDOW_NUMBERS, "cpu", numbers)
        found = encoder.embed_scales(pixels, (1, 2))
        torch.testing.assert_close(found.image, encoder.embed_images(pixels), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.image, F.normalize(image, dim=-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.windows[1], F.normalize(windows[1], dim=-1), rtol=1e-4, atol=1e-5)
    assert encoder.embed_windows(pixels[:0], 1).shape == (0, 4, 16)
    refused("3 x 3 patches", encoder.embed_windows, pixels, 3)
    refused("reads the class token", encoder.embed_images, pixels, final_norm=False)
