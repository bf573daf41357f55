"""Learned prompts, against plain implementations over the whole context of 77 tokens."""

from dataclasses import replace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from helpers import refused

from zsad_core.learnable_prompts import PromptDesign, encode, freeze, initial_parameters

RELEASED = PromptDesign()
CONCATENATE = PromptDesign(deep="concatenate", ending="")
X, OBJECT, DAMAGED, STOP, START, END = 343, 14115, 13568, 269, 49406, 49407


@pytest.fixture(scope="module")
def encoder(small_clip):
    """A CLIP whose text tower has 12 narrow blocks, like ViT-L/14's."""
    return small_clip(lively=True, layers=2, text={"layers": 12}, config={"embed_dim": 24})


def drawn(encoder, design, scale=25.0):
    """Parameters that are large beside the embeddings, so that each of them shows."""
    found = initial_parameters(encoder, design, torch.Generator().manual_seed(0))
    return {name: scale * value for name, value in found.items()}


def texts_of(encoder, design, parameters, names=("object",)):
    return encode(encoder, design, parameters, freeze(encoder, [design], names))[0]


def over_77(encoder, design, parameters, name):
    """(2, d): one prompt at a time over 77 padded tokens, end token found as the largest id."""
    model, rows = encoder.model, []
    for side, sentence in zip(("normal", "anomalous"), design.sentences(name), strict=True):
        ids = open_clip.tokenize([sentence])  # (1, 77)
        x = model.token_embedding(ids)[0].clone()
        context = parameters["context/shared" if design.shared else f"context/{side}"]
        x[1 : 1 + design.context_length] = context
        x = x + model.positional_embedding
        for number, block in enumerate(model.transformer.resblocks, start=1):
            extra = parameters.get(f"deep/{number}")
            if extra is not None and design.deep == "overwrite":
                x = torch.cat([x[:1], extra, x[1 + design.length :]])
            elif extra is not None:
                x = torch.cat([extra, x])
            before = torch.ones(len(x), len(x), dtype=torch.bool).tril()
            mask = torch.zeros(len(x), len(x)).masked_fill(~before, float("-inf"))
            x = block(x[None], attn_mask=mask)[0]
            if extra is not None and design.deep == "concatenate":
                x = x[design.length :]
            assert len(x) == 77
        rows.append(model.ln_final(x[ids[0].argmax()]) @ model.text_projection)
    return F.normalize(torch.stack(rows), dim=-1)


def test_tokens_of_the_released_templates(encoder):
    assert RELEASED.sentences() == ("x " * 12 + "object.", "x " * 12 + "damaged object.")
    frozen = freeze(encoder, [RELEASED])
    assert frozen.ends.tolist() == [[[15, 16]]]
    ids = [[START, *[X] * 12, OBJECT, STOP, END, 0], [START, *[X] * 12, DAMAGED, OBJECT, STOP, END]]
    assert torch.equal(frozen.embeddings[0, 0], encoder.model.token_embedding(torch.tensor(ids)))
    assert torch.equal(frozen.positions, encoder.model.positional_embedding[:17])
    assert freeze(encoder, [PromptDesign(ending="")]).ends.tolist() == [[[14, 15]]]


DESIGNS = {
    "released": RELEASED,
    "paper": CONCATENATE,
    "small": PromptDesign(5, states=("", "broken"), depth=3, length=2),
    "CoOp": PromptDesign(16, True, ("normal", "anomalous"), None, depth=0, length=0),
    "all blocks": replace(CONCATENATE, context_length=2, depth=12),
}


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_running_the_prompt_alone_equals_running_the_whole_context(encoder, design):
    parameters = drawn(encoder, design)
    names = ("metal nut", "wood")
    texts = texts_of(encoder, design, parameters, names)
    assert texts.shape == (2, 2, 24)
    expected = torch.stack([over_77(encoder, design, parameters, name) for name in names])
    torch.testing.assert_close(texts, expected, rtol=1e-4, atol=1e-5)
    assert (texts[:, 0] - texts[:, 1]).abs().max() > 0.01
    assert torch.equal(texts[0], texts[1]) == (design.object_word is not None)


def test_numbers_learned_at_the_width_of_vit_l_14(encoder):
    def numbers(design):
        rows = sum(len(value) for value in initial_parameters(encoder, design, torch.Generator()).values())
        return 768 * rows

    assert numbers(RELEASED) == 2 * 12 * 768 + 8 * 4 * 768 == 43_008
    assert numbers(CONCATENATE) == 43_008 + 4 * 768
    assert numbers(replace(RELEASED, shared=True)) == 43_008 - 12 * 768
    assert numbers(replace(RELEASED, depth=1)) == numbers(replace(RELEASED, length=0)) == 2 * 12 * 768


def test_initial_values(encoder):
    drawn = initial_parameters(encoder, RELEASED, torch.Generator().manual_seed(0))
    values = torch.cat([value.flatten() for value in drawn.values()])
    assert abs(values.mean()) < 2e-3 and 0.019 < values.std() < 0.021


def test_learned_tokens_in_half_precision(encoder):
    parameters = drawn(encoder, RELEASED, 1.0)
    rounded = {k: v.half().float() if "deep" in k else v for k, v in parameters.items()}
    exact, expected = (texts_of(encoder, RELEASED, values) for values in (parameters, rounded))
    found = texts_of(encoder, replace(RELEASED, half=True), parameters)
    assert torch.equal(found, expected) and not torch.equal(found, exact) and found.dtype == torch.float32


def test_designs_that_are_refused(encoder):
    refused("length=13", PromptDesign, length=13)
    refused("one learned word", PromptDesign, context_length=0)
    refused("negative", PromptDesign, depth=-1)
    refused("overwrite", PromptDesign, deep="append")
    refused("12 text blocks", initial_parameters, encoder, replace(RELEASED, depth=13), torch.Generator())
    refused("78 tokens", freeze, encoder, [replace(RELEASED, context_length=73)])
