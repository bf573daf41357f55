from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist

from zsad_core.image_features import TileFeatures
from zsad_core.references import image_similarity_score, sample_references
from zsad_papers.rwda import analysis
from zsad_papers.rwda import experiments as rwda_experiments
from zsad_papers.rwda import tables as rwda_tables

DIM = 16
DAMAGE = np.eye(DIM)[0]


class Texts:
    """An encoder of sentences alone: 'damaged' points along DAMAGE, and each sentence has its own noise."""

    model_id, weights_id, precision, dim, temperature = "made up", "none", "fp32", DIM, 0.04

    def embed_text(self, sentences, normalize=True):
        rows = []
        for sentence in sentences:
            noise = np.random.default_rng(list(sentence.encode())).normal(size=DIM) * 0.2
            rows.append(np.eye(DIM)[1] + noise + (1 if "damaged" in sentence else -1) * DAMAGE)
        return torch.tensor(np.array(rows), dtype=torch.float32)


@pytest.fixture(scope="module")
def images():
    rng, frames, vectors = np.random.default_rng(0), [], []
    for category in ("nut", "bolt"):
        for split, label, n in (("train", 0, 6), ("test", 0, 10), ("test", 1, 10)):
            own = {"category": category, "split": split, "label": label, "defect": ["good", "bad"][label]}
            frames.append(pd.DataFrame(own, index=range(n)))
            mean = np.eye(DIM)[1] + (2 * label - 1) * 0.4 * DAMAGE
            vectors.append(rng.normal(size=(n, 6, DIM)) * 0.5 + mean)
    views = np.concatenate(vectors).astype(np.float32)
    n = len(views)
    places = (np.full((n, 2), 9), np.arange(n), np.tile([0, 0, 9, 9], (n, 1)))
    return TileFeatures(pd.concat(frames, ignore_index=True), *places, {"views": views}, "toys")


@pytest.fixture
def settings(tmp_path):
    return SimpleNamespace(cache_dir=tmp_path, temperature=None, shots=[1, 2])


@pytest.fixture(scope="module")
def fnns(tmp_path_factory):
    rng = np.random.default_rng(1)
    sides = (rng.normal(size=(400, DIM)) * 0.3 + sign * DAMAGE for sign in (-1, 1))
    texts, cache = tuple(side.astype(np.float32) for side in sides), tmp_path_factory.mktemp("cache")
    return rwda_experiments.train_runs(texts, [0, 1], 200, cache, epochs=4)


def test_prompt_scores_by_hand_with_the_temperature_of_the_model_or_of_the_profile(images, settings):
    test, sentences = images.select(split="test"), ["a photo of an object", "a photo of a damaged object"]
    given = test.tensor("views"), Texts().embed_text(sentences)
    views, texts = (F.normalize(x.double(), dim=-1) for x in given)
    scores, cosines = partial(rwda_experiments.prompt_scores, test, settings, Texts()), views @ texts.T
    np.testing.assert_allclose(scores(), (cosines / 0.04).softmax(-1)[..., 1].mean(1), rtol=1e-4)
    assert (scores(known=True) != scores()).any()
    settings.temperature = 0.02
    single = (cosines[:, 0] / 0.02).softmax(-1)[:, 1]
    np.testing.assert_allclose(scores(multi_crop=False), single, rtol=1e-4)


def test_pairs_are_drawn_without_replacement(monkeypatch, tmp_path):
    drawn, train = {}, rwda_experiments.train_fnns
    noted = lambda *own, **how: drawn.update(own[2]) or train(*own, **how)  # noqa: E731
    monkeypatch.setattr(rwda_experiments, "train_fnns", noted)
    rwda_experiments.train_runs(tuple(np.ones((2, 8, DIM), np.float32)), [3], 8, tmp_path, epochs=1)
    assert drawn[3].tolist() == list(range(8))


def test_zero_and_few_shot_rows(images, fnns, settings, monkeypatch):
    seen, score_rows = [], rwda_tables.score_rows

    def noted(test, runs, *names, **more):
        seen.append((more.get("variant", ""), runs))
        return score_rows(test, runs, *names, **more)

    monkeypatch.setattr(rwda_tables, "score_rows", noted)
    zero = rwda_tables.zero_shot_rows(images, "mvtec", settings, Texts(), fnns)
    assert set(zero["artifact"]) == {"T1", "T2", "A5", "A6", "A7"}
    few = rwda_tables.few_shot_rows(images, "mvtec", settings, Texts(), fnns)
    assert set(few["shots"]) == {1, 2} and "score=s_img" in set(few["variant"])
    own, train = images.select(split="test"), images.select(split="train")
    prompted = partial(rwda_experiments.prompt_scores, own, settings, Texts())
    known, unknown = prompted(known=True), prompted(known=False)
    first, scores = prompted(known=True, multi_crop=False), rwda_experiments.fnn_scores
    learned, of_view = ({s: scores(own, fnn, multi_crop=m) for s, fnn in fnns.items()} for m in (True, False))
    near = {seed: rwda_experiments.similarity_scores(own, train, 2, seed) for seed in fnns}
    second = (own.meta["category"] == own.categories[1]).to_numpy()
    drawn = train.select(category=own.categories[1]).views[sample_references(6, 2, seed=1001)]
    np.testing.assert_allclose(near[1][second], image_similarity_score(own.views[second], drawn))
    for key, *parts in (
        ("object_known", known, learned),
        ("object_unknown", unknown, learned),
        ("", known, learned, near),
        ("object_known;multi_crop=0", first, of_view),
    ):
        expected = rwda_experiments.sum_scores(*parts)
        runs = [runs for variant, runs in seen if variant == key and runs.keys() == expected.keys()]
        assert any(all(np.array_equal(r[s], expected[s]) for s in expected) for r in runs), key


def test_held_out_words_and_words_of_table_4_are_their_own(monkeypatch, images):
    settings, asked = SimpleNamespace(seed=3, alphabet="letters_digits36", pool_pairs=5, cache_dir="kept"), []
    note = lambda *_, seed, **words: asked.append((seed, words))  # noqa: E731
    monkeypatch.setattr(rwda_experiments, "random_word_embeddings", note)
    rwda_experiments.held_out(settings, None)
    rwda_experiments.pool(settings, None)
    assert [seed for seed, _ in asked] == [10**6 + 3, 3]
    guided = []

    def prompt_scores(test, *_, normal, anomaly):  # of an object that is not known
        guided.append((normal, anomaly))
        return np.zeros(len(test.meta))

    monkeypatch.setattr(rwda_tables, "prompt_scores", prompt_scores)
    monkeypatch.setattr(rwda_experiments, "default_runs", lambda *_: {3: None})
    monkeypatch.setattr(rwda_tables, "fnn_scores", lambda test, _: np.zeros(len(test.meta)))
    rwda_tables.word_pair_rows(images, settings, None)
    trained = [(words["normal"], words["anomaly"]) for _, words in asked[2:]]
    assert guided == trained == list(rwda_tables.WORD_PAIRS)


def test_held_out_accuracy_by_hand(monkeypatch):
    """Scores stand for prompts: 3 of 4 normal ones are below 0.5, 2 of 4 anomalous ones are not: 5 of 8."""
    unseen = (np.array([0.1, 0.2, 0.3, 0.7]), np.array([0.9, 0.5, 0.4, 0.4]))
    fnns = {0: SimpleNamespace(score=lambda prompts: prompts)}
    names = {"paper": "rwda", "artifact": "F4", "dataset": "a", "method": "rwda"}
    plain = rwda_tables.rows(pd.DataFrame({"auroc": [0.9]}), **names)
    for name, value in (("pool", None), ("held_out", unseen), ("default_runs", fnns)):
        monkeypatch.setattr(rwda_experiments, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(rwda_tables, "fnn_rows", lambda *_: plain)
    settings = SimpleNamespace(pair_counts=[4], n_pairs=4)
    table = rwda_tables.pair_count_rows(None, settings, None).set_index("metric")["mean"]
    assert table["heldout_accuracy"] == pytest.approx(62.5)


def test_statistics_of_texts_by_hand():
    vectors = np.random.default_rng(0).normal(size=(7, DIM))
    assert rwda_tables.cosine_distance(vectors) == pytest.approx(pdist(vectors, "cosine").mean())
    sides = DAMAGE + 0.1 * vectors, 0.1 * vectors - DAMAGE
    assert [rwda_tables.linear_accuracy(sides, (sides[0], side)) for side in sides] == [0.5, 1]
    groups = {"good told": [[1, 0], [2, 0]], "good drawn": [[9, 0], [5, 0]]}
    groups |= {"bad told": [[0, 1], [0, 2]], "bad drawn": [[0, 9], [0, 7]]}
    names = [{group: group.split()[k] for group in groups} for k in (0, 1)]
    found = rwda_tables.silhouette_rows({"1": groups}, *names).set_index("metric")["mean"]
    # by cosine a domain's four are 2 / 3 apart, and 1 / 2 from the other domain's
    assert found.to_dict() == pytest.approx({"silhouette_state": 1, "silhouette_domain": -1 / 4})


def test_claim_c12_adds_the_score_of_the_network_to_winclip_plus(images, fnns, monkeypatch):
    sums = {"ascore0+max_map": np.arange(20.0)}
    few = [({"shots": k, "seed": seed}, sums) for k, seed in ((1, 0), (1, 9), (3, 0))]
    test = images.select(split="test")
    category = SimpleNamespace(name="nut", record=lambda values, *_, **where: values)
    made = {"categories": [category], "few_shot_scores": few, "few_shot_design": (), "few_shot_arrays": {}}
    for name, value in made.items():
        monkeypatch.setattr(rwda_tables, name, lambda *_, value=value: value)
    monkeypatch.setattr(rwda_tables, "as_frame", list)
    monkeypatch.setattr(rwda_tables, "tidy", lambda records, *_, **__: records)
    (found,) = rwda_tables.with_random_words(SimpleNamespace(shots=[1]), None, images, "mvtec", fnns)
    own = (test.meta["category"] == "nut").to_numpy()
    np.testing.assert_array_equal(found, np.arange(20.0) + rwda_experiments.fnn_scores(test, fnns[0])[own])


def test_a_choice_is_paired_with_the_default_seed_by_seed():
    values = {"default": (0.9, 0.8, 0.7), "decay=1": (0.91, 0.82, 0.73)}  # changes of 1, 2 and 3 points
    rows = [(v, "rwda", 0, s, c, x) for v, own in values.items() for s, x in enumerate(own) for c in "ab"]
    records = pd.DataFrame(rows, columns=["variant", "method", "shots", "seed", "category", "auroc"])
    found = analysis.effects(records).set_index("variant").loc["decay=1"]
    expected = {"mean": 82, "std": 9, "change": 2, "half": 4.303 / 3**0.5}
    assert found[[*expected]].to_dict() == pytest.approx(expected, abs=1e-3)
    assert analysis.moved(found.to_frame().T.reset_index(names="variant"), "RWDA") == "none"
