"""The lab's code runs as it is printed, set-up first, solutions in order."""

import re

from zsad_papers.common import settings


def test_the_labs_solutions_run_in_their_order(root, small_run, monkeypatch, capsys):
    text = (root / "book" / "rwda" / "lab.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    solutions = text.count("{solution-start}")
    assert solutions and len(blocks) == solutions + 2  # the set-up and the helper come first

    whole = settings.read_settings
    monkeypatch.setattr(settings, "read_settings", lambda given: whole({**small_run, **given}))
    namespace = {"__name__": "lab"}
    for block in blocks:
        exec(compile(block, "lab.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert namespace["guided"].shape == (len(namespace["images"].labels),)
    for line in ("scatter", "accuracy on unseen sentences", "swapped", "64 pairs"):
        assert line in printed, f"the lab no longer prints {line!r}"
