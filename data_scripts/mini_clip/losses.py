"""The three terms of the training loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(images: Tensor, texts: Tensor, caption: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric contrastive loss where images with the same caption share the target.

    images: (b, d) unit rows; texts: (u, d) unit rows of the distinct captions, u <= b; caption: (b,) row of
    `texts` that belongs to each image; scale: logit scale. Equal to the mean of both cross entropies of the
    (b, b) logits with each target spread evenly over the equal captions; each distinct caption is merely
    encoded once.
    """
    logits = scale * images @ texts.T  # (b, u)
    counts = torch.bincount(caption, minlength=len(texts)).to(logits.dtype)  # (u,)
    own = logits.gather(1, caption[:, None])[:, 0]  # (b,)
    image_to_text = torch.logsumexp(logits + counts.log(), dim=1) - own
    # A text's target is spread over its images: the mean of their logits, hence own.mean() over the batch.
    text_to_image = torch.logsumexp(logits, dim=0)[caption] - own
    return (image_to_text.mean() + text_to_image.mean()) / 2


def state_margin(
    images: Tensor, normal: Tensor, damaged: Tensor, state: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the two-way choice between generic normal and damaged prompts, and the chosen margins.

    images: (b, d); normal, damaged: (m, d) prompts of the same m nouns; state: (b,) bool, True for damaged.
    Returns the mean loss and the margins (b, m), positive where the damaged prompt is nearer.
    """
    margin = scale * images @ (damaged - normal).T  # (b, m)
    target = state[:, None].to(margin.dtype).expand_as(margin)
    return F.binary_cross_entropy_with_logits(margin, target), margin


def mask_loss(logits: Tensor, defect_pixels: Tensor, least: int = 6, positive_weight: float = 3.0) -> Tensor:
    """Binary cross entropy of patch logits (b, n); `least` defect pixels make a patch positive."""
    target = (defect_pixels >= least).to(logits.dtype)
    weight = torch.tensor(positive_weight, dtype=logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
