"""Figure 5: natural sentences with a given word, and texts layer by layer (RWDA, Sec. 4.5)."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from zsad_core.fnn import FNN


def layer_features(fnn: FNN, groups: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Figure 5's panels, `clip` (the embeddings) and hidden layers `1` to `3`, of groups of texts (n, d)."""
    layers = {name: [vectors, *fnn.features(vectors)] for name, vectors in groups.items()}
    names = ["clip", *(str(k + 1) for k in range(len(fnn.layers)))]
    return {layer: {name: own[k] for name, own in layers.items()} for k, layer in enumerate(names)}


def load_captions(path: str | Path | None, word: str) -> list[str]:
    """The captions that contain the word as a whole, without regard to case, in the file's order, each once.

    path: a COCO captions file such as `annotations/captions_val2017.json`; None: this project's sentences.
    Raises FileNotFoundError; ValueError when the file is no captions file or no caption contains the word.
    """
    if not word.strip():
        raise ValueError("word is empty: expected for example 'normal'")
    file = resources.files("zsad_papers") / "rwda" / "natural_sentences.json" if path is None else Path(path)
    captions = dict.fromkeys(" ".join(text.split()) for text in _read(file))  # keeps the order, drops repeats
    contains = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    found = [caption for caption in captions if contains.search(caption)]
    if not found:
        raise ValueError(f"none of the {len(captions)} captions in {path or 'the shipped file'} has {word!r}")
    return found


def missing_captions(path: str | Path | None) -> list[str]:
    """For a page's reader, as `data.missing`: sentences on a missing captions file."""
    if path is None or Path(path).is_file():
        return []
    how = "`zsad prepare coco_captions --help` shows how to get it"
    return [f"The captions file {Path(path).name} is not there: {how}. This project's sentences are used."]


def _read(file: Traversable) -> list[str]:
    if not file.is_file():
        advice = "`zsad prepare coco_captions --help` says how to make it; or give no file"
        raise FileNotFoundError(f"captions file {file} does not exist: {advice}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        captions = [own["caption"] for own in content["annotations"]]
        if not all(isinstance(text, str) for text in captions):
            raise TypeError("a caption that is no text")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is no COCO captions file ({type(error).__name__}: {error}): expected JSON with "
            "'annotations', each with a 'caption'; instances_*.json and person_keypoints_*.json have none"
        ) from error
    if (rule := content.get("match", "word")) != "word":  # as earlier versions noted it
        raise ValueError(f"{file} is for the rule {rule!r}; whole words alone count now: prepare it again")
    return captions
