import pytest
import torch
import torch.nn.functional as F
from helpers import refused

from zsad_core.losses import PARTS, local_loss


def plain(probabilities, masks, parts=PARTS):
    """The sum of the parts from maps of two channels that are upsampled as such."""
    maps = torch.stack([1 - probabilities, probabilities], dim=1)  # (b, 2, rows, columns)
    maps = F.interpolate(maps, masks.shape[1:], mode="bilinear", align_corners=False)
    targets = torch.stack([~masks, masks], dim=1).to(maps)  # (b, 2, H, W)
    p_t = (targets.clamp(1e-5, 1 - 1e-5) * maps).sum(1) + 1e-5
    values = {"focal": -((1 - p_t) ** 2 * p_t.log()).mean()}
    for channel, part in ((1, "dice_anomalous"), (0, "dice_normal")):
        p, t = maps[:, channel].flatten(1), targets[:, channel].flatten(1)
        values[part] = (1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()
    return sum(values[part] for part in parts)


def example(b=5, grid=(4, 6), size=(33, 50)):
    """Maps in float64 and masks; the first image has no anomaly, the last nothing else."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(b, *grid, generator=generator, dtype=torch.float64)
    masks = torch.rand(b, *size, generator=generator) < 0.3
    masks[0], masks[-1] = False, True
    return probabilities, masks


def slope_of(loss, probabilities, *arguments):
    own = probabilities.clone().requires_grad_()
    value = loss(own, *arguments)
    (2.5 * value).backward()
    return value.detach(), own.grad


@pytest.mark.parametrize("parts", [PARTS, *((part,) for part in PARTS)], ids="+".join)
def test_value_and_gradient(parts):
    probabilities, masks = example()
    found = slope_of(local_loss, probabilities, masks, parts)
    torch.testing.assert_close(found, slope_of(plain, probabilities, masks, parts))


def test_float32_and_certain_maps():
    probabilities, masks = example(3, (8, 8), (96, 96))
    probabilities[:, ::2] = probabilities[:, ::2].round()  # many 0 and 1
    value, slope = slope_of(local_loss, probabilities.float(), masks)
    expected = slope_of(plain, probabilities, masks)
    assert value.dtype == slope.dtype == torch.float32
    # where the map is sure of the wrong side p_t is about 2e-5, with three digits in float32
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slope.double(), expected[1], rtol=5e-3, atol=1e-6)


def test_what_is_refused():
    probabilities, masks = example()
    refused("focal, dice_anomalous, dice_normal", local_loss, probabilities, masks, ("dice",))
    message = r"expected \(b, rows, columns\) and bool \(b, H, W\)"
    refused(message, local_loss, probabilities[:1], masks[0])  # squeezed: dice would average over rows
    refused(message, local_loss, probabilities, masks[:1])
    refused(message, local_loss, probabilities, masks.long())
    refused(message, local_loss, probabilities[:, None], masks)
