"""The combinations against a direct computation on few numbers; ranks and intervals with known answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from zsad_core.fnn import FNN
from zsad_core.image_features import TileFeatures
from zsad_core.prompts import zero_shot_prompts
from zsad_core.windows import zero_shot_map
from zsad_papers import side_by_side
from zsad_papers.anomalyclip.experiments import clip_method
from zsad_papers.winclip.experiments import zero_shot_detector


def test_ranks_and_intervals_are_those_of_the_textbook():
    """Four categories that agree: chi squared is 8 with 2 degrees of freedom, so p = exp(-4)."""
    found = side_by_side.rank_test(pd.DataFrame([[70.0, 90.0, 80.0]] * 4, columns=list("abc")))
    assert dict(zip(found["system"], found["rank"])) == {"b": 1, "c": 2, "a": 3}
    assert found["p"].tolist() == pytest.approx([np.exp(-4)] * 3)
    assert found["critical"][0] == pytest.approx(2.343 * 0.5**0.5, abs=1e-3)  # Demšar (2006), Table 5
    noise = pd.DataFrame(np.random.default_rng(0).random((14, 4)))
    assert side_by_side.rank_test(noise)["critical"][0] == pytest.approx(1.25, abs=0.005)  # Section 3.2.4
    draws = np.random.default_rng(1).choice(changes := np.array([1.0, 2.0, 1.5, 0.5, 3.0]), (9999, 5))
    bounds = np.quantile(draws.mean(1), [0.025, 0.975])
    np.testing.assert_allclose(side_by_side.bootstrap(changes), bounds, atol=0.1)


def test_random_words_give_maps_of_windows_and_of_tokens():
    generator, fnn = torch.Generator().manual_seed(0), FNN(8, (4,)).eval()
    rows = F.normalize(torch.randn(6, 8, generator=generator))
    hand = [torch.sigmoid(fnn(3.0 * row[None])[0].double()).item() for row in rows]
    image, large, small = (rows[part].numpy() for part in (slice(0, 1), slice(1, 2), slice(2, 6)))
    arrays = {"image": image, "windows/1": small[None], "windows/2": large[None]}
    empty = TileFeatures(None, None, None, None, {})
    found = side_by_side.random_word_maps(replace(empty, arrays=arrays), fnn, 3.0, (2, 2)).maps
    expected = [3 / (1 / hand[0] + 1 / hand[1] + 1 / value) for value in hand[2:]]  # harmonic over scales
    np.testing.assert_allclose(found.flatten(), expected, rtol=1e-5)
    tokens = replace(empty, arrays={"local/4": small[None]})
    found = side_by_side.random_word_maps(tokens, fnn, 3.0, (2, 2)).maps
    np.testing.assert_allclose(found.flatten(), hand[2:], rtol=1e-5)


def test_the_ensemble_meets_tokens_and_learned_prompts_meet_windows(square, large):
    method = clip_method(replace(square, encoder=large), prompts="prompt_ens", attention="vv")
    assert method.extractor.key["attention"] == "vv"
    unit = TileFeatures(None, None, None, None, {"global": np.eye(2, large.dim, dtype=np.float32)})
    sides = [large.embed_text(own).mean(0) for own in zero_shot_prompts("bottle top", "prompt_ens")]
    normal, anomalous = (F.normalize(side, dim=0)[:2].double() for side in sides)
    expected = torch.sigmoid((anomalous - normal) / 0.07)
    torch.testing.assert_close(method.detect(unit)[""].scores, expected, atol=1e-5, rtol=0)
    sides = tuple(F.normalize(torch.randn(2, large.dim)))
    learned, part = replace(square, learned=sides), square.computed(square.clip, square.test)[0].load()
    own = {"temperature": learned.temperature}
    maps = zero_shot_map(part.tensor("image"), part.windows(), square.encoder.grid, *sides, **own)
    torch.testing.assert_close(zero_shot_detector(learned)(part)[""].maps, maps)
    assert learned.sentences_key() != square.sentences_key()


@pytest.fixture(scope="module")
def settings(settings_of):
    return settings_of()
