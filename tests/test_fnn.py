from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from zsad_core.fnn import FNN, paired_batches, train_fnn


def gaussians(n: int = 200, d: int = 12, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator) + shift


def weights(network: FNN) -> list[np.ndarray]:
    return [value.numpy() for value in network.state_dict().values()]


def test_parameters_at_the_papers_scale() -> None:
    # Table 3: 77.81M -> 78.11M, with 77,812,224 the exact count of the backbone's profiler
    assert sum(p.numel() for p in FNN(640).parameters()) == 297_473
    assert round((77_812_224 + 297_473) / 1e6, 2) == 78.11


@settings(max_examples=60, deadline=None)
@given(n_pairs=st.integers(1, 60), half=st.integers(1, 20), seed=st.integers(0, 99))
def test_batches_cover_everything_and_hold_both_of_each_pair(n_pairs: int, half: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    free = paired_batches(n_pairs, generator, batch_size=2 * half + 1, same_pair=False)
    assert min(len(batch) for batch in free) >= 2  # a single one has no batch norm
    assert sorted(torch.cat(free).tolist()) == list(range(2 * n_pairs))
    batches = paired_batches(n_pairs, generator, batch_size=2 * half)
    for batch in batches:
        indices = set(batch.tolist())
        assert len(indices) == len(batch) <= 2 * half
        assert {i % n_pairs for i in indices if i < n_pairs} == {i % n_pairs for i in indices if i >= n_pairs}
    assert sorted(torch.cat(batches).tolist()) == list(range(2 * n_pairs))


def test_free_batches_do_split_pairs_and_pairs_are_64_a_batch() -> None:
    batches = paired_batches(1000, torch.Generator().manual_seed(0), same_pair=False)
    split = sum(len(set((batch % 1000).tolist())) for batch in batches)
    assert split > 1500  # 1000 if every pair stayed together
    assert len(paired_batches(10_000, torch.Generator())) == 157


def test_separates_gaussians_and_scores_held_out_ones() -> None:
    normal, anomalous = gaussians(2000)
    network = train_fnn(normal[:1000], anomalous[:1000])
    held_out = torch.cat([normal[1000:], anomalous[1000:]])
    scores = network.score(held_out)
    assert scores.shape == (2000,) and bool(((scores >= 0) & (scores <= 1)).all())
    assert roc_auc_score([0] * 1000 + [1] * 1000, scores) > 0.97


def test_same_seed_same_bits_and_global_state_untouched() -> None:
    normal, anomalous = gaussians()
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train_fnn(normal, anomalous, seed=5)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(8)
    second = train_fnn(normal.numpy(), anomalous.numpy(), seed=5)
    assert torch.get_num_threads() == threads
    for a, b in zip(weights(first), weights(second), strict=True):
        assert a.tobytes() == b.tobytes()
    third = train_fnn(normal, anomalous, seed=6)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(weights(first), weights(third), strict=True))


def test_one_step_is_adamw_on_binary_cross_entropy() -> None:
    """One step without dropout, against the update written out in float64."""
    normal, anomalous = gaussians(8, 4)
    trained = train_fnn(
        normal, anomalous, epochs=1, hidden=(5,), dropout=0.0, lr=0.01, weight_decay=0.1, seed=1
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        start = FNN(4, (5,), 0.0).double()
    x = torch.cat([normal, anomalous]).double()
    y = torch.cat([torch.zeros(8), torch.ones(8)]).double()
    p = torch.sigmoid(start.train()(x))
    loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    for (name, value), gradient in zip(
        start.named_parameters(), torch.autograd.grad(loss, list(start.parameters())), strict=True
    ):
        # Adam's first step: both bias-corrected moments reduce to the gradient and its square
        step = 0.01 * gradient / (gradient.abs() + 1e-8) if gradient.abs().max() > 1e-7 else None
        if step is not None:  # the first bias has no gradient under batch norm, only noise
            expected = value.detach() * (1 - 0.01 * 0.1) - step
            torch.testing.assert_close(
                dict(trained.named_parameters())[name].double(), expected, rtol=1e-4, atol=1e-5
            )


def test_learning_rate_is_a_tenth_after_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: [rates.append(self.param_groups[0]["lr"]), step(self)][1]
    )
    train_fnn(*gaussians(64), epochs=3, lr=0.01)
    assert rates == pytest.approx([0.01, 0.001, 0.001])


def test_views_and_features() -> None:
    normal, anomalous = gaussians(60)
    network = train_fnn(normal, anomalous, hidden=(7, 6, 5))
    views = normal.reshape(10, 6, 12)
    torch.testing.assert_close(network.score(views).reshape(-1), network.score(normal))
    assert isinstance(network.score(normal.numpy()), np.ndarray)
    features = network.features(normal)
    assert [f.shape for f in features] == [(60, 7), (60, 6), (60, 5)]
    assert all(bool((f >= 0).all()) for f in features)
    torch.testing.assert_close(network.train().features(normal)[0], features[0], rtol=0, atol=0)  # no dropout
    logits = features[2] @ network.last.weight.detach().T + network.last.bias.detach()
    torch.testing.assert_close(
        network.score(normal), torch.sigmoid(logits[:, 0].double()), rtol=1e-5, atol=1e-6
    )


def test_bad_arguments() -> None:
    normal, anomalous = gaussians(10)
    with pytest.raises(ValueError, match="expected the same shape"):
        train_fnn(normal, anomalous[:9])
    with pytest.raises(ValueError, match="NaN or infinite"):
        train_fnn(normal * float("nan"), anomalous)
    with pytest.raises(ValueError, match="epochs=0"):
        train_fnn(normal, anomalous, epochs=0)
    with pytest.raises(ValueError, match="even number"):
        train_fnn(normal, anomalous, batch_size=7)
    with pytest.raises(ValueError, match=r"expected \(n, 12\)"):
        train_fnn(normal, anomalous).score(torch.zeros(3, 13))
    with pytest.raises(ValueError, match="dropout=1"):
        FNN(8, dropout=1.0)
