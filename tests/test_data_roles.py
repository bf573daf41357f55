"""Which datasets the settings name, and their embeddings."""

import re

import pytest

from data_scripts.mini import write_dataset
from zsad_core.datasets import load_dataset
from zsad_core.encoders import load_encoder
from zsad_papers.common import data
from zsad_papers.common.settings import read_settings


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("zsad-mini", "random")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "mini_visa"
    write_dataset("mini_visa", root, n_train=2, n_normal=2, n_anomalous=2, categories=4)
    return load_dataset(root)


def test_dataset_of_a_role(dataset):
    settings = read_settings({"data_dir": str(dataset.root.parent), "limit_images": 1})
    limited = data.dataset_of(settings, "visa")
    test = limited.meta[limited.meta["split"] == "test"]
    assert (test.groupby(["category", "label"]).size() == 1).all()
    none = read_settings({"data_dir": str(dataset.root.parent), "datasets": {"mvtec": "mini_mvtec"}})
    assert data.dataset_of(none, "visa") is None


def test_a_dataset_that_is_not_prepared_is_left_out_and_named(dataset, encoder, tmp_path):
    """data_dir holds mini_visa alone."""
    settings = read_settings({"data_dir": str(dataset.root.parent), "cache_dir": str(tmp_path)})
    roles = ["visa", "mvtec"]
    line = "The dataset mini_mvtec (stand-in for mvtec) is not prepared: `zsad prepare mini_mvtec --help`"
    with pytest.warns(UserWarning, match=re.escape(line)):
        assert data.dataset_of(settings, "mvtec") is None
    (sentence,) = data.missing(settings, roles)
    assert sentence.startswith(line) and str(dataset.root.parent) not in sentence  # pages show it
    with pytest.warns(UserWarning, match=re.escape(line)):
        assert [*data.embedded_datasets(settings, encoder, roles)] == ["visa"]
    with pytest.warns(UserWarning, match=re.escape(line)):
        assert data.embedded_datasets(settings, encoder, ["mvtec"]) == {}
