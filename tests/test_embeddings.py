"""Embeddings are computed once, under keys made of content."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data_scripts.mini import write_dataset
from data_scripts.prepare import prepared_folder
from zsad_core import datasets as dataset_files
from zsad_core import image_features, shards
from zsad_core.datasets import load_dataset
from zsad_core.encoders import load_encoder
from zsad_core.views import inference_views as views_of
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


def test_vectors_are_those_of_the_images_in_the_order_of_meta(encoder, dataset, tmp_path):
    embedded = image_features.image_embeddings(encoder, dataset, tmp_path)
    assert embedded.views.shape == (len(dataset), 6, encoder.dim)
    assert embedded.meta["image"].tolist() == dataset.meta["image"].tolist()
    i = len(dataset) - 1
    alone = encoder.embed_images(views_of(dataset.image(i), encoder), normalize=False)
    torch.testing.assert_close(torch.from_numpy(embedded.views[i]), alone, atol=1e-4, rtol=1e-4)


def test_second_call_reads_and_a_changed_image_is_embedded_again(encoder, dataset, tmp_path, monkeypatch):
    first = image_features.image_embeddings(encoder, dataset, tmp_path)
    calls = []
    real = encoder.embed_images
    monkeypatch.setattr(encoder, "embed_images", lambda *a, **k: calls.append(1) or real(*a, **k))
    again = image_features.image_embeddings(encoder, load_dataset(dataset.root), tmp_path)
    assert not calls and again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(first.views, again.views)

    path = dataset.root / dataset.meta["image"].iloc[0]
    original = path.read_bytes()
    try:
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        changed = image_features.image_embeddings(encoder, load_dataset(dataset.root), tmp_path)
    finally:
        path.write_bytes(original)
    assert len(calls) == 1  # one category, in one batch
    assert changed.fingerprint != first.fingerprint
    assert (changed.views[0] != first.views[0]).any()
    np.testing.assert_array_equal(changed.views[1], first.views[1])


def test_shards_in_any_order_are_the_whole_and_read_their_own_files(encoder, dataset, tmp_path, monkeypatch):
    """A category of six images, two in a file, four in a shard."""
    monkeypatch.setattr(image_features, "VIEW_PART", 2)
    monkeypatch.setattr(shards, "SHARD", 4)
    for path in dataset.root.rglob("*.png"):
        os.utime(path, ns=(0, 10**18))  # not just now, or digests would not be kept
    category = dataset.categories[1]
    whole = image_features.image_embeddings(encoder, load_dataset(dataset.root), tmp_path / "whole")
    hashed, real = [], dataset_files.sha256_of
    monkeypatch.setattr(dataset_files, "sha256_of", lambda path: hashed.append(path) or real(path))
    for shard, rows in ((1, slice(4, 6)), (0, slice(0, 4)), (2, slice(6, 6))):
        part = load_dataset(dataset.root, tmp_path / "digests").select(category)
        done = image_features.embed_images(encoder, part, tmp_path / "cut", shard=shard)
        own = part.meta[rows]
        files = [dataset.root / path for path in (*own["image"], *own["mask"]) if path]
        assert done == len(own) and sorted(hashed) == sorted(files)
        hashed.clear()

    monkeypatch.setattr(encoder, "embed_images", lambda *_, **__: pytest.fail("embedded again"))
    part = load_dataset(dataset.root, tmp_path / "digests").select(category)
    together = image_features.image_embeddings(encoder, part, tmp_path / "cut")
    assert not hashed
    assert together.views.tobytes() == whole.select(category).views.tobytes()
    assert together.meta.equals(whole.select(category).meta)


def test_a_killed_shard_goes_on_and_workers_change_nothing(encoder, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(image_features, "VIEW_PART", 2)
    part, real, calls = dataset.select(dataset.categories[0]), encoder.embed_images, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(encoder, "embed_images", killed)
    with pytest.raises(KeyboardInterrupt):
        image_features.embed_images(encoder, part, tmp_path, shard=0, workers=1)
    assert len(list((tmp_path / "images").iterdir())) == 2
    again = image_features.image_embeddings(encoder, part, tmp_path)
    assert len(calls) == 4  # of three parts, one was left
    other = image_features.image_embeddings(encoder, part, tmp_path / "other")
    assert again.views.tobytes() == other.views.tobytes()


def test_all_rows_are_no_copy(encoder, dataset, tmp_path):
    embedded = image_features.image_embeddings(encoder, dataset, tmp_path)
    test = embedded.select(split="test")
    assert np.shares_memory(test.select(split="test").views, test.views)


def test_cut_off_cache_file_is_computed_again(encoder, dataset, tmp_path):
    whole = image_features.image_embeddings(encoder, dataset, tmp_path)
    file = next((tmp_path / "images").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(RuntimeWarning, match="computing it anew"):
        again = image_features.image_embeddings(encoder, dataset, tmp_path)
    np.testing.assert_array_equal(whole.views, again.views)


def test_selecting_keeps_rows_and_vectors_together(encoder, dataset, tmp_path):
    embedded = image_features.image_embeddings(encoder, dataset, tmp_path)
    category = embedded.categories[1]
    part = embedded.select(category=category, split="test")
    own = (embedded.meta["category"] == category) & (embedded.meta["split"] == "test")
    np.testing.assert_array_equal(part.views, embedded.views[own.to_numpy()])
    assert part.labels.tolist() == [0, 0, 1, 1]


def test_bare_article_needs_no_second_embedding(encoder, tmp_path):
    for normal in ("a", "an"):
        image_features.random_word_embeddings(encoder, tmp_path, 4, normal, "a broken")
    assert (
        len(list((tmp_path / "texts").glob("random-a-*.safetensors"))) == 2
    )  # normal "a", anomalous "a broken"


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
    line = "The dataset mini_mvtec in the place of mvtec is not prepared: `zsad prepare mini_mvtec --help`"
    with pytest.warns(UserWarning, match=line):
        assert data.dataset_of(settings, "mvtec") is None
    with pytest.warns(UserWarning, match=line):
        assert data.dataset_names(settings, roles) == {"visa": "mini_visa"}
    (told,) = data.missing(settings, roles)
    assert told.startswith(line) and str(dataset.root.parent) not in told  # pages show it
    with pytest.warns(UserWarning, match=line):
        assert [*data.embedded_datasets(settings, encoder, roles)] == ["visa"]
    with pytest.warns(UserWarning, match=line):
        first = data.embedded_datasets(settings, encoder, ["mvtec", "visa", "visa"], first=True)
    assert [*first] == ["visa"]
    with pytest.warns(UserWarning, match=line):
        assert data.embedded_datasets(settings, encoder, ["mvtec"]) == {}


@pytest.mark.filterwarnings("error")  # of what nobody has asked for
def test_a_role_without_a_dataset_is_told_and_no_fault(dataset):
    settings = read_settings({"data_dir": str(dataset.root.parent), "datasets": {"visa": "mini_visa"}})
    assert data.dataset_names(settings, ["mvtec", "visa"]) == {"visa": "mini_visa"}
    (told,) = data.missing(settings, ["mvtec", "visa"])
    assert told.startswith("No dataset in the place of mvtec: ") and "parameter `datasets`" in told


def test_one_category_may_stand_in_a_role(encoder, dataset, tmp_path):
    """It is named as the profile names it, and what is kept of the whole dataset serves it as well."""
    category = dataset.categories[1]
    value = f"{dataset.root.name}/{category}"
    places = {"isic": value, "tn3k": value, "visa": dataset.root.name}
    settings = read_settings({"data_dir": str(dataset.root.parent), "datasets": places})
    settings = replace(settings, cache_dir=str(tmp_path))
    part = data.dataset_of(settings, "isic")
    assert (part.name, part.categories) == (value, [category])

    found = data.embedded_datasets(settings, encoder, ["visa", "isic", "tn3k", "headct"])
    assert [images.name for images in found.values()] == [dataset.root.name, value, value]
    np.testing.assert_array_equal(found["isic"].views, found["visa"].select(category).vectors)
    files = [path.relative_to(tmp_path / "images") for path in (tmp_path / "images").rglob("*")]
    assert len(files) == len(dataset.categories) and all(len(file.parts) == 1 for file in files)

    unknown = replace(settings, datasets=places | {"isic": f"{dataset.root.name}/rake"})
    with pytest.raises(ValueError, match=f"{dataset.root.name} has no category 'rake': expected one of"):
        data.dataset_of(unknown, "isic")


def test_images_of_any_proportions_are_tiled_and_keep_their_means(encoder, tmp_path):
    """One, two and three tiles in one category, as scans have; parts of the cache that differ as well."""
    rng, sizes = np.random.default_rng(0), [(40, 40), (60, 40), (90, 40), (40, 40)]
    with prepared_folder(tmp_path / "scans") as out:
        for i, (width, height) in enumerate(sizes):
            picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
            out.add(picture, category="head", split="test", defect="good", name=f"{i}.png")
    scans, tiles = load_dataset(tmp_path / "scans"), {"whole": "tiles", "multi_crop": False}
    found = image_features.image_embeddings(encoder, scans, tmp_path / "cache", **tiles)
    own = [
        encoder.embed_images(views_of(scans.image(i), encoder, **tiles), normalize=False) for i in range(4)
    ]
    assert {len(views) for views in own} == {1, 2, 3} and found.vectors.shape[1] == 6
    means = torch.stack([views.mean(0) for views in own])
    torch.testing.assert_close(torch.from_numpy(found.vectors).mean(1), means, rtol=1e-4, atol=1e-4)
