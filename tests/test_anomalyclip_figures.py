from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused

from zsad_core import methods
from zsad_core.auxiliary import auxiliary_of
from zsad_core.dpam import KINDS, quarter_blocks
from zsad_core.prompt_learning import glocal_loss
from zsad_papers.anomalyclip import analysis, costs, experiments, figures
from zsad_papers.common.results import load_published
from zsad_papers.common.settings import read_settings

NAN = float("nan")


@pytest.fixture(scope="module")
def settings(settings_of):
    return settings_of(limit_images=2, epochs_share=0.01)


@pytest.fixture(scope="module")
def prompts(settings, large):
    return figures.prompt_sources(settings, large, "mvtec")["AnomalyCLIP"]


@pytest.fixture(scope="module")
def nut(settings, large):
    squashed = experiments.squashed(settings, large, "mvtec")
    return next(category for category in squashed if category.name == "hex_nut")


def test_training_images_and_unknown_variants_are_refused(settings, large, prompts):
    for variant in ("nonsense", "E=x", "N=-1"):
        refused(f"'{variant}': expected one of .*or E=, M=, L=, N=", experiments.training_options, variant)
    trained = experiments.squashed(settings, large, "visa")[0]
    refused("not zero-shot", figures.map_examples, trained, {"AnomalyCLIP": prompts}, [0])
    assert len(figures.map_examples(trained, {"": prompts}, [0], allow_training_images=True)) == 1


def test_images_by_rule(monkeypatch):
    category = SimpleNamespace(test=SimpleNamespace(labels=np.array([0, 1, 1, 1, 0, 1, 1])))
    assert figures.spread_out(category, 3) == [1, 3, 6] and figures.spread_out(category, 9) == [1, 2, 3, 5, 6]
    frames = {"a": [(0, NAN, 0.2), (1, 0.9, 0.5), (1, 0.1, 0.5), (0, NAN, 0.7)]}
    frames |= {"b": [(0, NAN, 0.9), (1, 0.95, 0.5), (1, 0.3, 1.0)]}

    def described(category, _):
        return pd.DataFrame(frames[category.name], columns=["label", "auroc", "maximum"])

    monkeypatch.setattr(figures, "within_images", described)
    monkeypatch.setattr(figures, "has_masks", lambda test: test)
    made = [(SimpleNamespace(name=name, test=name != "c"), None) for name in "abc"]
    found = figures.successes_and_failures(made, 2)
    named = [(group, [(category.name, i) for category, i in own]) for group, own in found.items()]
    success, failure = ("success", [("b", 1), ("a", 1)]), ("failure", [("a", 2), ("b", 2)])
    assert named == [success, failure, ("false alarm", [("b", 0), ("a", 3)])]


def test_self_attention_is_the_mean_of_the_diagonal(large, nut):
    first = quarter_blocks(6)[0]
    records = analysis.self_attention_records(large, [nut], 2)
    found = analysis.self_attention_rows(records, "toys", first)
    pixels = torch.stack([large.preprocess(nut.test.image(i)) for i in range(2)])
    blocks = list(analysis.attention_weights(large, pixels))[first - 1 :]
    weights = {k: torch.stack([w[k].diagonal(dim1=-2, dim2=-1)[..., 1:] for w in blocks]) for k in KINDS}
    mean = found[found["category"] == "mean"].set_index("variant")["mean"]
    expected = {f"attention={k}": v.mean().item() for k, v in weights.items()}
    assert mean.to_dict() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_one_image_is_that_of_training(settings, large, nut, prompts):
    parts, config = analysis.loss_parts(nut, prompts, 3), prompts.config
    material = auxiliary_of(nut.test, methods.extractor_of(large, config), settings.cache_dir)
    batch = material.batch(np.array([3]), config.layers)
    expected = glocal_loss(large, config, prompts.texts(large), batch)
    total = parts["image"] + config.local_weight * sum(v for n, v in parts.items() if n != "image")
    assert total == pytest.approx(expected.item(), rel=1e-4)


def test_sweeps_sort_by_number_and_mark_the_default():
    variants = ["E=12", "E=4", "E=8", "full", "N=1", "N=2"]
    frames = []
    for task, metric, first in (("pixel", "pro200", 70), ("image", "ap", 40), ("image", "auroc", 0)):
        own = {"variant": variants, "task": task, "metric": metric, "mean": [first, 50, 60, 0, 1, 2]}
        frames.append(pd.DataFrame(own))
    pro, ap, layers, _ = figures.sweeps(pd.concat(frames), {"E": 12}).axes
    np.testing.assert_allclose(pro.lines[0].get_xydata(), [[4, 50], [8, 60], [12, 70]])
    np.testing.assert_allclose(ap.lines[0].get_ydata(), [50, 60, 40])
    assert [text.get_text() for text in ap.texts] == ["default"] and ap.lines[1].get_xdata() == [12, 12]
    assert not layers.texts and layers.get_xlabel() == "image layers N"


def test_times_stand_beside_published_ones(tiny_clip, monkeypatch):
    def run_once(steps):
        return {name: (step(), 20.0)[1] for name, step in steps.items()}  # milliseconds

    monkeypatch.setattr(costs, "latencies", run_once)
    settings, keys = read_settings({"profile": "mini"}), ["dataset", "method", "variant", "metric"]
    measured = costs.time_rows(settings, tiny_clip, tiny_clip, "mvtec", 17)
    published = load_published("anomalyclip").query("artifact == 'T8' and task == ''")
    own = measured[measured["artifact"] == "T8"]
    assert sorted(own[keys].to_numpy().tolist()) == sorted(published[keys].to_numpy().tolist())
    found = measured.groupby("metric")["mean"].unique().map(list).to_dict()
    assert found == {"fps": [50.0], "train_min_per_epoch": [0.001]}  # a step for the last image as well


def test_the_background_is_what_is_joined_to_the_border():
    """A dark plate on white ground, with a spot of the ground's colour in it."""
    image = np.full((50, 60, 3), 200, np.uint8)
    image[10:40, 15:45] = 60
    image[20:25, 20:25] = 200
    found, uniform = analysis.background(image)
    expected = np.ones((50, 60), bool)
    expected[10:40, 15:45] = False
    np.testing.assert_array_equal(found, expected)  # the spot inside does not belong to it
    assert uniform == 1.0


def test_shares_at_the_best_threshold():
    # ascending; at the two highest bins F1 is 2 * 8 / (8 + 2 + 10), and less at any other threshold
    anomalous, behind, other = [2, 0, 4, 4], [50, 3, 1, 0], [30, 20, 0, 1]
    assert analysis.shares_above(np.array([anomalous, behind, other])) == pytest.approx((0.5, 54 / 105))
    clean = analysis.shares_above(np.array([[0, 5], [4, 0], [6, 0]]))
    assert np.isnan(clean[0]) and clean[1] == 0.4
