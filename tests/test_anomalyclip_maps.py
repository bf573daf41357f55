"""Maps of three methods for one image, and the images that the rule of Figure 7 picks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from zsad_core import anomalyclip_maps
from zsad_core.winclip_studies import categories


@pytest.fixture(scope="module")
def own(settings_of, encoder):
    few = {"prompt_image_size": None, "prompt_epochs": 1, "limit_images": 1}
    return categories(settings_of(**few), encoder, "visa")[0]


def test_an_image_has_a_map_by_each_method(own):
    found = anomalyclip_maps.compared(own, own, "visa", 1)
    assert list(found.maps) == ["WinCLIP", "VAND", "AnomalyCLIP"]
    assert {values.shape for values in found.maps.values()} == {found.mask.shape}
    assert not np.allclose(found.maps["VAND"], found.maps["AnomalyCLIP"])


def test_images_that_trained_the_prompts_have_no_map(own, settings_of, encoder):
    learned_from = categories(own.settings, encoder, "mvtec")[0]
    with pytest.raises(ValueError, match="trained these"):
        anomalyclip_maps.prompted(learned_from, "visa")


def test_the_best_and_the_worst_image_of_a_kind_of_defect(monkeypatch):
    values = {"a": [np.nan, 0.9, 0.2, 0.1], "b": [0.5, 0.99, 0.3, 0.6]}
    defects = ["good", "scratch", "deep scratch", "hole"]
    test = type("Test", (), {"meta": pd.DataFrame({"defect": defects}), "__len__": lambda self: 4})()
    found = [("mvtec", SimpleNamespace(name=name, test=test)) for name in values]
    monkeypatch.setattr(anomalyclip_maps, "within_images", lambda c, role: np.array(values[c.name]))
    chosen = anomalyclip_maps.best_and_worst(found, ("scratch",))
    assert [(c.name, image) for _, c, image in chosen] == [("b", 1), ("a", 2)]
    assert anomalyclip_maps.best_and_worst(found, ("polyp",)) == []
