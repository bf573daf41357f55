"""Figure 5: natural sentences with a given word, and texts layer by layer (RWDA, Sec. 4.5)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from zsad_core.fnn import FNN

MATCHES = {"word": r"\b{}\b", "prefix": r"\b{}", "substring": r"{}"}
"""When a caption contains a word, by the name that a captions file notes; the paper does not say."""


def layer_features(fnn: FNN, groups: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Figure 5's panels: the embeddings themselves (`clip`) and each hidden layer (`1`, `2`, `3`), for each
    group of texts (n, d)."""
    layers = {name: [vectors, *fnn.features(vectors)] for name, vectors in groups.items()}
    names = ["clip", *(str(k + 1) for k in range(len(fnn.layers)))]
    return {layer: {name: own[k] for name, own in layers.items()} for k, layer in enumerate(names)}


def load_captions(path: str | Path | None, word: str) -> list[str]:
    """The captions that contain the word, without regard to case, in the file's order and each once.

    path: a COCO captions file such as `annotations/captions_val2017.json`; None: this project's sentences.
    Raises FileNotFoundError, or ValueError when the file is no captions file or no caption contains the word.
    """
    sentences, match = _read(path)
    if match not in MATCHES:
        raise ValueError(f"{path}: match is {match!r}; expected one of {', '.join(MATCHES)}")
    contains = re.compile(MATCHES[match].format(re.escape(word)), re.IGNORECASE)
    captions = dict.fromkeys(" ".join(text.split()) for text in sentences)  # keeps the order, drops repeats
    found = [caption for caption in captions if contains.search(caption)]
    if not found:
        name = path or "the shipped file"
        raise ValueError(f"none of the {len(captions)} captions in {name} has {word!r} (match={match!r})")
    return found


def missing_captions(path: str | Path | None) -> list[str]:
    """For a page's reader, as `data.missing`: sentences on a missing captions file."""
    if path is None or Path(path).is_file():
        return []
    return [
        f"The captions file {Path(path).name} is not there, so this project's own sentences stand in its "
        "place: `zsad prepare coco_captions --help` says how to get it."
    ]


def _read(path: str | Path | None) -> tuple[list[str], str]:
    """Every caption, and the matching rule that the file notes."""
    file = resources.files("zsad_papers") / "rwda" / "natural_sentences.json" if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"captions file {file} does not exist: `zsad prepare coco_captions --help` says how "
            "to make it of annotations_trainval2017.zip; or give no file, for the sentences of this project"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        captions, match = [own["caption"] for own in content["annotations"]], content.get("match", "word")
        if not all(isinstance(text, str) for text in [*captions, match]):
            raise TypeError("a caption that is no text")
        return captions, match
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is no COCO captions file ({type(error).__name__}: {error}): expected JSON with "
            "'annotations', each with a 'caption'; instances_*.json and person_keypoints_*.json have none"
        ) from error
