"""Natural sentences with a given word, from COCO's captions or from this project's own (RWDA, Sec. 4.5 and
Fig. 5)."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Literal

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
    `embeddings.missing`."""
    if path is None or Path(path).is_file():
        return []
    return [
        f"The captions file {Path(path).name} is not there, so this project's own sentences stand in its "
        "place: `python -m data_scripts.coco_captions --help` tells how to get it."
    ]


def _read(path: str | Path | None) -> tuple[list[str], str]:
    """Every caption, and the matching rule that the file notes."""
    file = resources.files("zsad_core") / "natural_sentences.json" if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"captions file {file} does not exist: `python -m data_scripts.coco_captions --help` tells how "
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
