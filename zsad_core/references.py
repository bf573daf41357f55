"""Few-shot scores: distances to embeddings of normal reference images (WinCLIP, Sec. 4.3; RWDA, Sec. 4.2)."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from zsad_core.scores import Array, like, to_tensor
from zsad_core.windows import Average, aggregate_windows, combine_scales


def association(query: Array, memory: Array, chunk: int = 8192) -> Array:
    """Reference association (WinCLIP, Eq. 4): (1 - cosine) / 2 to the nearest memory entry, in [0, 1].

    query: (n, p, d), p windows or patches of n images -> (n, p). memory: (m, d), from the reference images.
    chunk: rows of both that are compared at a time; bounds the memory in use, not the result.
    """
    q, m = tuple(query.shape), tuple(memory.shape)
    if len(q) != 3 or len(m) != 2 or q[2] != m[1] or not m[0]:
        raise ValueError(f"query {q} and memory {m}: expected (n, p, d) and (m, d) with m >= 1")
    queries, entries = (F.normalize(torch.as_tensor(x).float(), dim=-1) for x in (query, memory))
    nearest = [
        torch.stack([(rows @ part.T).amax(1) for part in entries.split(chunk)]).amax(0)  # (chunk,)
        for rows in queries.flatten(0, 1).split(chunk)
    ]
    return like(((1 - torch.cat(nearest)) / 2).clamp(0, 1).reshape(q[:2]), query)  # (n, p)


class Memory(NamedTuple):
    """WinCLIP+'s memories (Sec. 4.3) of k normal images: (k P, width), {size: (k n_windows, d)}."""

    patches: torch.Tensor
    windows: dict[int, torch.Tensor]


def reference_maps(
    patches: torch.Tensor,
    windows: Mapping[int, torch.Tensor],
    memory: Memory,
    grid: tuple[int, int],
    aggregate: Average = "harmonic",
) -> dict[str, torch.Tensor]:
    """M^P, and M^W of each window size (WinCLIP, Eq. 4), in [0, 1]: {"P": (n, rows, columns), "W2": ..., ...}

    patches: (n, P, width). windows: {size: (n, n_windows, d)}.
    aggregate: the mean over the windows that cover a patch. The paper says "harmonic" for zero-shot windows
        only; public code uses it here too. A window equal to a reference makes its patches 0.
    """
    found = {"P": association(patches, memory.patches).unflatten(1, grid).double()}
    for size, values in windows.items():
        distances = association(values, memory.windows[size])  # (n, n_windows)
        found[f"W{size}"] = aggregate_windows(distances, grid, size, aggregate)
    return found


def winclip_plus(
    zero_shot_score: torch.Tensor | None,
    zero_shot: torch.Tensor,
    maps: Sequence[torch.Tensor],
    fuse: Literal["harmonic", "mean", "none"] = "harmonic",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image scores (n,) and maps (n, rows, columns) of WinCLIP+ from its parts (Sec. 4.3, Eq. 5 and 6).

    zero_shot_score: (n,) of the texts. A score is the mean of it and of the maximum of M^W over patches,
        before any upsampling (Eq. 6); with None it is this maximum alone ("max_map" of Table 5).
    zero_shot: (n, rows, columns) map of the texts. maps: of `reference_maps`; their mean is M^W.
    fuse: how M^W and the zero-shot map are combined; the paper does not say. "harmonic" is its mean for all
        other scores. "mean" ranks like the sum in most public code. "none" leaves M^W alone.
    """
    if fuse not in ("mean", "harmonic", "none"):
        raise ValueError(f"fuse={fuse!r}: expected 'mean', 'harmonic' or 'none'")
    visual = torch.stack([m.double() for m in maps]).mean(0)  # M^W, (n, rows, columns)
    highest = visual.amax((1, 2))
    scores = highest if zero_shot_score is None else (zero_shot_score + highest) / 2
    if fuse == "none":
        return scores, visual
    return scores, combine_scales([visual, zero_shot], "arithmetic" if fuse == "mean" else "harmonic")


def image_similarity_score(query: Array, references: Array, *, same_view: bool = False) -> Array:
    """s_img (n,) in [0, 1]: the distance to the nearest reference embedding (RWDA, Sec. 4.2).

    query: (n, v, d), v views of n images. references: (m, v, d), those of m >= 1 normal images.
    Each view is compared with all m v reference embeddings, as a part can lie elsewhere in a reference;
    same_view: with the m in its place. RWDA refers to WinCLIP here, which has no views.
    """
    q, r = tuple(query.shape), tuple(references.shape)
    if not len(q) == len(r) == 3 or q[2] != r[2] or not r[0]:
        raise ValueError(f"query {q} and references {r}: expected (n, v, d) and (m, v, d) with m >= 1")
    views, normal = (F.normalize(to_tensor(x), dim=-1) for x in (query, references))
    products = "nvd,mvd->nvm" if same_view else "nvd,mwd->nvmw"
    cosines = torch.einsum(products, views, normal).flatten(2).amax(2)  # (n, v)
    return like(((1 - cosines) / 2).clamp(0, 1).mean(1), query)


def sample_references(n: int, shots: int, seed: int = 0) -> np.ndarray:
    """(shots,) distinct indices into n normal images; for one seed, fewer shots are the first of more."""
    if not 1 <= shots <= n:
        raise ValueError(f"shots={shots}: expected 1 to {n}, the number of normal training images")
    return np.random.default_rng(seed).permutation(n)[:shots]
