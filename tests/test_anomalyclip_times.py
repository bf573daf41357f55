"""The rows of Table 8 are there under their published names; the times are not tested."""

from __future__ import annotations

import pytest

from zsad_core.encoders import ClipEncoder
from zsad_papers.anomalyclip import costs as anomalyclip_costs
from zsad_papers.common.results import load_published
from zsad_papers.common.settings import read_settings


@pytest.fixture(scope="module")
def measured(tiny_clip):
    settings = read_settings({"profile": "mini"})
    return anomalyclip_costs.time_rows(settings, tiny_clip, tiny_clip, "mvtec", 20, repeats=1)


def test_rows_stand_beside_published_ones(measured):
    keys = ["dataset", "method", "variant", "metric"]
    published = load_published("anomalyclip").query("artifact == 'T8' and task == ''")
    own = measured[measured["artifact"] == "T8"]
    assert sorted(own[keys].to_numpy().tolist()) == sorted(published[keys].to_numpy().tolist())
    assert measured.query("artifact == 'appD'")["variant"].tolist() == ["cached_features"]
    assert (measured["mean"] > 0).all()


def test_an_epoch_has_a_step_for_the_last_few_images():
    assert anomalyclip_costs.minutes(600, 17) == pytest.approx(0.03)


def test_a_step_without_the_tower_sees_no_pixels(tiny_clip, monkeypatch):
    cached = anomalyclip_costs._step(tiny_clip, tower=False)
    with_tower = anomalyclip_costs._step(tiny_clip)

    def refuse(*arguments, **options):
        raise AssertionError("the image tower ran")

    monkeypatch.setattr(ClipEncoder, "embed_glocal", refuse)
    cached()
    with pytest.raises(AssertionError, match="tower ran"):
        with_tower()
