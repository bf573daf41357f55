"""Tables for readers: published beside measured, as accessible HTML with a plain-text twin."""

import html
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd
from pandas.io.formats.style import Styler

from zsad_papers.common.results import read_table

LABELS: dict[str, dict[str, str]] = {
    column: dict(zip(own["value"], own["label"]))
    for column, own in read_table("common", "labels.csv").groupby("column")
}
"""Readable names by column; a name that is not listed is shown as it is, with spaces for underscores."""


@dataclass(frozen=True)
class Table:
    """A finished table: Jupyter and the book show `html`, a terminal shows `text`."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def mean_std(mean: float, std: float = math.nan, digits: int = 1) -> str:
    """A number as the papers print it.

    >>> mean_std(92.18, 0.31), mean_std(91.5), mean_std(float("nan"))
    ('92.2 ± 0.3', '91.5', 'undefined')
    """
    if pd.isna(mean):
        return "undefined"
    return f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")


def in_words(value: float, form: str = ".1f", unit: str = "") -> str:
    """A number for a sentence, or 'not measured'."""
    return "not measured" if pd.isna(value) else f"{value:{form}}{unit}"


def listed(parts: Iterable[str], between: str = ", ") -> str:
    """Parts of a sentence, or 'not measured' without parts (no dataset is prepared)."""
    return between.join(parts) or "not measured"


def as_printed(text: str) -> str:
    """The text with its names of datasets, methods and measures as in `LABELS`."""
    names = {value: label.removesuffix(" (%)") for own in LABELS.values() for value, label in own.items()}
    return re.sub(r"\b[a-z]\w+\b(?!-)", lambda word: names.get(word[0], word[0]), text)


def between_estimators(measured: pd.DataFrame) -> str:
    """The range of PRO at 200 thresholds minus exact PRO, in points, over the means that have both."""
    found = measured[measured["metric"].isin(["pro", "pro200"]) & (measured["category"] == "mean")]
    keys = ["dataset", "shots", "method", "variant"]
    wide = found.pivot_table(index=keys, columns="metric", values="mean", aggfunc="first")
    gap = wide.reindex(columns=["pro", "pro200"]).diff(axis=1)["pro200"].dropna()
    return f"{gap.min():+.1f} to {gap.max():+.1f} points" if len(gap) else "not measured"


def comparison_table(
    comparison: pd.DataFrame,
    *,
    caption: str,
    index: Sequence[str] = ("shots", "variant", "method"),
    columns: Sequence[str] = ("metric",),
    show: Sequence[str] = ("published", "measured", "difference"),
    digits: int = 1,
    absent: Mapping[str, str] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> Table:
    """The result of `results.compare` as a table: lines by `index`, groups of columns by `columns`, which
    together must identify its rows, in the order in which their names first appear.

    Cells hold 'mean ± std', or the status in words. A dataset with a stand-in is labelled with both names.
    absent: by method, what stands for 'not yet run' and 'dataset missing'. labels: names beside `LABELS`."""
    comparison = comparison.reset_index(drop=True)
    texts = pd.DataFrame({side: _texts(comparison, side, digits) for side in ("published", "measured")})
    texts["difference"] = ["" if pd.isna(d) else f"{d:+.{digits}f}" for d in comparison["difference"]]
    lacking = comparison["status"].isin(["not yet run", "dataset missing"])
    words = [(absent or {}).get(row.method, row.status) for row in comparison.itertuples()]
    texts["measured"] = texts["measured"].mask(lacking, pd.Series(words, dtype="str"))
    for column in (*index, *columns):
        names = {**LABELS.get(column, {}), **dict((labels or {}).get(column, {}))}
        if column == "dataset":
            other = comparison.loc[comparison["measured_on"] != "", ["dataset", "measured_on"]]
            stands_in = other[other["measured_on"] != other["dataset"]].to_numpy().tolist()
            names |= {name: f"{names.get(name, name)} (measured: {own})" for name, own in stands_in}
        texts[column] = [names.get(name, name.replace("_", " ")) for name in comparison[column].astype("str")]
    lines = texts[list(index)].drop_duplicates()
    if len(index) > 1:  # a line that only a run has goes to its group, not to the end
        ranks = lines[list(index)[:-1]].apply(lambda values: pd.factorize(values)[0])
        lines = lines.loc[ranks.sort_values(list(ranks.columns), kind="stable").index]
    groups = itertools.product(*(texts[column].drop_duplicates() for column in columns), show)
    wide = texts.pivot(index=list(index), columns=list(columns), values=list(show))
    wide = wide.reorder_levels([*range(1, 1 + len(columns)), 0], axis="columns")
    wide = wide.reindex(columns=[group for group in groups if group in wide.columns])
    wide = wide.reindex(pd.MultiIndex.from_frame(lines) if len(index) > 1 else lines.iloc[:, 0]).fillna("")
    wide.columns.names = [None] * wide.columns.nlevels
    return as_table(wide, caption)


def _texts(comparison: pd.DataFrame, side: str, digits: int) -> list[str]:
    pairs = zip(comparison[side], comparison[f"{side}_std"], strict=True)
    absent = "no published number" if side == "published" else "undefined"
    return [absent if pd.isna(mean) else mean_std(mean, std, digits) for mean, std in pairs]


def verdict_table(verdicts: pd.DataFrame, caption: str) -> Table:
    """Claims and their two verdicts: lines of `page.Page.verdicts`."""
    names = {"claim": "claim", "published": "printed numbers", "run": "this run"}
    return as_table(verdicts[list(names)].rename(columns=names), caption)


_Accessible = Styler.from_custom_template(str(files("zsad_papers.common")), html_table="table.html")


def as_table(
    frame: pd.DataFrame, caption: str, *, digits: int = 2, links: Mapping[str, str] | None = None
) -> Table:
    """Any frame as a captioned table; its index makes row headers, plain numbering is hidden. Without cells
    it says that nothing was measured. links: {text: address} of cells with exactly such a text."""
    if frame.empty:
        frame = pd.DataFrame({"result": ["nothing measured in this run"]})
    styler = _Accessible(frame, caption=html.escape(caption), cell_ids=False)
    styler = styler.format(escape="html", precision=digits, na_rep="-")
    styler = styler.format_index(escape="html", axis="columns").format_index(escape="html", axis="index")
    plain = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    if plain:
        styler = styler.hide(axis="index")
    escaped = {html.escape(name): html.escape(target) for name, target in (links or {}).items()}
    text = frame.to_string(index=not plain, float_format=lambda v: f"{v:.{digits}f}", na_rep="-")
    return Table(html=styler.to_html(exclude_styles=True, links=escaped), text=f"{caption}\n{text}")
