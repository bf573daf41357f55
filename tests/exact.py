"""A metric of all pixels at once, to compare the histogram with."""

import numpy as np

from zsad_core.metrics import auroc


def pixel_auroc(masks, maps):
    """AUROC over the pixels of all images, each (H, W) of any size."""
    return auroc(*(np.concatenate([np.ravel(image) for image in images]) for images in (masks, maps)))
