"""What the smallest run of the book shows, beside `tests/golden/smallest`; `make golden` renews it."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch

FOLDER = Path(__file__).parent / "golden" / "smallest"
KIND = FOLDER / "processor.txt"
GLUED = "application/papermill.record/text/plain"
NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
CLOCK = r"\b(?:ms|fps|FPS|GiB|MiB|minutes|seconds|latency)\b"
TIMED = re.compile(CLOCK + r"|_test |_train |^verdicts|run's numbers")
PAPERS = Path(__file__).parents[1] / "zsad_papers"
CLAIMS = pd.concat([pd.read_csv(path, dtype=str) for path in sorted(PAPERS.glob("*/claim_tests.csv"))])
CLOCKED = set(CLAIMS["id"][CLAIMS["measures"].str.contains("_ms|fps|train_min", na=False)])
"""Claims about times: their verdicts are the machine's."""
POINTS, SHARE = 0.11, 0.002  # the last digit that is shown, and what another processor moves


def shown(path):
    """The tables and glued words of an executed notebook, a line each, spaces squeezed."""
    lines = []
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            name = output.get("metadata", {}).get("scrapbook", {}).get("name", "")
            if GLUED in data:
                lines.append((number, _steady(f"{name} {data[GLUED]}", name + " ")))
            elif "<table" in data.get("text/html", ""):
                text = data["text/plain"]
                own = [" ".join(line.split()) for line in text.splitlines() if line.strip("-─━ ")]
                lines += [(number, _steady(line, text)) for line in own]
    return pd.DataFrame(lines, columns=["cell", "line"])


def _steady(line, text):
    """The line without what a clock decides; text: the table that it stands in."""
    if clocked := [name for name in CLOCKED if re.search(rf"\b{name}\b", line)]:
        return f"{clocked[0]}: by the clock"
    return NUMBER.sub("#", line) if TIMED.search(text) else line


def processor():
    """The kind of this processor: learned prompts come out otherwise on another kind."""
    return torch.backends.cpu.get_cpu_capability()


def same_processor():
    return KIND.read_text() == processor()


def differences(golden, found):
    """The lines that differ in a word, or in a number by more than the tolerance.

    On another kind of processor than that of the golden tables only their words count.
    """
    if not same_processor():
        frames = (golden, found)
        golden, found = (x.assign(line=x["line"].str.replace(NUMBER, "#", regex=True)) for x in frames)
    counts = [frame.groupby("cell").size().to_dict() for frame in (golden, found)]
    if counts[0] != counts[1]:
        return ["lines by cell {} became {}".format(*counts)]
    pairs = zip(golden["line"], found["line"], strict=True)
    return [f"{old}\n    became {new}" for old, new in pairs if not same(old, new)]


def same(old, new):
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return False
    return np.allclose(numbers(old), numbers(new), rtol=SHARE, atol=POINTS)


def numbers(line):
    return [float(found.replace(",", "").replace("−", "-")) for found in NUMBER.findall(line)]
