"""Predicates for the ablations of the AnomalyCLIP paper: claims c12 to c35 and c38 to c43.

`zsad_papers.anomalyclip.claims` tells which rows they read, and holds the other claims. `own_numbers` and the
helpers below it serve both modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from zsad_papers.common.claims import Numbers, Setting, Verdict, above, at_least

BOTH = ("mvtec", "visa")
DETECTION = ("image auroc", "image ap")
SEGMENTATION = ("pixel auroc", "pixel pro")
AUROC, PIXEL_AUROC = DETECTION[:1], SEGMENTATION[:1]
AUROCS = AUROC + PIXEL_AUROC
SWEPT = ("pixel pro", "image ap")  # what Figure 8 shows
INDUSTRIAL = ("mvtec", "visa", "mpdd", "btad", "sdd", "dagm", "dtd_synthetic")
MEDICAL_IMAGE = ("headct", "brainmri", "br35h", "covid19")
MEDICAL_PIXEL = ("isic", "cvc_colondb", "cvc_clinicdb", "kvasir", "endo", "tn3k")
WORDS = ("damaged", "anomalous", "flawed", "defective", "blemished")


def own_numbers(results: pd.DataFrame, claim: str) -> Numbers:
    """The paper's own numbers: WinCLIP's paper prints rows under some of the same names."""
    return Numbers(results[results["paper"] == "anomalyclip"], f"anomalyclip-{claim}")


def ours(variant: str = "") -> Setting:
    """AnomalyCLIP, zero-shot; the empty variant is the full method."""
    return Setting("anomalyclip", variant)


def ahead(
    results: pd.DataFrame,
    claim: str,
    pairs: Iterable[tuple[Setting, Setting]],
    *where: Any,
    ties: bool = False,
) -> Verdict:
    """The first of each pair is ahead, or level if ties are allowed; where: measures, datasets."""
    n = own_numbers(results, claim)
    return n.all_ahead(n.leads(pairs, *where), ties=ties)


def present(n: Numbers, setting: Setting, measure: str) -> set[str]:
    """The datasets with a mean row of a setting; measure: task and metric, `pixel auroc`."""
    rows = n.results
    task, metric = measure.split()
    chosen = (rows["category"] == "mean") & (rows["shots"] == setting.shots)
    for key, value in (("task", task), ("metric", metric), ("method", setting.method)):
        chosen &= rows[key] == value
    return set(rows["dataset"][chosen & (rows["variant"] == setting.variant)])


def shared(n: Numbers, measure: str, *settings: Setting, among: Sequence[str] | None = None) -> list[str]:
    """The datasets with rows of all settings, sorted; none, and a problem noted, if there is no such one."""
    found = set.intersection(*(present(n, setting, measure) for setting in settings))
    datasets = sorted(found if among is None else found & set(among))
    if not datasets:
        where = "any dataset" if among is None else f"one of {', '.join(among)}"
        n.problems.append(f"no row for {measure} of {' and '.join(map(str, settings))} on {where}")
    return datasets


def mean_leads(
    n: Numbers,
    pairs: Sequence[tuple[Setting, Setting]],
    measures: Sequence[str],
    datasets: Sequence[str],
) -> dict[str, float]:
    """First minus second of each pair in the mean over datasets, by name."""
    leads = {}
    for measure in measures:
        for one, other in pairs:
            gains = n.leads([(one, other)], (measure,), datasets).values()
            leads[f"mean of {len(gains)} {measure} {one} - {other}"] = sum(gains) / max(len(gains), 1)
    return leads


LOSSES = {
    (local, world): ours(f"local={local};global={world}") for local in (0, 1) for world in (0, 1)
}  # by local and global


def anomalyclip_c12(results: pd.DataFrame) -> Verdict:
    """Learned prompts beat untrained ones."""
    return ahead(results, "c12", [(LOSSES[1, 1], LOSSES[0, 0])], AUROCS, BOTH)


MODULES = ("T1", "T2", "T3", "T4")
STEPS = [ours(name) for name in ("base", *(f"+{module}" for module in MODULES))]


def anomalyclip_c13(results: pd.DataFrame) -> Verdict:
    """No module, added in turn, lowers a result."""
    return ahead(results, "c13", list(zip(STEPS[1:], STEPS)), AUROCS, BOTH, ties=True)


def anomalyclip_c14(results: pd.DataFrame) -> Verdict:
    """The diagonal attention improves localization."""
    return ahead(results, "c14", [(STEPS[1], STEPS[0])], SEGMENTATION, BOTH)


def anomalyclip_c15(results: pd.DataFrame) -> Verdict:
    """The attention change improves the maps of plain and of tuned CLIP."""
    pairs = [(Setting(m, "attention=vv"), Setting(m, "attention=qk")) for m in ("clip", "anomalyclip")]
    return ahead(results, "c15", pairs, PIXEL_AUROC, BOTH)


def anomalyclip_c16(results: pd.DataFrame) -> Verdict:
    """Object-agnostic prompts gain more than any other module."""
    n, leads = own_numbers(results, "c16"), {}
    for d in BOTH:
        for measure in AUROCS:
            at = [n.of(step, measure, d) for step in STEPS]
            gains = dict(zip(MODULES, (after - before for before, after in zip(at, at[1:]))))
            prompts = gains.pop("T2")
            leads |= {f"{d} {measure} gain of T2 - of {other}": prompts - g for other, g in gains.items()}
    return n.all_ahead(leads)


REMOVED = {module: ours(f"-{module}") for module in MODULES}


def anomalyclip_c17(results: pd.DataFrame) -> Verdict:
    """Each module is missed when it is taken away."""
    return ahead(results, "c17", [(ours(), removed) for removed in REMOVED.values()], AUROCS, BOTH)


def anomalyclip_c18(results: pd.DataFrame) -> Verdict:
    """Without the diagonal attention more is lost at image level than at pixel level."""
    n, pairs = own_numbers(results, "c18"), [(ours(), REMOVED["T1"])]
    image, pixel = (n.leads(pairs, measure, BOTH).values() for measure in (AUROC, PIXEL_AUROC))
    return n.all_ahead({f"{d} image loss - pixel loss": i - p for d, i, p in zip(BOTH, image, pixel)})


def anomalyclip_c19(results: pd.DataFrame) -> Verdict:
    """Object-agnostic prompts are missed most."""
    pairs = [(REMOVED[other], REMOVED["T2"]) for other in ("T1", "T3", "T4")]
    return ahead(results, "c19", pairs, AUROCS, BOTH)


def anomalyclip_c20(results: pd.DataFrame) -> Verdict:
    """The global loss improves detection, with and without the local one."""
    pairs = [(LOSSES[local, 1], LOSSES[local, 0]) for local in (0, 1)]
    return ahead(results, "c20", pairs, AUROC, BOTH)


def anomalyclip_c21(results: pd.DataFrame) -> Verdict:
    """For localization the local loss beats the global one."""
    return ahead(results, "c21", [(LOSSES[1, 0], LOSSES[0, 1])], SEGMENTATION, BOTH)


def anomalyclip_c22(results: pd.DataFrame) -> Verdict:
    """The local loss improves detection when it is added to the global one."""
    return ahead(results, "c22", [(LOSSES[1, 1], LOSSES[0, 1])], DETECTION, BOTH)


def anomalyclip_c23(results: pd.DataFrame) -> Verdict:
    """Both losses together are best in at least six of eight cells."""
    n, others = own_numbers(results, "c23"), [LOSSES[0, 0], LOSSES[0, 1], LOSSES[1, 0]]
    won, lost = 0, []
    for d in BOTH:
        for measure in SEGMENTATION + DETECTION:
            leads = n.leads([(LOSSES[1, 1], other) for other in others], (measure,), (d,))
            best = all(above(lead, 0) for lead in leads.values())
            won += best
            lost += [] if best else [f"{d} {measure}"]
    reason = f"6 are asked; not highest in {', '.join(lost) or 'none'}"
    return n.verdict(won >= 6, reason, {"cells of 8 in which both losses are highest": won})


QK, QQ, KK, VV = (ours(f"attention={name}") for name in ("qk", "qq", "kk", "vv"))
DIAGONAL, ALL_FOUR = ours("attention=qq+kk+vv"), ours("attention=qk+qq+kk+vv")


def anomalyclip_c24(results: pd.DataFrame) -> Verdict:
    """V-V has the highest sum of image and pixel AUROC among the single attentions."""
    n, leads = own_numbers(results, "c24"), {}
    for other in (QQ, KK):
        gains = n.leads([(VV, other)], AUROCS, BOTH).values()
        leads[f"image + pixel auroc {VV} - {other}"] = sum(gains) / len(BOTH)
    return n.all_ahead(leads, ties=True)


def anomalyclip_c25(results: pd.DataFrame) -> Verdict:
    """Q-Q localizes like V-V and detects worse."""
    n, pairs = own_numbers(results, "c25"), [(VV, QQ)]
    near = all(at_least(1.0, abs(gap)) for gap in n.leads(pairs, PIXEL_AUROC, BOTH).values())
    asked = f"pixel auroc differs by {'at most' if near else 'more than'} 1.0"
    return n.all_ahead(n.leads(pairs, AUROC, BOTH), near, asked)


def anomalyclip_c26(results: pd.DataFrame) -> Verdict:
    """K-K detects like V-V and localizes worse than V-V and Q-Q."""
    n = own_numbers(results, "c26")
    near = all(at_least(lead, -1.0) for lead in n.leads([(KK, VV)], AUROC, BOTH).values())
    asked = f"in image auroc K-K is {'at most' if near else 'more than'} 1.0 below V-V"
    return n.all_ahead(n.leads([(VV, KK), (QQ, KK)], PIXEL_AUROC, BOTH), near, asked)


def anomalyclip_c27(results: pd.DataFrame) -> Verdict:
    """Q-K is behind V-V in everything."""
    return ahead(results, "c27", [(VV, QK)], DETECTION + SEGMENTATION, BOTH)


def anomalyclip_c28(results: pd.DataFrame) -> Verdict:
    """A token attends to itself most with V-V, least with Q-K."""
    n = own_numbers(results, "c28")
    own = {
        name: n("self_attention", "clip", "mvtec", variant=f"attention={name}", task="")
        for name in ("vv", "qq", "kk", "qk")
    }
    pairs = (("vv", "qq"), ("qq", "qk"), ("vv", "kk"), ("kk", "qk"))
    return n.all_ahead({f"{one} - {other}": own[one] - own[other] for one, other in pairs})


def anomalyclip_c29(results: pd.DataFrame) -> Verdict:
    """Three diagonal attentions together localize better than V-V and detect no worse."""
    n, pairs = own_numbers(results, "c29"), [(DIAGONAL, VV)]
    kept = all(at_least(lead, -0.2) for lead in n.leads(pairs, AUROC, BOTH).values())
    asked = f"image auroc is lower by {'at most' if kept else 'more than'} 0.2"
    return n.all_ahead(n.leads(pairs, SEGMENTATION, BOTH), kept, asked)


def anomalyclip_c30(results: pd.DataFrame) -> Verdict:
    """With Q-K in it, the ensemble is between Q-K and V-V, and behind the one without."""
    pairs = [(ALL_FOUR, QK), (VV, ALL_FOUR), (DIAGONAL, ALL_FOUR)]
    return ahead(results, "c30", pairs, AUROCS, BOTH)


def anomalyclip_c31(results: pd.DataFrame) -> Verdict:
    """With Q-K, the local loss makes the maps acceptable."""
    local, without = (ours(f"attention=qk;local={local}") for local in (1, 0))
    return ahead(results, "c31", [(local, without), (local, Setting("clip"))], PIXEL_AUROC, BOTH)


def anomalyclip_c32(results: pd.DataFrame) -> Verdict:
    """Separate words for both states are slightly better than shared ones."""
    n = own_numbers(results, "c32")
    leads = n.leads([(ours("unshared"), ours("shared"))], AUROCS, BOTH)
    return n.all_ahead(leads, all(at_least(1.5, lead) for lead in leads.values()), "at most 1.5 is asked")


FOCAL_DICE = {(focal, dice): ours(f"focal={focal};dice={dice}") for focal in (0, 1) for dice in (0, 1)}


def anomalyclip_c33(results: pd.DataFrame) -> Verdict:
    """Focal and Dice loss together localize best."""
    pairs = [(FOCAL_DICE[1, 1], FOCAL_DICE[other]) for other in ((1, 0), (0, 1), (0, 0))]
    return ahead(results, "c33", pairs, SEGMENTATION, BOTH)


def anomalyclip_c34(results: pd.DataFrame) -> Verdict:
    """Dice loss alone is better than no local loss, at both levels."""
    return ahead(results, "c34", [(FOCAL_DICE[0, 1], FOCAL_DICE[0, 0])], PIXEL_AUROC + AUROC, BOTH)


def anomalyclip_c35(results: pd.DataFrame) -> Verdict:
    """Focal loss alone raises pixel AUROC by far."""
    n = own_numbers(results, "c35")
    gains = n.leads([(FOCAL_DICE[1, 0], FOCAL_DICE[0, 0])], PIXEL_AUROC, BOTH)
    return n.verdict(all(at_least(gain, 5) for gain in gains.values()), "gains of 5 are asked", gains)


def _sweep(
    n: Numbers, letter: str, needed: Sequence[int] = (), least: int = 1
) -> dict[str, dict[int, float]]:
    """What was measured at each value of a hyperparameter, by dataset and measure, in rising order.

    The values are those that stand in variants `E=12` of a dataset, and those that are needed. A problem is
    noted where there are fewer than the least number of values, or none at all.
    """
    rows = n.results[(n.results["method"] == "anomalyclip") & (n.results["category"] == "mean")]
    rows = rows[(rows["task"] + " " + rows["metric"]).isin(SWEPT)]
    rows = rows.assign(value=rows["variant"].str.extract(rf"^{letter}=(\d+)$", expand=False))
    rows = rows.dropna(subset="value").astype({"value": int})
    if rows.empty:
        n.problems.append(f"no row for any {ours(f'{letter}=...')} in {' or '.join(SWEPT)}")
    curves = {}
    for dataset, values in rows.groupby("dataset")["value"]:
        tested = sorted({*values, *needed})
        if len(tested) < least:
            n.problems.append(f"{dataset} has {letter} of {tested}; expected at least {least} values")
        for measure in SWEPT:
            curves[f"{dataset} {measure}"] = {
                value: n.of(ours(f"{letter}={value}"), measure, dataset) for value in tested
            }
    return curves


def _inside(curve: dict[int, float]) -> bool:
    """The maximum lies above both ends."""
    first, *inner, last = curve.values()
    return bool(inner) and above(max(inner), first) and above(max(inner), last)


def anomalyclip_c38(results: pd.DataFrame) -> Verdict:
    """Twelve words are best, sixteen are worse."""
    n = own_numbers(results, "c38")
    curves = _sweep(n, "E", (12, 16))
    best = all(at_least(curve[12], other) for curve in curves.values() for other in curve.values())
    worse = all(above(curve[12], curve[16]) for curve in curves.values())
    return n.verdict(best and worse, "E=12 highest and E=16 below it is asked")


def anomalyclip_c39(results: pd.DataFrame) -> Verdict:
    """Refining more text layers helps at first and hurts in the end."""
    n = own_numbers(results, "c39")
    peaks = [name for name, curve in _sweep(n, "M", least=3).items() if not _inside(curve)]
    return n.verdict(not peaks, f"no maximum inside the tested range in {', '.join(peaks) or 'none'}")


def anomalyclip_c40(results: pd.DataFrame) -> Verdict:
    """The number of tokens has an optimum inside, at or near four."""
    n = own_numbers(results, "c40")
    curves = _sweep(n, "L", (4,), least=3)
    flat = [name for name, curve in curves.items() if not _inside(curve)]
    near = all(at_least(curve[4], max(curve.values()) - 0.5) for curve in curves.values())
    reason = f"no maximum inside the tested range in {', '.join(flat) or 'none'}"
    return n.verdict(not flat and near, f"{reason}; L=4 within 0.5 of it is asked")


def anomalyclip_c41(results: pd.DataFrame) -> Verdict:
    """Four visual layers are best."""
    n = own_numbers(results, "c41")
    curves = _sweep(n, "N", (1, 2, 3, 4))
    return n.all_ahead(
        {f"{name} N=4 - N={few}": c[4] - c[few] for name, c in curves.items() for few in (1, 2, 3)}, ties=True
    )


def anomalyclip_c42(results: pd.DataFrame) -> Verdict:
    """Another word for damaged changes little; in the mean: the ranges of the words' means over datasets."""
    n, words = own_numbers(results, "c42"), [ours(f"word={word}") for word in WORDS]
    spreads, means = {}, {}
    for (measure,), medical in ((AUROC, MEDICAL_IMAGE), (PIXEL_AUROC, MEDICAL_PIXEL)):
        datasets = INDUSTRIAL + medical
        values = [[n.of(word, measure, d) for d in datasets] for word in words]
        spreads |= {f"{d} {measure}": max(v) - min(v) for d, v in zip(datasets, zip(*values))}
        over = [sum(row) / len(datasets) for row in values]
        means[f"range of the mean {measure}"] = max(over) - min(over)
    widest = max(spreads, key=spreads.__getitem__)
    holds = at_least(4.0, spreads[widest]) and all(at_least(1.5, spread) for spread in means.values())
    shown = {f"widest range, {widest}": spreads[widest]} | means
    return n.verdict(holds, "at most 4.0 on each dataset and 1.5 in the mean are asked", shown)


def anomalyclip_c43(results: pd.DataFrame) -> Verdict:
    """The class name, put in at test time, is between plain CLIP and the generic word."""
    n, named = own_numbers(results, "c43"), ours("class_name_at_test")
    pairs, leads = [(named, Setting("clip")), (ours(), named)], {}
    for measure in AUROCS:
        leads |= mean_leads(n, pairs, (measure,), shared(n, measure, named, ours(), Setting("clip")))
    return n.all_ahead(leads)
