"""The local part of AnomalyCLIP's glocal loss: focal and dice loss of maps (Sec. 3.3, Eq. 2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON, SMOOTH = 1e-5, 1.0
PARTS = ("focal", "dice_anomalous", "dice_normal")


def local_loss(maps: Tensor, masks: Tensor, parts: Sequence[str] = PARTS, *, logits: bool = False) -> Tensor:
    """The sum of the parts for maps of one layer. The two channels of a map sum to 1, also after upsampling,
    so only the anomalous one is computed.

    maps: (b, rows, columns), of a patch being anomalous: probabilities, upsampled between the centres of the
        patches, or with `logits` their logits (anomalous minus normal), upsampled from corner to corner and
        only then made probabilities, which is VAND's order. masks: (b, H, W) bool, True where anomalous.
    parts: of `PARTS`. dice_anomalous is nearly 1 for any map of a normal image.
    """
    if not set(parts) <= set(PARTS):
        raise ValueError(f"parts={tuple(parts)}: expected some of {', '.join(PARTS)}")
    if not maps.ndim == masks.ndim == 3 or len(maps) != len(masks) or masks.dtype != torch.bool:
        found = f"maps {tuple(maps.shape)}, masks {masks.dtype} {tuple(masks.shape)}"
        raise ValueError(f"{found}: expected (b, rows, columns) and bool (b, H, W), also of one image")
    return _LocalLoss.apply(maps, masks, tuple(parts), logits)


class _LocalLoss(torch.autograd.Function):
    """The value and the slope in one go: a tenth of autograd's time, and no pixel is kept for later."""

    @staticmethod
    def forward(ctx, maps: Tensor, masks: Tensor, parts: tuple[str, ...], logits: bool) -> Tensor:
        rows, columns = (_upsampling(*edge, logits, maps) for edge in zip(maps.shape[1:], masks.shape[1:]))
        p, targets = rows @ maps @ columns.T, masks.to(maps)  # (b, H, W) both
        p = p.sigmoid_() if logits else p
        loss, slope = focal_loss(p, targets) if "focal" in parts else (0, torch.zeros_like(p))
        for part in [own for own in PARTS[1:] if own in parts]:  # in one order, which the last digits show
            own, weight, constant = dice_loss(p, targets, anomalous=part == "dice_anomalous")
            loss, slope = loss + own, slope.addcmul_(targets, weight).add_(constant)
        slope = slope.mul_(p).mul_(1 - p) if logits else slope
        ctx.save_for_backward(rows.T @ slope @ columns)
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.saved_tensors[0], None, None, None


def focal_loss(maps: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss, gamma 2: the mean over all pixels of the batch; and its slope by the maps (b, H, W).
    targets: (b, H, W), 1 where anomalous, else 0; here they are kept away from both by epsilon."""
    signs = (2 * targets - 1).mul_(1 - 2 * EPSILON)
    p_t = torch.addcmul(1 - (1 - 2 * EPSILON) * targets, signs, maps)  # of the true channel, plus epsilon
    logarithm, wrong = p_t.log(), 1 - p_t
    square = wrong * wrong
    loss = -(square.flatten() @ logarithm.flatten()) / maps.numel()
    slope = logarithm.mul_(wrong).mul_(2).sub_(square.div_(p_t)).mul_(signs)
    return loss, slope.div_(maps.numel())


def dice_loss(maps: Tensor, targets: Tensor, *, anomalous: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Dice loss of one channel, smoothed by 1: of each image over its pixels, then the mean.
    maps, targets: (b, H, W), of the anomalous channel, also for the loss of the normal one.
    Returns the loss, and a weight and a constant (b, 1, 1): the slope is weight targets + constant."""
    n, pixels = len(maps), maps[0].numel()
    hit, p, t = (maps * targets).sum((1, 2)), maps.sum((1, 2)), targets.sum((1, 2))  # (b,)
    if not anomalous:
        hit, p, t = pixels - p - t + hit, pixels - p, pixels - t
    above, below = 2 * hit + SMOOTH, p + t + SMOOTH
    weight, constant = -2 / below, above / below**2
    constant = constant if anomalous else -weight - constant
    return (1 - above / below).mean(), *((x / n)[:, None, None] for x in (weight, constant))


def _upsampling(n: int, size: int, corners: bool, like: Tensor) -> Tensor:
    """(size, n): the weights of n values in each of `size` that are interpolated between them."""
    one = torch.eye(n, dtype=like.dtype, device=like.device)
    return F.interpolate(one[None], size, mode="linear", align_corners=corners)[0].T
