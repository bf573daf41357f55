"""How much of the papers' tables and figures a run has measured, and on what."""

from collections.abc import Mapping

import pandas as pd

from zsad_papers.common.results import compare, load_published

OWN, STAND_IN, ONLY = "on the paper's data", "on a stand-in", "published only"
STATES = (OWN, STAND_IN, ONLY)


def coverage(artifacts: pd.DataFrame, run: pd.DataFrame, datasets: Mapping[str, str | None]) -> pd.DataFrame:
    """The list of artifacts with `state`, one of `STATES`, and `cells` and `measured`: how many numbers it
    prints, and how many of them have a measured neighbour.

    A figure prints none. It counts as measured, since its page draws it from the run's data.
    run : result rows under their own dataset names. datasets : published name to the one in its place.
    """
    there = {name: own for name, own in datasets.items() if own}
    drawn = STAND_IN if any(name != own for name, own in there.items()) else OWN
    states = []
    for row in artifacts.itertuples(index=False):
        printed = load_published(row.paper)
        printed = printed[printed["artifact"] == row.artifact]
        beside = compare(printed, run[run["paper"].isin([row.paper])], stand_ins=there)
        found = beside[beside["status"] == "measured"]
        foreign = (found["measured_on"] != found["dataset"]).any()
        state = drawn if printed.empty else ONLY if found.empty else STAND_IN if foreign else OWN
        states.append((state, len(printed), len(found)))
    return artifacts.assign(**dict(zip(("state", "cells", "measured"), zip(*states))))
