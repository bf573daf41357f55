import copy
import json
import string

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from helpers import pixels_of, refused
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from zsad_core import encoders
from zsad_core.checkpoints import read_config
from zsad_core.encoders import load_encoder

plain = st.text(string.ascii_letters + string.digits + " .,_", max_size=40)
special = st.sampled_from(["a photo", "A photo", "<end_of_text> a photo", "ü &amp; é", ""])


@pytest.fixture(scope="module")
def tiny(small_clip):
    """tiny(...): a CLIP of a 3 x 3 grid and 2 blocks."""
    return lambda text=None, **changes: small_clip(text={"layers": 2} | (text or {}), layers=2, **changes)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_text_embeddings_are_open_clips(tiny, quick_gelu):
    encoder = tiny(config={"quick_gelu": quick_gelu})
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=encoder.context_length)

    @given(st.lists(plain | special, max_size=12), st.booleans())
    def check(prompts, normalize):
        with torch.no_grad():
            tokens = tokenizer(prompts) if prompts else None
            expected = encoder.model.encode_text(tokens, normalize) if prompts else torch.empty(0, 16)
        actual = encoder.embed_text(prompts, normalize)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)

    check()
    prompts = ["a photo", "scratch " * 100]
    with pytest.warns(UserWarning, match="1 prompts are longer .* the first has 102:"):
        long = encoder.embed_text(prompts, normalize=False)
    expected = encoder.model.encode_text(open_clip.tokenize(prompts))
    torch.testing.assert_close(long, expected, rtol=0, atol=1e-5)


def test_equal_prompts_are_encoded_once_in_batches_of_bounded_size(tiny, monkeypatch):
    encoder, prompts = tiny(), [f"{i} " + "scratch " * (i % 7) for i in range(30)] * 2
    expected = encoder.embed_text(prompts)
    batches, encode = [], encoder._encode_text
    monkeypatch.setattr(encoder, "_encode_text", lambda batch: batches.append(batch) or encode(batch))
    monkeypatch.setitem(encoders._NUMBERS_PER_BATCH, "cpu", 40 * 32)
    torch.testing.assert_close(encoder.embed_text(prompts), expected, rtol=0, atol=1e-5)
    assert sum(map(len, batches)) == 30 and len(batches) > 5
    assert all(len(batch) * max(map(len, batch)) <= 40 for batch in batches)


def test_image_embeddings_are_open_clips(tiny, monkeypatch):
    encoder = tiny()
    pixels = pixels_of(encoder, 5)
    expected = encoder.model.encode_image(pixels, normalize=False)
    monkeypatch.setitem(encoders._NUMBERS_PER_BATCH, "cpu", 2 * 10 * 32)  # two images a batch
    torch.testing.assert_close(encoder.embed_images(pixels, normalize=False), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.embed_images(pixels), F.normalize(expected, dim=-1), rtol=0, atol=1e-5)
    assert encoder.embed_images(pixels[:0]).shape == (0, 16)
    # AnomalyCLIP's global feature leaves the last layer norm out
    nn.init.normal_(encoder.model.visual.ln_post.weight)
    without = copy.deepcopy(encoder.model.visual)
    without.ln_post = nn.Identity()
    actual = encoder.embed_images(pixels, normalize=False, final_norm=False)
    torch.testing.assert_close(actual, without(pixels), rtol=0, atol=1e-5)


def test_what_is_refused(tiny):
    refused("list of sentences", tiny().embed_text, "a photo", error=TypeError)
    text = {"no_causal_mask": True, "pool_type": "eos"}
    refused("its config has no_causal_mask, pool_type", tiny, text=text)
    refused("its config has custom_text", tiny, config={"custom_text": True})
    refused("its config has pool_type, qk_norm", tiny, pool_type="avg", qk_norm=True)
    refused("such as ViT-B-16-plus-240$", load_encoder, "zzz", "random")
    array = np.zeros((1, 3, 24, 24), np.float32)
    refused(r"float tensor .*got ndarray \(1, 3, 24, 24\) of float32", tiny().embed_images, array)
    for pixels in (torch.zeros(1, 3, 32, 24), torch.zeros(1, 3, 24, 24).byte(), np.zeros(3)):
        refused(r"\(n, 3, 24, 24\), got", tiny().embed_images, pixels)
        refused(r"\(n, 3, 24, 24\), got", tiny().embed_windows, pixels, 2)


def test_preprocessing_is_open_clips(tiny, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    expected = open_clip.image_transform(24, is_train=False)(picture)
    torch.testing.assert_close(tiny().preprocess(picture), expected, rtol=0, atol=0)
    own = {"model_cfg": read_config("zsad-mini")[1], "preprocess_cfg": {"mean": [0] * 3}}
    (path := tmp_path / "dark.json").write_text(json.dumps(own))
    dark, light = (load_encoder(model, "random", device="cpu") for model in (path, "zsad-mini"))
    shift = torch.tensor(open_clip.OPENAI_DATASET_MEAN) / torch.tensor(open_clip.OPENAI_DATASET_STD)
    torch.testing.assert_close(dark.preprocess(picture), light.preprocess(picture) + shift[:, None, None])


def test_random_weights_are_seeded_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, again, other = (load_encoder("zsad-mini", "random", seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(torch.random.get_rng_state(), before)
    torch.testing.assert_close(first.model.state_dict(), again.model.state_dict(), rtol=0, atol=0)
    assert (first.model.visual.proj != other.model.visual.proj).all()


def test_bf16_is_close_to_fp32(tiny):
    exact, fast = tiny(), tiny()
    fast.precision = "bf16"  # load_encoder refuses it where it is slow
    texts, pixels = ["a photo", "scratch " * 9], pixels_of(exact, 4)
    found = [(e.embed_text(texts), e.embed_images(pixels), e.embed_windows(pixels, 2)) for e in (exact, fast)]
    for one, other in zip(*found, strict=True):
        assert other.dtype == torch.float32 and 0.99 < (one * other).sum(-1).min() < 1 - 1e-7


def test_what_the_machine_cannot_do(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("expected 'fp32' or 'bf16'", load_encoder, "zsad-mini", "random", precision="fp16")
    refused("would be slow on this CPU", load_encoder, "zsad-mini", "random", precision="bf16", device="cpu")
    refused("torch sees no CUDA GPU", load_encoder, "zsad-mini", "random", device="cuda")
