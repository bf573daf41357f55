"""What WinCLIP's pages look at beyond the tables: small defects, typical images, failures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.stats import spearmanr

from zsad_papers.common.experiment import Category
from zsad_papers.common.results import COLUMNS, rows, validate
from zsad_papers.winclip.experiments import (
    within_images,
)


def small_defects(categories: Sequence[Category]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The row of claim 40, Spearman's correlation of a defect's size with how well it is found; and the
    anomalous images that it is over, as in `within_images`, with dataset and category. Without categories
    both are empty."""
    if not categories:
        columns = ("label", "area", "auroc", "f1max", "maximum", "dataset", "category")
        return validate(pd.DataFrame(columns=COLUMNS)), pd.DataFrame(columns=columns)
    parts = [within_images(c).assign(dataset=c.dataset.name, category=c.name) for c in categories]
    images = pd.concat(parts, ignore_index=True).dropna()
    value = spearmanr(images["area"], images["auroc"]).statistic
    names = {"paper": "winclip", "artifact": "suppC", "dataset": "", "method": "winclip", "task": "pixel"}
    return rows(pd.DataFrame([{"spearman": value}]), **names), images


def typical(category: Category) -> int:
    """The anomalous test image in the middle of the category's images by WinCLIP's pixel AUROC: neither the
    best case nor the worst."""
    ranked = within_images(category)["auroc"].dropna().sort_values(kind="stable")
    return int(ranked.index[len(ranked) // 2])


ARRANGEMENT = ("missing", "bent", "misplaced", "flip", "swap")
"""Words in the names of defects that are about arrangement rather than about the surface."""


def failures(categories: Sequence[Category], number: int = 3) -> dict[str, list[tuple[Category, int]]]:
    """Failure cases of zero-shot WinCLIP in the paper's four groups, chosen by rule (Figure 11).

    (a) arrangement: of defects whose name says so (`ARRANGEMENT`), the lowest pixel AUROC within the image.
    (b) tiny defects: of the smallest tenth of all defects, the lowest.
    (c) no defect: the normal images whose map has the highest maximum.
    (d) around the defect: of the images with a pixel AUROC above the median, the lowest pixel F1-max.
    At most one image a category in each group, so that no category fills it. Without categories no groups.
    """
    if not categories:
        return {}
    parts = [
        within_images(c).assign(number=n, kind=c.test.meta["defect"].to_numpy())
        for n, c in enumerate(categories)
    ]
    images = pd.concat(parts).rename_axis("image").reset_index()
    found = images.dropna()
    arranged = found["kind"].str.contains("|".join(ARRANGEMENT))
    normal = images[images["label"] == 0]
    groups = {  # the lowest scores fail most
        "(a) arrangement": found.assign(score=found["auroc"])[arranged],
        "(b) tiny defects": found.assign(score=found["auroc"])[found["area"] <= found["area"].quantile(0.1)],
        "(c) no defect": normal.assign(score=-normal["maximum"]),
        "(d) around the defect": found.assign(score=found["f1max"])[found["auroc"] > found["auroc"].median()],
    }
    first = {
        name: group.sort_values("score", kind="stable").drop_duplicates("number").head(number)
        for name, group in groups.items()
    }
    return {
        name: [(categories[row.number], int(row.image)) for row in group.itertuples()]
        for name, group in first.items()
    }
