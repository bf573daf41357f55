"""What several test files need."""

import math

import numpy as np
import pytest
from PIL import Image


def refused(message, call, /, *arguments, error=ValueError, **options):
    """The error that call(*arguments, **options) raises; message: a pattern, None for any."""
    with pytest.raises(error, match=message) as caught:
        call(*arguments, **options)
    return caught.value


def pixels_of(encoder, n=3):
    """(n, 3, H, W): noise of the size that the encoder sees."""
    import torch  # here: most of those who ask for help need no model

    return torch.randn(n, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))


def heads_of(attention, z):
    """q, k and v, each (n, heads, tokens, width of a head), of tokens z (n, tokens, width)."""
    matrix = attention.in_proj_weight.view(3, attention.num_heads, -1, z.shape[-1])
    q, k, v = (z[:, None] @ part.mT for part in matrix)
    bias = attention.in_proj_bias.view(3, attention.num_heads, 1, -1)
    return q + bias[0], k + bias[1], v + bias[2]


def ramp(width, height):
    """Red grows along x, green along y: the pixels show where a part was cut."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = (np.arange(width) + 0.5) / width
    pixels[..., 1] = (np.arange(height)[:, None] + 0.5) / height
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def noise(seed, size=(30, 30)):
    """Random pixels; (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def saved(path, image, **options):
    """The path, where the image now lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def written(path, content=b"x"):
    """The path of a file that now has this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def contents(folder):
    """The bytes of each file below a folder, by its relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def mean(values, average="harmonic"):
    """Harmonic (0 where a value is) or arithmetic, of a list."""
    if average == "arithmetic":
        return math.fsum(values) / len(values)
    return 0.0 if 0 in values else len(values) / math.fsum(1 / value for value in values)


def by_patch(scores, windows, grid, average="harmonic"):
    """(rows, columns): each patch looks for the windows, lists of patches, that it lies in."""
    pairs = [*zip(scores, windows, strict=True)]
    found = [[score for score, patches in pairs if i in patches] for i in range(grid[0] * grid[1])]
    return np.reshape([mean(values, average) for values in found], grid)


def pixel_auroc(masks, maps):
    """AUROC over the pixels of all images, each (H, W) of any size, to compare the histogram with."""
    from zsad_core.metrics import auroc

    return auroc(*(np.concatenate([np.ravel(image) for image in images]) for images in (masks, maps)))
