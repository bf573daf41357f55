"""The local part of AnomalyCLIP's glocal loss: focal and dice loss of maps (Sec. 3.3, Eq. 2).

A map has two channels, normal and anomalous, that sum to 1, also after upsampling. So only the anomalous one
is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON, SMOOTH = 1e-5, 1.0
PARTS = ("focal", "dice_anomalous", "dice_normal")


def local_loss(maps: Tensor, masks: Tensor, parts: Sequence[str] = PARTS, *, logits: bool = False) -> Tensor:
    """The sum of the parts for maps of one layer.

    maps: (b, rows, columns), of a patch being anomalous: probabilities, upsampled between the centres of the
        patches, or with `logits` their logits (anomalous minus normal), upsampled from corner to corner and
        only then made probabilities, which is VAND's order. masks: (b, H, W) bool, True where anomalous.
    parts: of `PARTS`. focal: `focal_loss`. dice_anomalous: `dice_loss` of the anomalous channel and the mask;
        for a normal image it is nearly 1 for any map. dice_normal: of the normal channel and the rest.
    """
    if not set(parts) <= set(PARTS):
        raise ValueError(f"parts={tuple(parts)}: expected some of {', '.join(PARTS)}")
    if not maps.ndim == masks.ndim == 3 or len(maps) != len(masks) or masks.dtype != torch.bool:
        raise ValueError(
            f"maps {tuple(maps.shape)}, masks {masks.dtype} {tuple(masks.shape)}: expected "
            "(b, rows, columns) and bool (b, H, W), as many masks as maps; keep the batch axis of one image"
        )
    up = F.interpolate(maps[:, None], masks.shape[1:], mode="bilinear", align_corners=logits)[:, 0]
    p = up.sigmoid() if logits else up  # (b, H, W)
    losses = []
    for part in parts:
        if part == "focal":
            losses.append(focal_loss(p, masks))
        else:
            losses.append(dice_loss(p, masks) if part == "dice_anomalous" else dice_loss(1 - p, ~masks))
    return torch.stack(losses).sum()


def focal_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Focal loss, gamma 2: the mean over all pixels of the batch. maps, masks: (b, H, W)."""
    targets = masks.to(maps).clamp(EPSILON, 1 - EPSILON)  # one-hot targets are kept away from 0 and 1
    p_t = targets * maps + (1 - targets) * (1 - maps) + EPSILON  # of the true channel
    return -((1 - p_t) ** 2 * p_t.log()).mean()


def dice_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Dice loss, smoothed by 1: of each image over its pixels, then the mean. maps, masks: (b, H, W)."""
    hit, both = (maps * masks).sum((1, 2)), (maps + masks.to(maps)).sum((1, 2))  # (b,)
    return (1 - (2 * hit + SMOOTH) / (both + SMOOTH)).mean()
