"""RWDA's feed-forward network (FNN): trained on text embeddings, applied to image embeddings."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from zsad_core.devices import fast_products, one_thread
from zsad_core.scores import Array, like, to_tensor


class FNN(nn.Module):
    """Hidden layers of linear, batch norm, ReLU, dropout, then one linear layer to a logit (RWDA, Sec. 4.2).

    dim: size of the embeddings. hidden: widths; the paper gives none, but among equal widths and among
    non-increasing powers of two only 256-256-256 adds the 0.30M parameters of Table 3.
    normalize: bring inputs to length 1. The paper marks such vectors with a bar, the FNN's inputs have none.

    >>> sum(p.numel() for p in FNN(640).parameters())
    297473
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (256, 256, 256), *, normalize: bool = False) -> None:
        super().__init__()
        if not hidden or min(dim, *hidden) < 1:
            raise ValueError(f"dim={dim}, hidden={hidden}: expected widths from 1")
        widths = zip((dim, *hidden), hidden)
        layers = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in widths]
        self.layers = nn.Sequential(*(nn.Sequential(*layer) for layer in layers))
        self.last = nn.Linear(hidden[-1], 1)
        self.dim, self.normalize = dim, normalize

    def forward(self, embeddings: torch.Tensor, kept: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """(n, d) -> logits (n,). kept: dropout's factors (n, width) for each layer, while training."""
        for layer, factors in zip_longest(self.layers, kept):
            embeddings = layer(embeddings) if factors is None else layer(embeddings) * factors
        return self.last(embeddings)[:, 0]

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
            expected = f"(n, {self.dim}) or (n, v, {self.dim}), from the encoder that it was trained with"
            raise ValueError(f"embeddings of shape {tuple(embeddings.shape)}: expected {expected}")
        self.eval()
        rows = to_tensor(embeddings, torch.float32).reshape(-1, self.dim)
        return F.normalize(rows, dim=-1) if self.normalize else rows


def train_fnn(normal: Array, anomalous: Array, *, seed: int = 0, **options: Any) -> FNN:
    """Train the FNN on the text embeddings of all pairs. options: of `train_fnns`."""
    return train_fnns(normal, anomalous, {seed: range(len(normal))}, **options)[seed]


def train_fnns(
    normal: Array,
    anomalous: Array,
    draws: Mapping[int, Sequence[int]],
    *,
    epochs: int = 2,
    batch_size: int = 128,
    lr: float = 1e-3,
    decay: float = 0.1,
    weight_decay: float = 1e-4,
    same_pair: bool = True,
    hidden: Sequence[int] = (256, 256, 256),
    dropout: float = 0.5,
    normalize: bool = False,
) -> dict[int, FNN]:
    """Train one FNN a seed, side by side: binary cross-entropy, normal 0, anomalous 1 (RWDA, Sec. 3.3, 4.2).

    normal, anomalous: (n, d), row i of both from pair i, raw.
    draws: {seed: pairs that its network learns from}, equally many each. A seed decides on weights, dropout
        and order. Equal inputs give equal weights, up to rounding whoever is trained beside, bit by bit in
        the same company on one machine; the global random state is left as it was.
    decay: the learning rate "is decayed after 1 epoch", the paper says not how much; a tenth is usual.
    dropout: the paper gives no rate; 0.5 is that of the work that it cites.
    """
    if epochs < 1 or not 0 <= dropout < 1:
        raise ValueError(f"epochs={epochs}, dropout={dropout}: expected 1 epoch or more, a rate in [0, 1)")
    pairs = torch.stack([torch.as_tensor(own) for own in draws.values()])  # (s, k)
    if normal.ndim != 2 or normal.shape != anomalous.shape or pairs.shape[1] < 2:
        shapes = (
            f"normal {tuple(normal.shape)}, anomalous {tuple(anomalous.shape)}, draws {tuple(pairs.shape)}"
        )
        raise ValueError(f"{shapes}: expected the same shape (n, d), a row a pair, and draws of 2 or more")
    embeddings = torch.cat([to_tensor(side, torch.float32) for side in (normal, anomalous)])  # (2 n, d)
    if not embeddings.isfinite().all():
        raise ValueError("embeddings that are NaN or infinite: check the encoder's precision and weights")
    embeddings = F.normalize(embeddings, dim=-1) if normalize else embeddings
    rows, n_pairs = torch.cat([pairs, pairs + len(normal)], dim=1), pairs.shape[1]  # (s, 2 k)
    with one_thread(), fast_products(embeddings.device):
        networks = {seed: _fresh(seed, normal.shape[1], hidden, normalize) for seed in draws}
        one = next(iter(networks.values()))
        parameters, buffers = stack_module_state(list(networks.values()))  # (s, ...) each
        random = [torch.Generator().manual_seed(seed) for seed in draws]
        optimizer = torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=weight_decay, fused=True)

        def loss(parameters, buffers, embeddings, targets, kept):
            logits = functional_call(one, (parameters, buffers), (embeddings, kept))
            return F.binary_cross_entropy_with_logits(logits, targets)

        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * decay if epoch else lr
            for batches in zip(*(paired_batches(n_pairs, own, batch_size, same_pair) for own in random)):
                batch = torch.stack(batches)  # (s, b)
                inputs = embeddings.index_select(0, rows.gather(1, batch).flatten()).unflatten(0, batch.shape)
                kept = [_kept(random, (batch.shape[1], width), dropout) for width in hidden]
                losses = vmap(loss)(parameters, buffers, inputs, batch.ge(n_pairs).float(), kept)  # (s,)
                optimizer.zero_grad()
                losses.sum().backward()
                optimizer.step()
    for k, network in enumerate(networks.values()):
        network.load_state_dict({name: value[k] for name, value in (parameters | buffers).items()})
        network.eval()
    return networks


def _fresh(seed: int, dim: int, hidden: Sequence[int], normalize: bool) -> FNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FNN(dim, hidden, normalize=normalize).train()


def _kept(random: Sequence[torch.Generator], shape: tuple[int, int], dropout: float) -> torch.Tensor:
    """Dropout's factors (s, b, width), drawn by each seed for itself: 0, or what keeps the mean."""
    drawn = torch.stack([torch.rand(shape, generator=own) for own in random])
    return drawn.ge_(dropout).div_(1 - dropout)


def paired_batches(
    n_pairs: int, order: torch.Generator, batch_size: int = 128, same_pair: bool = True
) -> list[torch.Tensor]:
    """One epoch's batches, as indices into the 2 n embeddings: i and n + i are the two of pair i.

    same_pair: True keeps the two of a pair in one batch (RWDA, Sec. 3.3); False shuffles them all freely.
    batch_size: counts embeddings: 128 are 64 pairs. A last batch of one, which batch norm cannot train on,
        joins the one before.
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
