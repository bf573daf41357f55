import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import pixels_of, refused
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from zsad_core import encoders
from zsad_core.resnet_windows import embed_resnet


def tiny(rows=3, columns=3):
    """A ResNet with random weights in all its parts and a feature map of (256, rows, columns)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        visual = ModifiedResNet((1, 1, 1, 1), output_dim=16, heads=4, image_size=32 * rows, width=8)
        visual.image_size = (32 * rows, 32 * columns)
        visual.attnpool.positional_embedding = nn.Parameter(torch.randn(1 + rows * columns, 256))
        for module in visual.modules():
            if isinstance(module, nn.BatchNorm2d):  # as made, the last one of each block multiplies by 0
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return visual.eval().requires_grad_(False)


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
def test_windows_by_hand(rows, columns):
    visual = tiny(rows, columns)
    pixels = pixels_of(visual)
    sizes = range(1, min(rows, columns) + 1)
    expected = {size: windows_by_hand(visual, pixels, size) for size in sizes}
    image, windows = embed_resnet(visual, pixels, sizes)
    torch.testing.assert_close(image, visual(pixels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(windows, expected, rtol=1e-4, atol=1e-5)


def test_as_part_of_a_clip(small_resnet, monkeypatch):
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
