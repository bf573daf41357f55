import json

import pytest
from helpers import refused

from zsad_core.encoders import load_encoder
from zsad_core.learnable_prompts import PromptDesign
from zsad_core.prompt_config import PRESETS, PromptConfig, prompt_config_of


def test_the_released_preset_is_the_published_recipe():
    key = PromptConfig().key()
    design = key.pop("design")
    assert design == {
        "context_length": 12, "shared": False, "states": ["", "damaged"], "object_word": "object",
        "ending": ".", "depth": 9, "length": 4, "deep": "overwrite", "half": False,
    }  # fmt: skip
    assert key == {
        "attention": "vv", "first": 0, "layers": [], "n_layers": 1, "final_norm": False, "temperature": 0.07,
        "global_loss": True, "local": ["focal", "dice_anomalous", "dice_normal"], "local_weight": 4.0,
        "optimizer": "adam", "lr": 0.001, "betas": [0.5, 0.999], "weight_decay": 0.0, "epochs": 15,
        "batch_size": 8, "seed": 111,
    }  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_recipe_survives_json(preset, small_clip):
    config = prompt_config_of(small_clip(), preset)
    assert PromptConfig.from_key(json.loads(json.dumps(config.key()))) == config


def test_a_recipe_fits_the_depth_of_the_encoder(small_clip):
    small, deep = small_clip(), small_clip(layers=24)
    own = prompt_config_of(small)
    assert (own.first, own.layers, own.design.depth) == (1, (4,), 3)
    read = [prompt_config_of(deep, n_layers=n).layers for n in (1, 2, 4)]
    assert read == [(24,), (18, 24), (6, 12, 18, 24)]
    paper = prompt_config_of(deep, "paper", epochs=2, length=3)
    assert (paper.first, paper.layers, paper.epochs, paper.design.length) == (6, (6, 12, 18, 24), 2, 3)
    given = prompt_config_of(deep, first=10, layers=[12, 24], depth=2, states=["", "broken"])
    assert (given.first, given.layers, given.design.depth) == (10, (12, 24), 2)
    assert given == PromptConfig.from_key(given.key())
    coop = PromptDesign(16, True, ("normal", "anomalous"), None, depth=0, length=0)
    assert prompt_config_of(small, "coop").design == coop
    assert prompt_config_of(small, "coop").temperature == small.temperature  # the model's own
    own = prompt_config_of(small, "coop")
    assert (own.optimizer, own.lr, own.epochs, own.batch_size) == ("sgd", 0.002, 50, 32)  # CoOp's paper
    mini = prompt_config_of(load_encoder("zsad-mini", "random", device="cpu"), "paper")
    assert (mini.first, mini.layers, mini.design.depth) == (2, (2, 3, 5, 6), 2)


def test_what_is_refused(small_clip, small_resnet):
    refused("released, paper, coop", prompt_config_of, small_clip(), preset="authors")
    refused("unknown options epoch, rate", prompt_config_of, small_clip(), epoch=3, rate=1)
    refused("'focal', 'dice_anomalous', 'dice_normal'", prompt_config_of, small_clip(), local=["dice"])
    refused("at least one loss", prompt_config_of, small_clip(), local=(), global_loss=False)
    refused("'adam' or 'sgd'", prompt_config_of, small_clip(), optimizer="adamw")
    refused("attention='vq'", prompt_config_of, small_clip(), attention="vq")
    refused("lr=0.0", prompt_config_of, small_clip(), lr=0.0)
    refused("n_layers=5", prompt_config_of, small_clip(), n_layers=5)
    refused("class token", prompt_config_of, small_resnet)
