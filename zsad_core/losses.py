"""AnomalyCLIP's glocal loss: cross entropy of the image, focal and dice of the maps (Sec. 3.3, Eq. 2).

A map has two channels that sum to 1, also after upsampling, so one of them, the anomalous one, is all that is
computed. Bilinear upsampling is a matrix on either side. The local loss goes through the images a few at a
time and keeps only the gradient at the patches, so its memory does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON, SMOOTH = 1e-5, 1.0
PARTS = ("focal", "dice_anomalous", "dice_normal")
_NUMBERS = 2**20  # pixels in a chunk, at least one image


def image_loss(cosines: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Cross entropy of images. cosines: (b, 2), normal first. labels: (b,) 0 or 1."""
    return F.cross_entropy(cosines / temperature, labels.long())


def local_loss(probabilities: Tensor, masks: Tensor, parts: Sequence[str] = PARTS) -> Tensor:
    """The sum of the parts for maps of one layer.

    probabilities: (b, rows, columns), of a patch being anomalous. masks: (b, H, W) bool, True where
    anomalous; the maps are upsampled to their size. Differentiable once, in the probabilities.
    Focal, gamma 2: the mean over all pixels of the batch. Dice, smoothed by 1: of each image over its pixels,
    then the mean over images, once for the anomalous channel and the mask, once for the normal one and the
    rest. Of a normal image the anomalous dice is nearly 1 whatever the map is.
    """
    return _LocalLoss.apply(probabilities, masks, _checked(probabilities, masks, parts), False)


def logit_loss(logits: Tensor, masks: Tensor, parts: Sequence[str] = PARTS) -> Tensor:
    """`local_loss` where logits are upsampled, from corner to corner, and only then become probabilities.

    logits: (b, rows, columns), of a patch being anomalous minus normal, so that their sigmoid is the softmax
        of the two. That is VAND's order.
    """
    return _LocalLoss.apply(logits, masks, _checked(logits, masks, parts), True)


def _checked(maps: Tensor, masks: Tensor, parts: Sequence[str]) -> tuple[str, ...]:
    if not set(parts) <= set(PARTS):
        raise ValueError(f"parts={tuple(parts)}: expected some of {', '.join(PARTS)}")
    fits = maps.ndim == masks.ndim == 3 and len(maps) == len(masks)
    if not fits or masks.dtype != torch.bool:
        raise ValueError(
            f"maps {tuple(maps.shape)}, masks {masks.dtype} {tuple(masks.shape)}: expected "
            "(b, rows, columns) and bool (b, H, W), as many masks as maps; keep the batch axis of one image"
        )
    return tuple(parts)


class _LocalLoss(torch.autograd.Function):
    """Loss and gradient in one go: at the size of the masks, chunk by chunk, nothing of which is kept."""

    @staticmethod
    def forward(ctx, values: Tensor, masks: Tensor, parts: tuple[str, ...], logits: bool) -> Tensor:
        b, *grid = values.shape
        height, width = masks.shape[1:]
        sizes = zip(grid, (height, width), strict=True)
        up = [interpolation(n, size, align_corners=logits).to(values) for n, size in sizes]
        gradient = torch.empty_like(values)
        total = values.new_zeros((), dtype=torch.float64)
        rows = max(1, _NUMBERS // (height * width))
        for start in range(0, b, rows):
            own = slice(start, start + rows)
            p = up[0] @ values[own].detach() @ up[1].T  # (c, H, W)
            p = p.sigmoid() if logits else p
            loss, slope = _at_pixels(p, masks[own], parts, b)
            slope = slope * p * (1 - p) if logits else slope
            total += loss
            gradient[own] = up[0].T @ slope @ up[1]  # the adjoint of the upsampling
        ctx.save_for_backward(gradient)
        return total.to(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad * ctx.saved_tensors[0], None, None, None


def _at_pixels(p: Tensor, masks: Tensor, parts: tuple[str, ...], batch: int) -> tuple[Tensor, Tensor]:
    """These images' share of the loss of a batch, float64, and its derivative by p (c, H, W)."""
    slope = torch.zeros_like(p)
    loss = p.new_zeros((), dtype=torch.float64)
    sign = masks.to(p) * 2 - 1  # 1 where anomalous, -1 elsewhere
    if "focal" in parts:
        # p_t of the true channel: one-hot targets kept EPSILON away from 0 and 1, and EPSILON added
        inside = (1 - 2 * EPSILON) * sign  # dp_t / dp
        p_t = torch.addcmul((1 - inside) / 2 + EPSILON, inside, p)  # (c, H, W)
        log, rest, scale = p_t.log(), 1 - p_t, 1 / (batch * p[0].numel())
        loss -= scale * (rest.square() * log).sum(dtype=torch.float64)
        slope += scale * inside * rest * (2 * log - rest / p_t)
    for part, channel, target, direction in (
        ("dice_anomalous", p, masks, 1.0),
        ("dice_normal", 1 - p, ~masks, -1.0),
    ):
        if part in parts:
            target = target.to(p)
            hit, both = (channel * target).sum((1, 2)), (channel + target).sum((1, 2)) + SMOOTH
            above = 2 * hit + SMOOTH  # (c,)
            loss += (1 - above / both).sum(dtype=torch.float64) / batch
            by_hit, by_sum = (2 / both / batch)[:, None, None], (above / both**2 / batch)[:, None, None]
            slope -= direction * (by_hit * target - by_sum)
    return loss, slope


@cache
def interpolation(n: int, size: int, align_corners: bool = False) -> Tensor:
    """(size, n) float64: bilinear interpolation of n cells to `size` pixels, between their centres.

    align_corners: the outermost pixels are the outermost cells, as torch means it.

    >>> interpolation(1, 3).flatten().tolist()
    [1.0, 1.0, 1.0]
    >>> interpolation(2, 3, align_corners=True)[:, 1].tolist()
    [0.0, 0.5, 1.0]
    """
    cells = torch.eye(n, dtype=torch.float64)[None]
    return F.interpolate(cells, size, mode="linear", align_corners=align_corners)[0].T.contiguous()
