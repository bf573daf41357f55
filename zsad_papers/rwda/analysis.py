"""Natural sentences with a given word, from COCO's captions or from this project's own (RWDA, Sec. 4.5 and
Fig. 5)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_papers.common.results import rows
from zsad_papers.common.settings import Settings
from zsad_papers.rwda.tables import held_out, pool


def cosine_distance(vectors: np.ndarray) -> float:
    """Mean of 1 - cos over all pairs of different rows of (n, d), in [0, 2]. From the length of the sum, so
    linear in n."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    n = len(unit)
    if n < 2:
        raise ValueError(f"{n} row(s): expected at least 2, to have a pair")
    return max(0.0, float(1 - (np.sum(unit.sum(0) ** 2) - n) / (n * (n - 1))))  # rounding can go below 0


def linear_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Held-out accuracy of a logistic regression between normal and anomalous embeddings, a fraction."""
    (x, y), (x_test, y_test) = (
        (np.concatenate(pair), np.repeat([0, 1], [len(part) for part in pair])) for pair in (train, test)
    )
    return float(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y).score(x_test, y_test)
    )


def prompt_statistics_rows(
    settings: Settings, encoder: ClipEncoder, plain: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    """Section 3.2: how far prompts of one state spread, with random words and without (`plain`), and how well
    a line parts the states."""
    texts = tuple(part[: settings.n_pairs] for part in pool(settings, encoder))
    names = {"paper": "rwda", "artifact": "sec3.2", "dataset": "", "task": "text"}
    frames = []
    for prefix, pair in (("", texts), ("random_words=0;", plain)):
        for state, vectors in zip(("normal", "anomalous"), pair, strict=True):
            value = pd.DataFrame({"cosine_distance": [cosine_distance(vectors)]})
            frames.append(rows(value, method="rwda", variant=f"{prefix}state={state}", **names))
    accuracy = pd.DataFrame({"heldout_accuracy": [linear_accuracy(texts, held_out(settings, encoder))]})
    return pd.concat([*frames, rows(accuracy, method="linear", **names)], ignore_index=True)


def layer_features(fnn: FNN, groups: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Figure 5's panels: the embeddings themselves (`clip`) and each hidden layer (`1`, `2`, `3`), for each
    group of texts (n, d)."""
    layers = {name: [vectors, *fnn.features(vectors)] for name, vectors in groups.items()}
    depth = len(next(iter(layers.values())))
    return {
        ("clip" if k == 0 else str(k)): {name: values[k] for name, values in layers.items()}
        for k in range(depth)
    }


def silhouette_rows(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    states: Mapping[str, str],
    domains: Mapping[str, str],
    metric: str = "cosine",
) -> pd.DataFrame:
    """Section 4.5: do the points of a layer lie by state (normal, anomalous) or by domain (caption, random
    words)?

    states, domains: group name -> state, domain. metric: of the silhouettes; cosine, so that layers of any
    scale compare.
    """
    frames = []
    for layer, groups in panels.items():
        points = np.concatenate(list(groups.values()))
        labels = {
            what: np.concatenate([[of[name]] * len(group) for name, group in groups.items()])
            for what, of in (("state", states), ("domain", domains))
        }
        values = pd.DataFrame(
            {
                f"silhouette_{what}": [float(silhouette_score(points, y, metric=metric))]
                for what, y in labels.items()
            }
        )
        frames.append(
            rows(
                values,
                paper="rwda",
                artifact="sec4.5",
                dataset="",
                task="text",
                method="rwda",
                variant=f"layer={layer}",
            )
        )
    return pd.concat(frames, ignore_index=True)


Match = Literal["word", "prefix", "substring"]
_PATTERNS = {"word": r"\b{}\b", "prefix": r"\b{}", "substring": r"{}"}


def load_captions(path: str | Path | None, word: str, match: Match | None = None) -> list[str]:
    """The captions that contain the word, without regard to case, in the file's order and each once.

    path: a COCO captions file such as `annotations/captions_val2017.json`; None: sentences written for this
        project, 60 with "normal", 60 with "damage" and 20 with "damaged", in a file of the same form.
    match: what counts, which the paper does not say. "word": the whole word. "prefix": words that begin with
        it, so that "damaged" counts for "damage" and "abnormal" does not for "normal". "substring":
        "abnormal" does, too. None: the rule that `data_scripts.coco_captions` has noted in the file as
        "match", else "word".

    Blanks and line breaks are tidied. Raises FileNotFoundError, or ValueError when the file is no captions
    file or no caption contains the word.

    >>> load_captions(None, "normal")[0]
    'A normal weekday morning at a bus stop near the park.'
    """
    if not word.strip():
        raise ValueError("word is empty: expected for example 'normal'")
    sentences, noted = _read(path)
    match = match or noted
    if match not in _PATTERNS:
        raise ValueError(f"match={match!r}: expected one of {', '.join(_PATTERNS)}")
    contains = re.compile(_PATTERNS[match].format(re.escape(word.strip())), re.IGNORECASE)
    tidied = (" ".join(sentence.split()) for sentence in sentences)
    captions = dict.fromkeys(tidied)  # keeps the order, drops repeats
    found = [caption for caption in captions if contains.search(caption)]
    if not found:
        name = path or "the shipped file"
        raise ValueError(f"none of the {len(captions)} captions in {name} has {word!r} (match={match!r})")
    return found


def missing_captions(path: str | Path | None) -> list[str]:
    """For a page's reader: that the captions file is not there and how to get it, as
    `data.missing`."""
    if path is None or Path(path).is_file():
        return []
    return [
        f"The captions file {Path(path).name} is not there, so this project's own sentences stand in its "
        "place: `zsad prepare coco_captions --help` tells how to get it."
    ]


def _read(path: str | Path | None) -> tuple[list[str], str]:
    """Every caption, and the matching rule that the file notes."""
    file = resources.files("zsad_papers") / "rwda" / "natural_sentences.json" if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"captions file {file} does not exist: `zsad prepare coco_captions --help` tells how "
            "to make it of annotations_trainval2017.zip; or give no file, for the sentences of this project"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        captions = [annotation["caption"] for annotation in content["annotations"]]
        if not all(isinstance(text, str) for text in [*captions, content.get("match", "word")]):
            raise TypeError("a caption that is no text")
        return captions, content.get("match", "word")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is no COCO captions file ({type(error).__name__}: {error}): expected JSON with "
            "'annotations', each with a 'caption'; instances_*.json and person_keypoints_*.json have none"
        ) from error
