"""Checkpoints in the form of AnomalyCLIP's code, made up for a narrow text tower of 12 blocks."""

import warnings
from dataclasses import replace

import open_clip
import pytest
import torch
from helpers import refused

from zsad_core.learnable_prompts import encode, freeze
from zsad_core.prompt_config import prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts
from zsad_predict.released_prompts import read_released

WIDTH = 64


@pytest.fixture(scope="module")
def load(small_clip):
    own, usual = {"config": {"embed_dim": 32}, "width": 16, "layers": 24}, {"width": WIDTH, "layers": 12}
    return lambda seed=0, **text: small_clip(seed, text=usual | text, **own)


@pytest.fixture(scope="module")
def encoder(load):
    return load()


def released(encoder, words=12, sets=8, length=4):
    """The entries under `prompt_learner`, values drawn with the spread of a trained file."""
    generator, state = torch.Generator().manual_seed(0), {}
    for end, words_after in (("pos", "object."), ("neg", "damaged object.")):
        ids = open_clip.tokenize([" ".join(["X"] * words) + " " + words_after])  # (1, 77)
        embeddings = encoder.model.token_embedding(ids)[None].clone()  # (1, 1, 77, width)
        state[f"ctx_{end}"] = 0.3 * torch.randn(1, 1, words, WIDTH, generator=generator)
        state[f"token_prefix_{end}"] = embeddings[:, :, :1].contiguous()
        state[f"token_suffix_{end}"] = embeddings[:, :, 1 + words :].contiguous()
        state[f"tokenized_prompts_{end}"] = ids[None]  # (1, 1, 77)
    for number in range(sets):
        state[f"compound_prompts_text.{number}"] = 0.3 * torch.randn(length, WIDTH, generator=generator)
        state[f"compound_prompt_projections.{number}.weight"] = torch.zeros(96, WIDTH)
        state[f"compound_prompt_projections.{number}.bias"] = torch.zeros(96)
    return state


def write(path, state):
    torch.save({"prompt_learner": state}, path)
    return path


def test_a_released_file_becomes_learned_prompts(encoder, tmp_path):
    state = released(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts = read_released(write(tmp_path / "epoch_15.pth", state), encoder)
    assert prompts.config == prompt_config_of(encoder, half=True)
    assert (prompts.config.first, prompts.config.layers, prompts.config.design.depth) == (6, (24,), 9)
    expected = {"context/normal": state["ctx_pos"][0, 0], "context/anomalous": state["ctx_neg"][0, 0]}
    expected |= {f"deep/{number + 2}": state[f"compound_prompts_text.{number}"] for number in range(8)}
    torch.testing.assert_close(prompts.parameters, expected, rtol=0, atol=0)
    assert (prompts.model_id, prompts.weights_id) == (encoder.model_id, encoder.weights_id)
    assert prompts.trained_on.shape == (0,) and prompts.losses == ()
    texts = prompts.texts(encoder)
    assert texts.shape == (1, 2, 32)
    rounded = {k: v.half().float() if "deep" in k else v for k, v in expected.items()}
    exact = replace(prompts.config.design, half=False)
    torch.testing.assert_close(texts, encode(encoder, exact, rounded, freeze(encoder, [exact]))[0])
    assert (texts[0, 0] - texts[0, 1]).abs().max() > 0.01
    prompts.save(tmp_path / "prompts.safetensors")
    assert torch.equal(LearnedPrompts.load(tmp_path / "prompts.safetensors").texts(encoder), texts)


@pytest.mark.parametrize(("words", "sets", "length"), [(4, 3, 2), (16, 11, 16), (12, 0, 0)])
def test_sizes_are_read_off_the_shapes(encoder, tmp_path, words, sets, length):
    state = released(encoder, words, sets, length)
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    prompts = read_released(write(tmp_path / "file.pth", state), encoder)
    assert {value.dtype for value in prompts.parameters.values()} == {torch.float32}
    design = prompts.config.design
    assert (design.context_length, design.depth, design.length) == (words, sets + 1, length)
    assert prompts.texts(encoder).shape == (1, 2, 32) and len(prompts.parameters) == 2 + sets


def changed(name, change):
    return lambda state: state.update({name: change(state.get(name))})


def test_files_of_another_form(encoder, tmp_path):
    for change, message in (
        (lambda state: state.pop("ctx_neg"), r"ctx_neg has shape no entry, expected \(1, 1, 12, 64\)"),
        (changed("ctx", lambda _: torch.zeros(3)), r"ctx has shape \(3,\), expected no entry"),
        (changed("ctx_neg", lambda x: x[..., :32]), r"ctx_neg has shape \(1, 1, 12, 32\)"),
        (changed("ctx_pos", lambda x: x[:, :, :11]), r"token_suffix_pos has shape \(1, 1, 64, 64\)"),
        (changed("compound_prompts_text.3", lambda x: torch.zeros(5, WIDTH)), r"shape \(5, 64\)"),
        (changed("tokenized_prompts_pos", lambda x: x.flip(-1)), "tokenized_prompts_pos begins with"),
        (changed("tokenized_prompts_neg", lambda x: x[..., :40]), r"shape \(1, 1, 40\)"),
    ):
        state = released(encoder)
        change(state)
        refused(message, read_released, write(tmp_path / "file.pth", state), encoder)


def test_files_that_are_no_prompts_or_for_another_encoder(encoder, load, tmp_path):
    path = write(tmp_path / "file.pth", released(encoder))
    for other, message in ((load(width=32), r"expected \(1, 1, 12, 32\)"), (load(layers=8), "at most 8")):
        refused(message, read_released, path, other)
    with pytest.warns(UserWarning, match="learned with another encoder"):
        read_released(path, load(seed=1))
    path.write_bytes(path.read_bytes()[:-1])
    refused(r"file\.pth is cut off or damaged", read_released, path, encoder)
    for other in (released(encoder), {"prompt_learner": [1]}, {"prompt_learner": {"ctx_pos": 1}}, [1]):
        torch.save(other, path)
        refused("expected tensors by name", read_released, path, encoder)
    refused(r"none\.pth", read_released, tmp_path / "none.pth", encoder, error=FileNotFoundError)
