import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st

from zsad_core.fnn import FNN, _kept, paired_batches, train_fnn, train_fnns


def gaussians(n=200, d=12, shift=1.0):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator) + shift


@given(n_pairs=st.integers(1, 60), half=st.integers(1, 20), seed=st.integers(0, 99))
def test_batches_cover_everything_and_hold_both_of_each_pair(n_pairs, half, seed):
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


def test_free_batches_do_split_pairs_and_pairs_are_64_a_batch():
    batches = paired_batches(1000, torch.Generator().manual_seed(0), same_pair=False)
    assert sum(len(set((batch % 1000).tolist())) for batch in batches) > 1500  # 1000 if pairs stayed together
    assert len(paired_batches(10_000, torch.Generator())) == 157


def test_same_seed_same_bits_and_global_state_untouched():
    normal, anomalous = gaussians()
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train_fnn(normal, anomalous, seed=5)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(8)
    second = train_fnn(normal.numpy(), anomalous.numpy(), seed=5)
    assert torch.get_num_threads() == threads
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.last.weight, train_fnn(normal, anomalous, seed=6).last.weight)


def test_networks_side_by_side_are_those_trained_alone():
    normal, anomalous = gaussians()
    draws = {3: [5, 9, 2, 7, 100, 11], 4: list(range(194, 200))}
    together = train_fnns(normal, anomalous, draws, batch_size=4, hidden=(9, 8))
    for seed, own in draws.items():
        alone = train_fnn(normal[own], anomalous[own], seed=seed, batch_size=4, hidden=(9, 8))
        # biases before a batch norm have no gradient but rounding, which Adam scales up to its rate
        torch.testing.assert_close(together[seed].score(normal), alone.score(normal), rtol=0, atol=1e-3)
        assert together[seed].layers[0][1].num_batches_tracked == 6
    assert (together[3].score(normal) - together[4].score(normal)).abs().max() > 0.01


def test_dropout_drops_its_share_and_keeps_the_mean():
    kept = _kept([torch.Generator().manual_seed(s) for s in (0, 1)], (400, 50), 0.2)
    assert set(kept.unique().tolist()) == {0.0, 1.25} and (kept[0] != kept[1]).any()
    assert kept.mean((1, 2)).tolist() == pytest.approx([1, 1], abs=0.02)


def test_two_steps_are_adamw_on_binary_cross_entropy():
    """Without dropout, one batch an epoch; the learning rate decays after the first; inputs have length 1."""
    normal, anomalous = gaussians(8, 4)
    options = {"hidden": (5,), "dropout": 0.0, "weight_decay": 0.1, "decay": 0.3, "normalize": True}
    trained = train_fnn(normal, anomalous, epochs=2, seed=1, **options)
    torch.testing.assert_close(trained.score(3 * normal), trained.score(normal))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        own = FNN(4, (5,)).double().train()
    x = F.normalize(torch.cat([normal, anomalous]).double(), dim=-1)
    y = torch.cat([torch.zeros(8), torch.ones(8)]).double()
    first, second = 0.0, 0.0
    for step, lr in ((1, 1e-3), (2, 3e-4)):
        p = torch.sigmoid(own(x))
        loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        values = list(own.parameters())
        slopes = torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, values)])
        first, second = 0.9 * first + 0.1 * slopes, 0.999 * second + 0.001 * slopes**2
        moved = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        with torch.no_grad():
            flat = torch.cat([value.flatten() for value in values])
            torch.nn.utils.vector_to_parameters(flat * (1 - lr * 0.1) - lr * moved, values)
    found, expected = dict(trained.named_parameters()), dict(own.named_parameters())
    noise = next(iter(found))[:-6] + "bias"  # before a batch norm a bias has no gradient but rounding
    for name in found.keys() - {noise}:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-4, atol=1e-5)


def test_views_and_features():
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
    expected = torch.sigmoid(logits[:, 0].double())
    torch.testing.assert_close(network.score(normal), expected, rtol=1e-5, atol=1e-6)


def test_bad_arguments():
    normal, anomalous = gaussians(10)
    refused("same shape", train_fnn, normal, torch.zeros(9, 12))
    refused("NaN", train_fnn, torch.full((10, 12), torch.nan), anomalous)
    refused("epochs=0", train_fnn, normal, anomalous, epochs=0)
    refused("even number", train_fnn, normal, anomalous, batch_size=7)


def test_the_papers_network_and_features_of_another_width():
    network = FNN(640)  # Table 3: 77.81M -> 78.11M parameters
    assert sum(p.numel() for p in network.parameters()) == 297_473
    refused(r"expected \(n, 640\)", network.score, torch.zeros(3, 13))
