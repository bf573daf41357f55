"""RWDA's feed-forward network (FNN): trained on text embeddings, applied to image embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from zsad_core.scores import Array, like, to_tensor


class FNN(nn.Module):
    """Hidden layers of linear, batch norm, ReLU, dropout, then one linear layer to a logit (RWDA, Sec. 4.2).

    dim: size of the embeddings. hidden: widths; the paper gives none, but among equal widths and among
    non-increasing powers of two only 256-256-256 adds the 0.30M parameters of Table 3. dropout: the paper
    gives none; 0.5 is the rate of the work that it cites.

    >>> sum(p.numel() for p in FNN(640).parameters())
    297473
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (256, 256, 256), dropout: float = 0.5) -> None:
        super().__init__()
        if not hidden or min(dim, *hidden) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"dim={dim}, hidden={hidden}, dropout={dropout}: expected widths from 1, a rate in [0, 1)"
            )
        widths = zip((dim, *hidden), hidden)
        layers = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(dropout)) for a, b in widths]
        self.layers = nn.Sequential(*(nn.Sequential(*layer) for layer in layers))
        self.last = nn.Linear(hidden[-1], 1)
        self.dim = dim

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(n, d) -> logits (n,)."""
        return self.last(self.layers(embeddings))[:, 0]

    @torch.no_grad()
    def score(self, embeddings: Array) -> Array:
        """s_FNN in [0, 1], the sigmoid of the logit (RWDA, Sec. 3.3): (n, d) -> (n,), (n, v, d) -> (n, v)."""
        logits = self(self._rows(embeddings)).double()  # in float32 sigmoids of large logits would tie at 1
        return like(torch.sigmoid(logits).reshape(embeddings.shape[:-1]), embeddings)

    @torch.no_grad()
    def features(self, embeddings: Array) -> list[Array]:
        """Hidden activations after the ReLU, without dropout (RWDA, Fig. 5): (n, d) -> [(n, width), …]."""
        activations = [self._rows(embeddings)]
        for layer in self.layers:
            activations.append(layer(activations[-1]))  # (n, width)
        return [like(x, embeddings) for x in activations[1:]]

    def _rows(self, embeddings: Array) -> torch.Tensor:
        """(n, d) or (n, v, d) -> (n * v, d), with the network in evaluation mode."""
        if embeddings.ndim not in (2, 3) or embeddings.shape[-1] != self.dim:
            raise ValueError(
                f"embeddings of shape {tuple(embeddings.shape)}: expected (n, {self.dim}) or "
                f"(n, v, {self.dim}), from the encoder whose text embeddings trained the network"
            )
        self.eval()
        return to_tensor(embeddings, torch.float32).reshape(-1, self.dim)


def train_fnn(
    normal: Array,
    anomalous: Array,
    *,
    epochs: int = 2,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    same_pair: bool = True,
    seed: int = 0,
    hidden: Sequence[int] = (256, 256, 256),
    dropout: float = 0.5,
) -> FNN:
    """Train the FNN on text embeddings: binary cross-entropy, normal 0, anomalous 1 (RWDA, Sec. 3.3, 4.2).

    normal, anomalous: (n, d), row i of both from pair i. Give them raw (`embed_text(…, normalize=False)`):
        the paper marks a normalised vector with a bar and writes the FNN's inputs without it.
    same_pair, batch_size: see `paired_batches`. hidden, dropout: see `FNN`.
    seed: weights, dropout and order. Equal seeds and embeddings give equal weights, bit by bit, on one
        machine; the global random state is left as it was.
    Returns the network in evaluation mode, on the CPU: it is too small to gain from another device.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: expected 1 or more")
    if normal.ndim != 2 or normal.shape != anomalous.shape or len(normal) < 2:
        raise ValueError(
            f"normal {tuple(normal.shape)} and anomalous {tuple(anomalous.shape)}: "
            "expected the same shape (n, d), n >= 2, one row of each for every pair"
        )
    embeddings = torch.cat([to_tensor(side, torch.float32) for side in (normal, anomalous)])  # (2 n, d)
    if not embeddings.isfinite().all():
        raise ValueError("embeddings that are NaN or infinite: check the encoder's precision and weights")
    n_pairs, dim = normal.shape
    targets = torch.arange(2 * n_pairs).ge(n_pairs).float()  # (2 n,)
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        network = FNN(dim, hidden, dropout).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * 0.1 if epoch else lr  # decays, the paper says not how much
            for batch in paired_batches(n_pairs, order, batch_size, same_pair):
                loss = F.binary_cross_entropy_with_logits(network(embeddings[batch]), targets[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from more threads, and how these share a sum shows in the weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def paired_batches(
    n_pairs: int, order: torch.Generator, batch_size: int = 128, same_pair: bool = True
) -> list[torch.Tensor]:
    """One epoch's batches, as indices into the 2 n embeddings: i and n + i are the two of pair i.

    same_pair: True keeps the two of a pair in one batch (RWDA, Sec. 3.3); False shuffles them all freely.
    batch_size: counts embeddings, so that 128 are 64 pairs. The paper says "a batch size of 128" and that a
        batch is made of pairs. A last batch of one, which batch norm cannot train on, joins the one before.
    """
    if batch_size < 2 or (same_pair and batch_size % 2):
        raise ValueError(f"batch_size={batch_size}: expected 2 embeddings or more, an even number for pairs")
    if same_pair:
        pairs = torch.randperm(n_pairs, generator=order)  # (n,)
        return [torch.cat([chunk, chunk + n_pairs]) for chunk in pairs.split(batch_size // 2)]
    batches = list(torch.randperm(2 * n_pairs, generator=order).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
