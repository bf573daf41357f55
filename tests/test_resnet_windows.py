from __future__ import annotations

import copy
from typing import Any

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from zsad_core.resnet_windows import embed_resnet, pool_cells
from zsad_core.windows import window_indices


def tiny(rows: int = 3, columns: int = 3) -> ModifiedResNet:
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


def pixels_of(visual: ModifiedResNet, n: int) -> Tensor:
    return torch.randn(n, 3, *visual.image_size, generator=torch.Generator().manual_seed(1))


def feature_map(visual: ModifiedResNet, pixels: Tensor) -> Tensor:
    for layer in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        pixels = layer(pixels)
    return pixels  # (n, channels, rows, columns)


def windows_by_hand(visual: ModifiedResNet, pixels: Tensor, size: int) -> Tensor:
    """(n, n_windows, d): open_clip's own pooling, called on every crop with the positions of the crop."""
    features = feature_map(visual, pixels)
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


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 3), (3, 2)])
def test_windows_by_hand(rows: int, columns: int) -> None:
    visual = tiny(rows, columns)
    pixels = pixels_of(visual, 3)
    sizes = range(1, min(rows, columns) + 1)
    expected = {size: windows_by_hand(visual, pixels, size) for size in sizes}
    for chunk_images in (8, 2, 1):
        image, windows = embed_resnet(visual, pixels, sizes, chunk_images=chunk_images)
        assert image.dtype == torch.float32 and not image.requires_grad
        torch.testing.assert_close(image, visual(pixels), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(windows, expected, rtol=1e-4, atol=1e-5)
        assert {size: w.shape[1] for size, w in windows.items()} == {
            size: len(window_indices((rows, columns), size)) for size in sizes
        }


def test_the_largest_window_is_the_whole_image() -> None:
    visual = tiny()
    pixels = pixels_of(visual, 2)
    image, windows = embed_resnet(visual, pixels, (3,))
    torch.testing.assert_close(windows[3][:, 0], image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image, visual(pixels), rtol=1e-4, atol=1e-5)
    assert embed_resnet(visual, pixels, ())[1] == {}


def test_cells_outside_a_window_do_not_matter_and_those_inside_do() -> None:
    visual = tiny(2, 3)
    cells = feature_map(visual, pixels_of(visual, 1)).flatten(2).transpose(1, 2)  # (1, 6, channels)
    members = window_indices((2, 3), 2)  # cells 0 1 3 4 and 1 2 4 5
    (before,) = pool_cells(visual.attnpool, cells, [members])
    for cell in range(6):
        other = cells.clone()
        other[:, cell] += torch.randn(256, generator=torch.Generator().manual_seed(cell))
        (after,) = pool_cells(visual.attnpool, other, [members])
        for window, inside in enumerate(members.tolist()):
            change = (after - before)[0, window].abs().max()
            assert change > 1e-3 if cell in inside else change == 0


def test_cells_keep_their_positions() -> None:
    """Equal cells everywhere: windows differ by nothing but where they are."""
    visual = tiny()
    cells = torch.randn(256, generator=torch.Generator().manual_seed(0)).expand(1, 9, 256)
    members = window_indices(3, 2)
    (windows,) = pool_cells(visual.attnpool, cells, [members])
    assert (windows[0].std(0) > 1e-4).all()
    visual.attnpool.positional_embedding.zero_()
    (windows,) = pool_cells(visual.attnpool, cells, [members])
    torch.testing.assert_close(windows, windows[:, :1].expand_as(windows))


def test_as_part_of_a_clip() -> None:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    text = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 50}
    model = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()  # trainable, as it comes
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(model.state_dict())
    image, windows = embed_resnet(model.visual, pixels, (1, 2))
    torch.testing.assert_close(image, model.encode_image(pixels).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(windows[2][:, 0], image, rtol=1e-4, atol=1e-5)
    assert windows[1].shape == (2, 4, 32) and not windows[1].requires_grad
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    image, windows = embed_resnet(model.visual, pixels[:0], (1, 2))
    assert image.shape == (0, 32) and windows[1].shape == (0, 4, 32)


@pytest.mark.parametrize(
    ("visual", "pixels", "sizes", "message"),
    [
        (nn.Identity(), torch.zeros(1, 3, 96, 96), (2,), "needs open_clip's ModifiedResNet, got Identity"),
        (tiny().train(), torch.zeros(1, 3, 96, 96), (2,), "in training mode"),
        (tiny(), torch.zeros(1, 3, 64, 96), (2,), r"\(n, 3, 96, 96\), got torch.float32 \(1, 3, 64, 96\)"),
        (tiny(), torch.zeros(1, 3, 96, 96).int(), (2,), "got torch.int32"),
        (tiny(), torch.zeros(1, 3, 96, 96), (2, 4), "4 x 4 patches does not fit a grid of 3 x 3"),
    ],
)
def test_what_does_not_fit(visual: Any, pixels: Tensor, sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embed_resnet(visual, pixels, sizes)
