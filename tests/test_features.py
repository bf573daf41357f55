"""What was computed by shards before is all that the studies ask for."""

from __future__ import annotations

import pytest

from zsad_core import anomalyclip, anomalyclip_studies, dense, embeddings, features, winclip_tables
from zsad_core.shards import KINDS

PLACES = {"mvtec": "mini_mvtec/bottle_top", "visa": "mini_visa/fuse"}  # the latter's images are not square


@pytest.fixture(scope="module")
def settings(settings_of):
    few = {"shots": [1], "ablation_shots": [2], "reference_seeds": 1, "prompt_epochs": 1}
    return settings_of(datasets=PLACES, **few)


def test_studies_find_all_features(settings, encoder, monkeypatch):
    for kind in KINDS:
        lines = [features.compute(settings, kind, *place.split("/"), shard=0) for place in PLACES.values()]
        assert lines[0] == f"mini_mvtec: {11 if kind == 'views' else 8} images"  # 3 to train, 8 to test
    for module in (dense, embeddings):
        monkeypatch.setattr(module, "load_batches", lambda *_, **__: pytest.fail("an image was read again"))
    for role, place in PLACES.items():
        records = winclip_tables.measured_studies(settings, encoder, role)
        assert {"winclip", "winclip_plus", "patchcore", "trans_mm"} <= set(records["method"])
        assert len(winclip_tables.left_open_rows(settings, encoder, role, place))
    winclip_tables.patchcore_rows(settings, encoder, records, place)
    large = anomalyclip.prompt_encoder(settings)
    variants = ["baselines", "", "attention=qq+kk+vv", "N=3", "coop", "vand"]
    found = anomalyclip_studies.study(settings, large, "mvtec", variants)
    assert {"clip", "clip_ac", "coop", "anomalyclip", "vand"} == set(found["method"])


def test_what_is_asked_for_must_exist(settings):
    with pytest.raises(ValueError, match="'maps', shard None: expected one of views, winclip"):
        features.compute(settings, "maps", "mini_visa")
    with pytest.raises(ValueError, match="shard -1: expected"):
        features.compute(settings, "views", "mini_visa", "fuse", -1)
    with pytest.raises(ValueError, match="no category 'rake'"):
        features.compute(settings, "views", "mini_visa", "rake", 0)
