"""The mini CLIP's training: losses, forward, schedules, batches, resuming; tiny model, fake renderer."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from PIL import Image
from safetensors.torch import load_file

from data_scripts.mini_clip import batches
from data_scripts.mini_clip.batches import make_batch, normalise, patchify, tokenize
from data_scripts.mini_clip.losses import info_nce, state_margin
from data_scripts.mini_clip.optim import Schedule
from data_scripts.mini_clip.pairs import open_pairs, render_pairs
from data_scripts.mini_clip.towers import build_model, encode_patches, encode_tokens
from data_scripts.train_mini_clip import Recipe, export, train

VISION = {"image_size": 48, "patch_size": 6, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TINY = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
CATEGORIES = ("disc", "bar")


def fake_pair(category, seed, size=48):
    """A grey square of noise; the anomalous partner has a black blot."""
    rng = np.random.default_rng([seed, len(category)])
    normal = rng.integers(100, 156, (size, size, 3), dtype=np.uint8)
    mask = np.zeros((size, size), dtype=bool)
    top, left = rng.integers(8, size - 16, 2)
    mask[top : top + 8, left : left + 8] = True
    blotted = np.where(mask[..., None], 0, normal).astype(np.uint8)
    return SimpleNamespace(normal=normal, anomalous=blotted, mask=mask, facts={"category": category})


def fake_caption(facts, damaged, rng, window=False):
    state = "damaged " if damaged and rng.random() < 0.9 else ""
    return f"a {'close-up' if window else 'photo'} of a {state}{facts['category']}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    render_pairs(folder, 10, CATEGORIES, fake_pair, size=48, chunk=4, jobs=1)
    return open_pairs(folder)


def unit_rows(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def test_info_nce_shares_the_target_among_equal_captions():
    images, texts, scale = unit_rows(6, 8, 0), unit_rows(3, 8, 1), torch.tensor(9.0)
    caption = torch.tensor([0, 1, 0, 2, 0, 1])
    logits = scale * images @ texts[caption].T  # (6, 6), equal captions repeated
    target = (caption[:, None] == caption).double()
    target = target / target.sum(1, keepdim=True)
    # Soft-target cross entropy is computed on columns that repeat: log Z counts each repetition.
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(info_nce(images, texts, caption, scale), expected)


def test_state_margin_is_two_way_softmax():
    images, normal, damaged = unit_rows(4, 8, 4), unit_rows(2, 8, 5), unit_rows(2, 8, 6)
    state, scale = torch.tensor([True, False, False, True]), torch.tensor(5.0)
    two_way = torch.stack([scale * images @ normal.T, scale * images @ damaged.T], dim=-1)  # (4, 2, 2)
    expected = F.cross_entropy(two_way.flatten(0, 1), state.long().repeat_interleave(2))
    loss, margins = state_margin(images, normal, damaged, state, scale)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(margins, two_way[..., 1] - two_way[..., 0])


def test_training_forward_equals_open_clip():
    model = build_model(TINY).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    preprocess = open_clip.image_transform(48, is_train=False)
    pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    texts = ["a photo of a damaged object", "bolt", "x" * 300]
    with torch.no_grad():
        x = normalise(patchify(images, 6))
        mine = encode_patches(model, x, torch.arange(64).expand(3, -1))[0]
        torch.testing.assert_close(mine, model.encode_image(pixels, normalize=True), atol=1e-4, rtol=0)
        native = model.encode_text(open_clip.tokenize(texts), normalize=True)
        torch.testing.assert_close(encode_tokens(model, tokenize(texts)), native, atol=1e-4, rtol=0)
        torch.testing.assert_close(encode_tokens(model, tokenize(texts[:1])), native[:1], atol=1e-4, rtol=0)


def test_schedule():
    long = Schedule(1000, 100)
    assert (long.rate(0), long.rate(79), long.rate(899), long.rate(950)) == (1 / 80, 1, 1, 0.5)
    assert (long.margin_weight(600), long.margin_weight(1000), long.mask_weight(0)) == (0.3, 0, 1)
    assert long.drops_patches(499) and not long.drops_patches(500)
    refused("decay_steps is 11", Schedule, 10, 11)


def test_patches_and_windows_hold_the_defect():
    rng, pixels = np.random.default_rng(0), np.zeros((8, 8), dtype=int)
    pixels[2, 5], pixels[2, 6] = 30, 7
    for size in (2, 3, 5):
        kept = batches.keep_patches(pixels.ravel(), 36, rng)
        assert len(set(kept)) == 36 and {21, 22} <= set(kept)
        damaged, clean, elsewhere = batches.choose_windows(pixels, size, 0.5, rng)
        assert pixels.ravel()[damaged].sum() >= batches.LEAST_DEFECT_PIXELS
        assert pixels.ravel()[clean].sum() == 0 if elsewhere else (clean == damaged).all()
        rows, columns = np.divmod(damaged, 8)
        assert (np.ptp(rows), np.ptp(columns), len(damaged)) == (size - 1, size - 1, size * size)


def test_batches_are_moved_together_and_tell_the_state_of_what_is_seen(pairs):
    def caption(facts, damaged, rng, window=False):
        return "damaged" if damaged else "whole"

    options = {"seed": 0, "step": 4, "patch": 6, "full_pairs": 3, "window_pairs": 5, "kept": 36}
    batch, again = (make_batch(pairs, caption, **options) for _ in range(2))
    seen = torch.cat([views.defect_pixels.sum(1) > 0 for views in (batch.full, batch.windows)])
    assert torch.equal(batch.damaged, seen) and seen.tolist() == [False, True] * 8
    rows = batch.tokens[batch.caption]
    assert torch.equal((rows == rows[1]).all(1), seen)
    torch.testing.assert_close(batch.full.index[0::2], batch.full.index[1::2], rtol=0, atol=0)
    torch.testing.assert_close(batch.full.patches, again.full.patches, rtol=0, atol=0)
    pair = fake_pair("disc", 3)
    both, rng = np.stack([pair.normal, pair.anomalous]), np.random.default_rng(5)
    images, mask = batches.augment(both, pair.mask, rng)
    assert mask.any()
    np.testing.assert_array_equal((images[0] != images[1]).any(axis=2), mask)


def test_resumed_training_equals_unbroken_training(tmp_path, pairs):
    recipe = Recipe(full_pairs=2, window_pairs=2, bf16=False)
    schedule = Schedule(6, 2, warmup_steps=2)
    options = {"config": TINY, "log_every": 100, "keep_every": 3}
    file = train(pairs, tmp_path / "whole", recipe, schedule, fake_caption, **options)
    whole = torch.load(file, weights_only=True)
    stop, calls = threading.Event(), []

    def caption_until_third_step(*args, **kwargs):
        calls.append(1)
        if len(calls) > 2 * 8:  # the third step's batch is being made, so one or two steps have been taken
            stop.set()
        return fake_caption(*args, **kwargs)

    broken = tmp_path / "broken"
    train(pairs, broken, recipe, schedule, caption_until_third_step, stop=stop, **options)
    assert 0 < torch.load(broken / "checkpoint.pt", weights_only=True)["step"] < 6
    resumed = torch.load(train(pairs, broken, recipe, schedule, fake_caption, **options), weights_only=True)
    assert whole["step"] == resumed["step"] == 6
    for part in ("model", "heads", "optimizers"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    start = build_model(TINY)
    assert not torch.equal(start.visual.proj, whole["model"]["visual.proj"])
    export(broken / "checkpoint.pt", tmp_path / "model.safetensors")
    start.load_state_dict(load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(start.visual.proj, whole["model"]["visual.proj"], atol=1e-3, rtol=1e-3)
    assert (tmp_path / "model.sha256").read_text().endswith("  model.safetensors\n")
    other = replace(recipe, seed=1)
    refused("another folder", train, pairs, broken, other, schedule, fake_caption, **options)


def test_pairs_resume_and_bad_input_is_told(tmp_path, pairs):
    for _ in range(2):
        render_pairs(tmp_path, 10, CATEGORIES, fake_pair, size=48, chunk=4, jobs=1)
        again = open_pairs(tmp_path)
        for i in range(10):
            expected = fake_pair(again[i][2]["category"], i)
            np.testing.assert_array_equal(again[i][1], expected.mask)
            np.testing.assert_array_equal(again[i][0], np.stack([expected.normal, expected.anomalous]))
        (tmp_path / "facts-00001.jsonl").unlink()
    small = TINY | {"vision_cfg": VISION | {"image_size": 24}}
    few = Recipe(full_pairs=2, window_pairs=2)
    for recipe, config, message in ((Recipe(), TINY, "84 pairs"), (few, small, "48 pixels wide")):
        refused(message, train, pairs, tmp_path, recipe, Schedule(2, 1), fake_caption, config=config)
