"""Training on cached features against a step from the images on; seeds, checkpoints, what is refused."""

import math
import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from PIL import Image
from test_losses import plain

from zsad_core import image_features, prompt_learning
from zsad_core.auxiliary import auxiliary_of
from zsad_core.datasets import load_dataset, stretched_mask
from zsad_core.dpam import attention_kinds, dual_path
from zsad_core.encoders import load_encoder
from zsad_core.image_features import glocal_extractor
from zsad_core.learnable_prompts import encode, freeze, initial_parameters
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts, glocal_loss, texts_of, train_prompts, train_side_by_side
from zsad_core.prompts import object_name
from zsad_papers.anomalyclip import learning

SHORT = {"epochs": 3, "batch_size": 3}


@pytest.fixture(scope="module")
def encoder(small_clip):
    return small_clip()


@pytest.fixture
def toys(toy_set):
    return toy_set()


@pytest.fixture
def train(encoder, tmp_path):
    def train(dataset, **options):
        return train_prompts(encoder, dataset, **{"cache_dir": tmp_path / "cache", **SHORT, **options})

    return train


def same(one, other):
    if one.parameters.keys() != other.parameters.keys():
        return False
    equal = [torch.equal(value, other.parameters[name]) for name, value in one.parameters.items()]
    return all(equal) and one.losses == other.losses and one.config == other.config


def from_images(encoder, config, parameters, dataset, rows):
    """The loss of a batch without any cache: images through the tower, maps of two channels, image by image
    the prompts of its own category."""
    visual = encoder.model.visual
    images = [dataset.image(i).resize(encoder.image_size, Image.Resampling.BICUBIC) for i in rows]
    masks = torch.from_numpy(np.stack([stretched_mask(dataset.mask(i), encoder.image_size) for i in rows]))
    pixels, labels = torch.stack([encoder.preprocess(image) for image in images]), dataset.labels[rows]
    kinds = attention_kinds(config.attention)
    class_token, tokens = dual_path(visual, pixels, config.layers, kinds, config.first)
    class_token = visual.ln_post(class_token) if config.final_norm else class_token
    heads = F.normalize(class_token @ visual.proj, dim=-1)
    names = [object_name(dataset.meta["category"].iloc[i]) for i in rows]
    each = [freeze(encoder, [config.design], [name]) for name in names]
    texts = torch.cat([encode(encoder, config.design, parameters, frozen)[0] for frozen in each])
    logits = torch.stack([texts[i] @ heads[i] for i in range(len(rows))]) / config.temperature
    loss = F.cross_entropy(logits, torch.from_numpy(labels)) if config.global_loss else 0
    for layer in config.layers if config.local else ():
        cosines = 0
        for kind in kinds:
            patches = F.normalize(visual.ln_post(tokens[kind][layer][:, 1:]) @ visual.proj, dim=-1)
            cosines = cosines + patches @ texts.mT / len(kinds)  # (b, patches, 2)
        anomalous = (cosines / config.temperature).softmax(-1)[..., 1].unflatten(1, encoder.grid)
        loss = loss + config.local_weight * plain(anomalous, masks, config.local)
    return loss


def slopes(loss, values):
    own = {name: value.clone().requires_grad_() for name, value in values.items()}
    result = loss(own)
    result.backward()
    return result.detach(), torch.cat([value.grad.flatten() for value in own.values()])


RECIPES = {
    "released": {},
    "paper": {"preset": "paper"},
    "coop": {"preset": "coop", "temperature": 0.07},
    "ensemble of kinds, names": {"attention": "qq+kk+vv", "object_word": None, "states": ("", "broken")},
    "masks alone": {"global_loss": False, "local": ("dice_anomalous",), "shared": True},
}


@pytest.mark.parametrize("options", RECIPES.values(), ids=RECIPES)
def test_a_step_on_cached_features_is_a_step_from_the_images_on(toys, tmp_path, monkeypatch, options):
    # trained weights: with random ones patches are nearly parallel, which costs float32 half its digits
    mini = load_encoder("zsad-mini", device="cpu")
    monkeypatch.setattr(image_features, "PART", 3)  # of 4 images a category
    rows = [5, 0, 2, 7, 3]
    config, chosen = prompt_config_of(mini, **options), toys.select(split="test")
    start = initial_parameters(mini, config.design, torch.Generator().manual_seed(0))
    loss, slope = slopes(lambda values: from_images(mini, config, values, chosen, rows), start)
    names = ["metal nut", "wood"] if config.design.object_word is None else ["object"]
    frozen = freeze(mini, [config.design], names)
    for dtype, close in ((torch.float32, 1e-5), (torch.float16, 1e-4)):
        options = config.layers, config.attention, config.first, config.final_norm
        extractor = replace(glocal_extractor(mini, *options), dtype=dtype)
        material = auxiliary_of(chosen, extractor, tmp_path)
        batch = material.batch(np.array(rows), config.layers if config.local else ())

        def cached(values, batch=batch):
            texts = texts_of(mini, config.design, values, frozen, batch.names[None])[0]
            return glocal_loss(mini, config, texts, batch)

        found = slopes(cached, start)
        torch.testing.assert_close(found[0], loss, rtol=close, atol=close)
        scale = slope.abs().max().item()
        torch.testing.assert_close(found[1] / scale, slope / scale, rtol=0, atol=close)


def test_side_by_side_each_learns_what_it_learns_alone(encoder, toys, train, tmp_path):
    options = [{}, {"states": ("", "very broken")}, {"attention": "qk", "n_layers": 2}, {"local": ()}]
    options += [{"seed": 5}]
    configs = [prompt_config_of(encoder, **SHORT, **own) for own in options]
    other = prompt_config_of(encoder, **SHORT, context_length=8)
    assert learning.side_by_side([*configs, other]) == [[configs[-1], *configs[:-1]], [other]]
    together = train_side_by_side(encoder, toys.select(split="test"), configs, cache_dir=tmp_path / "cache")
    for own, found in zip(options, together, strict=True):
        alone = train(toys, **own)
        assert found.config == alone.config and found.losses == pytest.approx(alone.losses, rel=1e-4)
        torch.testing.assert_close(found.parameters, alone.parameters, rtol=1e-3, atol=1e-5)


def test_seeds(encoder, toys, train):
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    threads = torch.get_num_threads()
    one, again, other = train(toys), train(toys), train(toys, seed=5)
    assert same(one, again)
    assert all(not torch.equal(value, other.parameters[name]) for name, value in one.parameters.items())
    assert torch.equal(torch.get_rng_state(), states[0]) and torch.get_num_threads() == threads
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]
    start = train(toys, epochs=0)
    drawn = initial_parameters(encoder, one.config.design, torch.Generator().manual_seed(111))
    assert start.losses == () and start.parameters.keys() == drawn.keys()
    assert all(torch.equal(value, drawn[name]) for name, value in start.parameters.items())


@pytest.mark.parametrize("preset", ["released", "coop"])
def test_a_killed_training_goes_on_from_the_last_epoch(toys, train, tmp_path, monkeypatch, preset):
    whole = train(toys, preset=preset, epochs=4)
    steps = []

    def killed(*arguments):
        steps.append(1)
        if len(steps) == 8:  # 3 steps an epoch: in the third one
            raise KeyboardInterrupt
        return glocal_loss(*arguments)

    monkeypatch.setattr(prompt_learning, "glocal_loss", killed)
    checkpoint = tmp_path / "new" / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(toys, preset=preset, epochs=4, checkpoint=checkpoint)
    assert LearnedPrompts.load(checkpoint).losses == tuple([loss] for loss in whole.losses[:2])
    resumed = train(toys, preset=preset, epochs=4, checkpoint=checkpoint)
    assert len(steps) == 8 + 2 * 3 and same(resumed, whole)
    assert same(train(toys, preset=preset, epochs=4, checkpoint=checkpoint), whole) and len(steps) == 14


def test_a_checkpoint_of_another_training_is_refused(toys, toy_set, train, small_clip, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    train(toys, checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    message = "belongs to another training .* delete it, or choose another"
    for options in ({"lr": 0.1}, {"seed": 1}, {"preset": "paper"}):
        refused(message, train, toys, checkpoint=checkpoint, **options)
    refused(message, train_prompts, small_clip(seed=1), toys, checkpoint=checkpoint, **SHORT)
    mask = next((toys.root / "wood" / "ground_truth" / "hole").iterdir())
    Image.new("L", (36, 36), 255).save(mask)
    refused(message, train, load_dataset(toys.root), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == content


def test_a_loss_that_is_not_finite_stops_and_the_last_good_epoch_stays(toys, train, tmp_path, monkeypatch):
    good, checkpoint = train(toys, epochs=1), tmp_path / "checkpoint.safetensors"
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1: lower lr=1e\+38"):
        train(toys, lr=1e38, checkpoint=checkpoint, batch_size=99)  # no later step whose loss would show it
    assert not checkpoint.exists()
    steps = []

    def broken(*arguments):
        steps.append(1)
        return glocal_loss(*arguments) * (math.nan if len(steps) == 5 else 1)

    monkeypatch.setattr(prompt_learning, "glocal_loss", broken)
    with pytest.raises(FloatingPointError, match=r"the loss \(nan\) .* epoch 2, step 2: lower lr=0.001"):
        train(toys, checkpoint=checkpoint)
    kept = LearnedPrompts.load(checkpoint)
    assert kept.losses == ([*good.losses],)
    torch.testing.assert_close({k: v[0] for k, v in kept.parameters.items()}, good.parameters, rtol=0, atol=0)


def test_rates_of_sgd_are_coops(toys, train, monkeypatch):
    met, sgd, step = [], torch.optim.SGD, torch.optim.SGD.step
    monkeypatch.setattr(sgd, "step", lambda self: met.append(dict(self.param_groups[0])) or step(self))
    prompts = train(toys, preset="coop", epochs=4, batch_size=8)
    expected = [1e-5, *(0.002 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (1, 2, 3))]
    assert [group["lr"] for group in met] == pytest.approx(expected)
    assert all((group["momentum"], group["weight_decay"]) == (0.9, 5e-4) for group in met)
    assert set(prompts.parameters) == {"context/shared"}


def test_without_masks_the_image_loss_is_left(toy_set, train):
    bare = toy_set(masks=0, name="bare")
    with pytest.warns(UserWarning, match="bare has no masks: prompts are learned with the image loss alone"):
        prompts = train(bare)
    assert prompts.config.local == () and same(train(toy_set(), local=()), prompts)
    refused("bare has no masks, so nothing can be learned from local losses", train, bare, global_loss=False)


def test_sets_that_are_refused(toy_set, train):
    refused("good has no anomalous images; .* from both; add some$", train, toy_set(anomalous=0, name="good"))
    bad = toy_set(normal=0, name="bad")
    refused("bad has no normal images; .* global_loss=False .* masks alone", train, bad)
    assert len(train(bad, global_loss=False).losses) == 3


def test_prompts_survive_the_disk_and_only_whole_ones_are_read(encoder, small_clip, toys, train, tmp_path):
    path = tmp_path / "new" / "prompts.safetensors"
    for preset in ("released", "coop"):
        prompts = train(toys, preset=preset, epochs=2)
        prompts.save(path)
        loaded = LearnedPrompts.load(path)
        assert same(loaded, prompts) and torch.equal(loaded.trained_on, prompts.trained_on)
        assert (loaded.model_id, loaded.weights_id) == (encoder.model_id, encoder.weights_id)
        assert torch.equal(loaded.texts(encoder, ["wood"]), prompts.texts(encoder, ["wood"]))
    refused(r"learned with small@\w+, weights random-seed0", prompts.texts, small_clip(seed=1))
    content = path.read_bytes()
    for keep in (0, -1):
        path.write_bytes(content[:keep])
        refused(r"prompts\.safetensors is no whole .*; learn again", LearnedPrompts.load, path)
    features = next((tmp_path / "cache").rglob("*.safetensors"))
    refused("holds no learned prompts of this book", LearnedPrompts.load, features)
    own = prompts.parameters["context/shared"]
    for changed, message in (
        (replace(prompts, recipe=prompts.recipe | {"later": 1}), "does not know the recipe"),
        (replace(prompts, parameters={"context/shared": own[:1]}), "have the shapes"),
        (replace(prompts, parameters={"context/shared": own + torch.nan}), "not finite"),
    ):
        changed.save(path)
        refused(message, lambda: LearnedPrompts.load(path).texts(encoder))


def test_images_that_trained_the_prompts_are_refused(toys, toy_set, train, tmp_path):
    prompts = train(toys, epochs=0)
    shutil.copytree(toys.root, tmp_path / "copy")
    copy = load_dataset(tmp_path / "copy")  # by content, whatever the folder
    for dataset, seen in ((copy, "8 of 10"), (toys.select("wood", "test"), "4 of 4")):
        message = f"{seen} images of {dataset.name} trained these prompts"
        refused(message, prompts.refuse_training_images, dataset)
    prompts.refuse_training_images(toys.select(split="train"))
    prompts.refuse_training_images(toy_set(seed=1, name="others"))


def test_material_that_is_refused_or_has_no_masks(encoder, toy_set, tmp_path):
    extractor = glocal_extractor(encoder, (2, 4), "vv", 2)
    message = r"2 of 4 anomalous images have no mask, the first is metal_nut/test/hole"
    refused(message, auxiliary_of, toy_set(masks=1), extractor, tmp_path / "cache")
    bare = auxiliary_of(toy_set(masks=0), extractor, tmp_path / "cache")
    assert not bare.has_masks and not bare.batch(np.arange(8), (2, 4)).masks.any()
    network = SimpleNamespace(
        image_size=(1, 1), device=torch.device("cpu"), transform=lambda _: torch.zeros(3, 1, 1)
    )
    blind = replace(extractor, network=network, features=lambda pixels: {"global": pixels.flatten(1)})
    with pytest.warns(UserWarning, match="toys: 2 masks are empty at 1 x 1 pixels"):
        material = auxiliary_of(toy_set().select("wood", "test"), blind, tmp_path)
    assert not material.batch(np.arange(4), ()).masks.any()
    refused("toys has no images", auxiliary_of, toy_set().where(np.zeros(10, bool)), extractor, tmp_path)
