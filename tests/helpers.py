"""What several test files need."""

import numpy as np
import pytest


def refused(message, call, /, *arguments, error=ValueError, **options):
    """call(*arguments, **options) raises this error with a message that matches."""
    with pytest.raises(error, match=message):
        call(*arguments, **options)


def pixels_of(encoder, n=3):
    """(n, 3, H, W): noise of the size that the encoder sees."""
    import torch  # here: most of those who ask for help need no model

    return torch.randn(n, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))


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


def pixel_auroc(masks, maps):
    """AUROC over the pixels of all images, each (H, W) of any size, to compare the histogram with."""
    from zsad_core.metrics import auroc

    return auroc(*(np.concatenate([np.ravel(image) for image in images]) for images in (masks, maps)))
