"""Few-shot scores: distances to embeddings of normal reference images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from zsad_core.scores import Array, like, to_tensor


def association(query: Array, memory: Array, chunk: int = 8192) -> Array:
    """Reference association (WinCLIP, Eq. 4): (1 - cosine) / 2 to the nearest memory entry, in [0, 1].

    query: (n, p, d), p windows or patches of n images -> (n, p). memory: (m, d), from the reference images.
    chunk: query rows, and memory rows, that are compared at a time; bounds the memory in use, not the result.
    """
    if query.ndim != 3 or memory.ndim != 2 or query.shape[-1] != memory.shape[-1] or len(memory) == 0:
        raise ValueError(
            f"query {tuple(query.shape)} and memory {tuple(memory.shape)}: "
            "expected (n, p, d) and (m, d) with m >= 1"
        )
    queries, entries = (F.normalize(torch.as_tensor(x).float(), dim=-1) for x in (query, memory))
    entries = entries.to(queries.device)
    nearest = [
        torch.stack([(rows @ part.T).amax(1) for part in entries.split(chunk)]).amax(0)  # (chunk,)
        for rows in queries.flatten(0, 1).split(chunk)
    ]
    cosines = torch.cat(nearest) if nearest else queries.new_zeros(0)
    distances = ((1 - cosines) / 2).clamp(0, 1).reshape(query.shape[:2])  # (n, p)
    return distances if isinstance(query, torch.Tensor) else distances.numpy()


def image_similarity_score(query: Array, references: Array, same_view: bool = False) -> Array:
    """s_img in [0, 1]: how far the image embeddings are from the nearest reference (RWDA, Sec. 4.2) -> (n,).

    query: (n, v, d), v views of n images. references: (m, v, d), those of m normal images.
    same_view: False (default) compares each view with all m v reference embeddings, True only with the same
        view of each reference. RWDA refers to WinCLIP, which has no views here. The mean over the views is
        the score.
    """
    shapes = f"query {tuple(query.shape)} and references {tuple(references.shape)}"
    if (
        query.ndim != 3
        or references.ndim != 3
        or query.shape[2] != references.shape[2]
        or not len(references)
    ):
        raise ValueError(f"{shapes}: expected (n, v, d) and (m, v, d) with m >= 1")
    if same_view and query.shape[1] != references.shape[1]:
        raise ValueError(f"{shapes}: same_view needs as many views of the references as of the images")
    views, normal = (F.normalize(to_tensor(x), dim=-1) for x in (query, references))
    pairing = "nvd,mvd->nvm" if same_view else "nvd,mwd->nvmw"
    cosines = torch.einsum(pairing, views, normal).flatten(2).amax(2)  # (n, v)
    return like(((1 - cosines) / 2).clamp(0, 1).mean(1), query)


def sample_references(n: int, shots: int, seed: int = 0) -> np.ndarray:
    """(shots,) distinct indices into n normal images. For one seed, fewer shots are the first of more shots.

    >>> sample_references(20, 4, seed=1)[:2].tolist() == sample_references(20, 2, seed=1).tolist()
    True
    """
    if not 1 <= shots <= n:
        raise ValueError(f"shots={shots}: expected 1 to {n}, the number of normal training images")
    return np.random.default_rng(seed).permutation(n)[:shots]
