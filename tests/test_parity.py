"""WinCLIP and WinCLIP+ beside numbers of an independent implementation, anomalib's, with the same weights.

anomalib differs from this project's defaults where the paper leaves room: temperature 0.07, 21 templates, the
mean of raw text embeddings, patch tokens after the last layer norm, the arithmetic mean of both maps. With
these options the two agree up to rounding.
"""

import json

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch.testing import assert_close

from benchmarks.make_parity import FILE, OBJECT, SHOTS, SIZES, pixels_of, tiny_encoder
from zsad_core.prompts import compositional_ensemble
from zsad_core.references import Memory, reference_maps, winclip_plus
from zsad_core.scores import prompt_score
from zsad_core.windows import upsample, winclip_map, zero_shot_map

TIGHT = {"atol": 1e-5, "rtol": 1e-5, "check_dtype": False}  # what rounding in float32 leaves


def test_winclip_and_winclip_plus(tmp_path):
    with safe_open(FILE, "pt") as file:
        theirs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        templates = json.loads(file.metadata()["templates"])
    encoder = tiny_encoder(tmp_path)

    def embed(pixels):
        scales = encoder.embed_scales(pixels, SIZES, layers=(encoder.depth,))
        return scales.image, scales.windows, encoder.model.visual.ln_post(scales.layers[encoder.depth])

    pixels, size = pixels_of(3, seed=1), encoder.image_size
    image, windows, tokens = embed(pixels)
    assert_close(image, F.normalize(theirs["image"], dim=-1), **TIGHT)
    expected = {n: F.normalize(theirs[f"windows/{n}"], dim=-1) for n in SIZES}
    assert_close(windows, expected, **TIGHT)
    assert_close(tokens, theirs["tokens"], **TIGHT)
    sides = compositional_ensemble(OBJECT, templates=templates)
    texts = [encoder.embed_text(side, normalize=False).mean(0) for side in sides]
    assert_close(F.normalize(torch.stack(texts), dim=-1), F.normalize(theirs["texts"], dim=-1), **TIGHT)
    scores, warm = prompt_score(image, *texts, 0.07), {"temperature": 0.07}
    assert_close(scores, theirs["scores"], **TIGHT)
    assert_close(winclip_map(encoder, pixels, *texts, **warm), theirs["maps"], **TIGHT)
    _, kept, patches = embed(pixels_of(SHOTS, seed=2))
    memory = Memory(patches.flatten(0, 1), {n: values.flatten(0, 1) for n, values in kept.items()})
    found = reference_maps(tokens, windows, memory, encoder.grid)
    assert_close(found, {name: theirs[name] for name in found}, **TIGHT)
    maps = zero_shot_map(image, windows, encoder.grid, *texts, **warm)
    plus_scores, plus_maps = winclip_plus(scores, maps, list(found.values()), fuse="mean")
    assert_close(plus_scores, theirs["plus_scores"], **TIGHT)
    assert_close(upsample(plus_maps, size), theirs["plus_maps"], **TIGHT)
