"""Tables for readers: published beside measured, as accessible HTML with a plain-text twin.

Nothing is told by colour alone: 'not yet run' and 'undefined' are words. Header cells carry their scope, the
caption belongs to the table, and a wide table scrolls inside a region that the keyboard reaches.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from pandas.io.formats.style import Styler

LABELS: dict[str, dict[str, str]] = {
    "dataset": {
        "mvtec": "MVTec-AD",
        "visa": "VisA",
        "sewerml": "Sewer-ML",
        "mpdd": "MPDD",
        "btad": "BTAD",
        "sdd": "SDD",
        "dagm": "DAGM",
        "dtd_synthetic": "DTD-Synthetic",
        "headct": "HeadCT",
        "brainmri": "BrainMRI",
        "br35h": "Br35H",
        "covid19": "COVID-19",
        "isic": "ISIC",
        "cvc_colondb": "CVC-ColonDB",
        "cvc_clinicdb": "CVC-ClinicDB",
        "kvasir": "Kvasir",
        "endo": "Endo",
        "tn3k": "TN3K",
        "": "any image",
    },
    "method": {
        "clip": "CLIP",
        "rwda": "RWDA",
        "clip_rwda": "CLIP + RWDA",
        "winclip": "WinCLIP",
        "winclip_plus": "WinCLIP+",
        "spade": "SPADE",
        "padim": "PaDiM",
        "patchcore": "PatchCore",
        "regad": "RegAD",
        "clip_ac": "CLIP-AC",
        "clip_ac_prompt_ens": "CLIP-AC + ImageNet templates",
        "trans_mm": "Trans-MM",
        "maskclip": "MaskCLIP",
        "differnet": "DifferNet",
        "tdg": "TDG",
        "regad_l": "RegAD-L",
        "mkd": "MKD",
        "p_svdd": "P-SVDD",
        "cutpaste": "CutPaste",
        "vand": "VAND",
        "coop": "CoOp",
        "anomalyclip": "AnomalyCLIP",
        "rd4ad": "RD4AD",
    },
    "metric": {
        "auroc": "AUROC (%)",
        "aupr": "AUPR (%)",
        "ap": "AP (%)",
        "f1max": "F1-max (%)",
        "pro": "PRO (%)",
        "accuracy": "accuracy (%)",
        "heldout_accuracy": "held-out accuracy (%)",
        "params_M": "parameters (M)",
        "macs_G": "multiply-accumulates (G)",
        "latency_ms": "latency (ms)",
        "time_ms": "time (ms)",
        "fps": "images a second",
        "train_min_per_epoch": "training (minutes an epoch)",
        "n_categories": "categories",
        "n_normal": "normal images",
        "n_anomalous": "anomalous images",
    },
    "variant": {
        "": "-",
        "object_unknown": "object unknown",
        "object_known": "object known",
        "object_known;multi_crop=0": "object known, one view",
    },
    "shots": {"-1": "all"},
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
    """A number for a sentence, or that there is none.

    >>> in_words(92.18, "+.1f", " points"), in_words(float("nan"), unit=" %")
    ('+92.2 points', 'not measured')
    """
    return "not measured" if pd.isna(value) else f"{value:{form}}{unit}"


def listed(parts: Iterable[str], between: str = ", ") -> str:
    """Parts of a sentence; without any, as where no dataset is prepared, that there are none.

    >>> listed(["+1.0 on cups", "-0.5 on nuts"]), listed([])
    ('+1.0 on cups, -0.5 on nuts', 'not measured')
    """
    return between.join(parts) or "not measured"


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
    """The result of `results.compare` as a table: lines by `index`, groups of columns by `columns`.

    Cells hold 'mean ± std', or in words 'not yet run', 'dataset missing', 'undefined', 'no published number'.
    Lines are grouped by `index`, and lines and groups keep the order in which their names first appear. A
    dataset that another one stands in for is labelled with both names.

    index, columns : column names of the comparison; together they must tell its rows apart.
    show : some of "published", "measured", "difference".
    absent : by method, what stands in the place of 'not yet run' and 'dataset missing': 'quoted, not run
        here', say.
    labels : readable names by column, added to `LABELS`.
    """
    status = comparison.reset_index(drop=True)
    texts = pd.DataFrame(
        {
            "published": _texts(status, "published", "no published number", digits),
            "measured": _texts(status, "measured", "not yet run", digits),
            "difference": ["" if pd.isna(d) else f"{d:+.{digits}f}" for d in status["difference"]],
        }
    )
    texts.loc[(status["status"] == "undefined").to_numpy(), "measured"] = "undefined"
    lacking = status[status["status"].isin(["not yet run", "dataset missing"])]
    texts.loc[lacking.index, "measured"] = [
        (absent or {}).get(row.method, row.status) for row in lacking.itertuples()
    ]
    for column in (*index, *columns):
        names = {**LABELS.get(column, {}), **dict((labels or {}).get(column, {}))}
        if column == "dataset":
            stands_in = status[(status["measured_on"] != "") & (status["measured_on"] != status["dataset"])]
            for name, other in zip(stands_in["dataset"], stands_in["measured_on"]):
                names[name] = f"{LABELS['dataset'].get(name, name)} (measured: {other})"
        texts[column] = [names.get(name, name.replace("_", " ")) for name in status[column].astype("str")]
    order = {column: texts[column].drop_duplicates().tolist() for column in columns}
    lines = texts[list(index)].drop_duplicates()
    # Grouped by all but the last column, in the order of first appearance: a line that only a run has stands
    # with its kin and not at the end.
    if len(index) > 1:
        ranks = lines[list(index)[:-1]].apply(lambda values: pd.factorize(values)[0])
        lines = lines.loc[ranks.sort_values(list(ranks.columns), kind="stable").index]
    wide = texts.pivot(index=list(index), columns=list(columns), values=list(show))
    wide = wide.reorder_levels([*range(1, 1 + len(columns)), 0], axis="columns")
    groups = [()]
    for column in columns:
        groups = [(*group, name) for group in groups for name in order[column]]
    wide = wide.reindex(columns=[(*g, s) for g in groups for s in show if (*g, s) in wide.columns])
    wide = wide.reindex(lines.itertuples(index=False, name=None) if len(index) > 1 else lines.iloc[:, 0])
    wide = wide.fillna("")
    wide.index.names = list(index)
    wide.columns.names = [None] * wide.columns.nlevels
    return as_table(wide, caption)


def _texts(status: pd.DataFrame, side: str, absent: str, digits: int) -> list[str]:
    pairs = zip(status[side], status[f"{side}_std"], strict=True)
    return [absent if pd.isna(mean) else mean_std(mean, std, digits) for mean, std in pairs]


def as_table(
    frame: pd.DataFrame, caption: str, *, digits: int = 2, links: Mapping[str, str] | None = None
) -> Table:
    """Any frame as a captioned, accessible table; its index makes row headers, plain numbering is hidden.
    One without cells says so: nothing was measured.

    links : texts that become links wherever a cell holds exactly one of them, and where they lead.
    """
    if frame.empty:
        frame = pd.DataFrame({"result": ["nothing measured in this run"]})
    identity = hashlib.sha256((caption + frame.to_csv()).encode()).hexdigest()[:8]  # same table, same bytes
    styler = Styler(frame, uuid=identity, cell_ids=False, caption=html.escape(caption))
    styler = styler.format(escape="html", precision=digits, na_rep="-")
    styler = styler.format_index(escape="html", axis="columns").format_index(escape="html", axis="index")
    plain = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    if plain:
        styler = styler.hide(axis="index")
    body = re.sub(r"<th ([^>]*)>(?:&nbsp;)?</th>", r"<td \1></td>", styler.to_html())  # empty: no header
    body = re.sub(r"<th ([^>]*)>", _with_scope, body)
    # The book's style keeps this span in sight while a wide table scrolls beneath it.
    body = re.sub(r"<caption>(.*?)</caption>", r"<caption><span>\1</span></caption>", body, flags=re.S)
    for name, target in (links or {}).items():
        cell = f">{html.escape(name)}</td>"
        body = body.replace(cell, f'><a href="{html.escape(target)}">{html.escape(name)}</a></td>')
    label = html.escape(caption, quote=True)
    region = f'<div role="region" aria-label="{label}" tabindex="0" style="overflow-x: auto">\n{body}</div>'
    text = frame.to_string(index=not plain, float_format=lambda v: f"{v:.{digits}f}", na_rep="-")
    return Table(html=region, text=f"{caption}\n{text}")


def _with_scope(header: re.Match[str]) -> str:
    """A header cell with the scope that screen readers announce it by."""
    row = "row_heading" in header[1]
    group = "group" if ("rowspan" if row else "colspan") in header[1] else ""
    return f'<th scope="{"row" if row else "col"}{group}" {header[1]}>'
