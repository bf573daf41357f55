"""Image-level anomaly scores: the prompt score and the mean over views.
Arrays give arrays and tensors give tensors, in float64: in float32 scores near 0 and 1 would tie."""

import numpy as np
import torch
import torch.nn.functional as F

Array = np.ndarray | torch.Tensor


def prompt_score(
    image_embeddings: Array, normal: Array, anomalous: Array, temperature: float = 0.01
) -> Array:
    """s_pr in [0, 1]: the anomalous entry of a softmax over the cosines with two texts (RWDA, Sec. 3.1).

    image_embeddings: (n, d) for scores (n,), or (n, v, d) with v views of each image for scores (n, v).
    normal, anomalous: (d,), or (k, d) for an ensemble: the mean of its normalised rows (WinCLIP, Sec. 4.1).
    temperature: 0.01 as in Sec. 3.1. No input needs to be normalised.

    >>> prompt_score(np.array([[1.0, 0.0], [3.0, 3.0]]), np.array([1.0, 0.0]), np.array([0.0, 1.0]))[1].item()
    0.5
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: expected a number above 0")
    images, *sides = (to_tensor(x) for x in (image_embeddings, normal, anomalous))
    if images.ndim not in (2, 3) or any(t.ndim > 2 or t.shape[-1:] != images.shape[-1:] for t in sides):
        i, n, a = (tuple(x.shape) for x in (images, *sides))
        found = f"image embeddings {i}, normal {n}, anomalous {a}"
        raise ValueError(f"{found}: expected (n, d) or (n, v, d), and texts (d,) or (k, d)")
    texts = torch.stack([F.normalize(torch.atleast_2d(t), dim=-1).mean(0) for t in sides])  # (2, d)
    cosines = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T  # (n, 2) or (n, v, 2)
    # the softmax of two is the sigmoid of their difference, which cannot overflow
    return like(torch.sigmoid((cosines[..., 1] - cosines[..., 0]) / temperature), image_embeddings)


def average_views(scores: Array) -> Array:
    """Mean over the views of each image: (n, v) -> (n,)."""
    if scores.ndim != 2:
        raise ValueError(f"scores {tuple(scores.shape)}: expected (n, v), v views of each of n images")
    return scores.mean(1)


def to_tensor(values: Array, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A tensor of the values on the CPU, without gradients."""
    return torch.as_tensor(values).detach().cpu().to(dtype)


def like(values: torch.Tensor, given: Array) -> Array:
    """The values as the kind of array that was given: a tensor, or a NumPy array."""
    return values if isinstance(given, torch.Tensor) else values.numpy()
