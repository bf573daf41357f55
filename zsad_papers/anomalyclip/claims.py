"""One predicate for each claim of the AnomalyCLIP paper: the `test` that `claims.csv` has for it.

The claims about ablations are in `zsad_papers.anomalyclip.claims_ablations`. The predicates read rows of the
paper `anomalyclip` only, named as in `published.csv`: detection has task `image`, segmentation
task `pixel`, costs an empty task; the category is `mean`, shots are 0 except of detectors trained on all
normal images, and an empty variant is the full method. Rows that stand in no table, or under names that the
table does not give away:

| claim | dataset | method, variant | task, metric |
|---|---|---|---|
| c07 to c10 | medical | anomalyclip, vand, `tuned=medical` | image or pixel, auroc |
| c11 | all with both rows | anomalyclip, empty, `object_aware` | both, auroc |
| c15 | mvtec, visa | clip, anomalyclip, `attention=qk`, `attention=vv` | pixel, auroc |
| c24 to c26 | mvtec, visa | anomalyclip, `attention=qq`, `attention=kk`, `attention=vv` | both, auroc |
| c28 | mvtec | clip, `attention=` `qk`, `qq`, `kk`, `vv` | empty, self_attention |
| c31 | mvtec, visa | anomalyclip, `attention=qk;local=0`, `attention=qk;local=1` | pixel, auroc |
| c38 to c41 | any | anomalyclip, `E=12`, `M=9`, `L=4`, `N=4` and the like | pixel, pro; image, ap |
| c43 | all with three rows | clip, empty; anomalyclip, empty, `class_name_at_test` | both, auroc |
| c44, c45 | mvtec | anomalyclip, empty, `wo_dpam`; vand, coop | empty, train_min_per_epoch |
| c45 to c47 | empty | anomalyclip, empty, `wo_dpam`; clip, winclip | empty, fps |
| c48 | mvtec, visa | clip, anomalyclip | image, score_mean, score_std, score_overlap |
| c49 | mvtec, visa | anomalyclip | pixel, background_false_positives, background_normal |

All times of a claim come from one device. In c01 and c03 a competitor that was not run on a dataset (CoOp on
DTD-Synthetic) takes nothing away: c01 does not count that dataset as won, c03 leaves it out. A sweep in c38
to c41 has the values that a dataset has rows for, and the claim must hold on each dataset with one: c38 needs
12 and 16 among them, c39 and c40 three values, c40 also 4, c41 1 to 4. A maximum is inside if it lies above
both ends. In c42 the ranges over words are taken on each dataset, and of each word's mean over datasets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from zsad_papers.anomalyclip.claims_ablations import (  # noqa: F401, the predicates of this paper
    AUROC,
    AUROCS,
    BOTH,
    DETECTION,
    INDUSTRIAL,
    MEDICAL_IMAGE,
    MEDICAL_PIXEL,
    PIXEL_AUROC,
    SEGMENTATION,
    ahead,
    anomalyclip_c12,
    anomalyclip_c13,
    anomalyclip_c14,
    anomalyclip_c15,
    anomalyclip_c16,
    anomalyclip_c17,
    anomalyclip_c18,
    anomalyclip_c19,
    anomalyclip_c20,
    anomalyclip_c21,
    anomalyclip_c22,
    anomalyclip_c23,
    anomalyclip_c24,
    anomalyclip_c25,
    anomalyclip_c26,
    anomalyclip_c27,
    anomalyclip_c28,
    anomalyclip_c29,
    anomalyclip_c30,
    anomalyclip_c31,
    anomalyclip_c32,
    anomalyclip_c33,
    anomalyclip_c34,
    anomalyclip_c35,
    anomalyclip_c38,
    anomalyclip_c39,
    anomalyclip_c40,
    anomalyclip_c41,
    anomalyclip_c42,
    anomalyclip_c43,
    mean_leads,
    ours,
    own_numbers,
    present,
    shared,
)
from zsad_papers.common.claims import Numbers, Setting, Verdict, above, at_least
from zsad_papers.common.results import FULL_SHOT

CLIP, CLIP_AC, WINCLIP, VAND, COOP = map(Setting, ("clip", "clip_ac", "winclip", "vand", "coop"))
OTHERS = (CLIP, CLIP_AC, WINCLIP, VAND, COOP)
COLON = ("cvc_clinicdb", "kvasir", "endo")
BRAIN = ("headct", "brainmri", "br35h")
SIX = INDUSTRIAL[:6]  # those with normal training images
TUNED, VAND_TUNED = ours("tuned=medical"), Setting("vand", "tuned=medical")
PATCHCORE, RD4AD = (Setting(method, shots=FULL_SHOT) for method in ("patchcore", "rd4ad"))


def anomalyclip_c01(results: pd.DataFrame) -> Verdict:
    """Highest of six methods on at least five of seven industrial datasets, in each of four measures."""
    n, wins, lost = own_numbers(results, "c01"), {}, []
    for measure in DETECTION + SEGMENTATION:
        complete = [d for d in INDUSTRIAL if all(d in present(n, s, measure) for s in (ours(), *OTHERS))]
        won = [d for d in complete if _highest(n, measure, d)]
        missing = [d for d in INDUSTRIAL if d not in complete]
        if len(won) < 5 <= len(won) + len(missing):  # they could turn the verdict: look them up in vain
            n.leads([(ours(), other) for other in OTHERS], (measure,), missing)
        wins[f"{measure}, datasets won"] = len(won)
        lost += [f"{d} {measure}" for d in INDUSTRIAL if d not in won]
    reason = f"5 of 7 are asked; not won, or not run: {', '.join(lost) or 'none'}"
    return n.verdict(all(count >= 5 for count in wins.values()), reason, wins)


def _highest(n: Numbers, measure: str, dataset: str) -> bool:
    leads = n.leads([(ours(), other) for other in OTHERS], (measure,), (dataset,))
    return all(above(lead, 0) for lead in leads.values())


def anomalyclip_c02(results: pd.DataFrame) -> Verdict:
    """Prompts written for anomalies beat ordinary ones in the mean over industrial datasets."""
    n = own_numbers(results, "c02")
    pairs = [(one, other) for one in (WINCLIP, VAND) for other in (CLIP, CLIP_AC)]
    return n.all_ahead(mean_leads(n, pairs, AUROCS, INDUSTRIAL))


def anomalyclip_c03(results: pd.DataFrame) -> Verdict:
    """CoOp segments worse than three others wherever it was run."""
    n, leads = own_numbers(results, "c03"), {}
    for measure in SEGMENTATION:
        run = shared(n, measure, COOP, among=INDUSTRIAL)
        leads |= n.leads([(better, COOP) for better in (WINCLIP, VAND, ours())], (measure,), run)
    return n.all_ahead(leads)


def anomalyclip_c04(results: pd.DataFrame) -> Verdict:
    """Highest of six methods on each of ten medical datasets."""
    return _medical(results, "c04", [(ours(), other) for other in OTHERS], MEDICAL_PIXEL)


def _medical(
    results: pd.DataFrame, claim: str, pairs: Sequence[tuple[Setting, Setting]], with_masks: Sequence[str]
) -> Verdict:
    """The first of each pair is ahead on the medical datasets, at the level that each can be measured at."""
    n = own_numbers(results, claim)
    return n.all_ahead(n.leads(pairs, AUROC, MEDICAL_IMAGE) | n.leads(pairs, PIXEL_AUROC, with_masks))


def anomalyclip_c05(results: pd.DataFrame) -> Verdict:
    """Methods tuned on defects beat plain CLIP in the mean over medical datasets."""
    n, pairs = own_numbers(results, "c05"), [(ours(), CLIP), (VAND, CLIP)]
    leads = mean_leads(n, pairs, AUROC, MEDICAL_IMAGE) | mean_leads(n, pairs, PIXEL_AUROC, MEDICAL_PIXEL)
    return n.all_ahead(leads)


def anomalyclip_c06(results: pd.DataFrame) -> Verdict:
    """Medical images are segmented worse than industrial ones, in the mean over datasets."""
    n, means = own_numbers(results, "c06"), {}
    for domain, datasets in (("industrial", INDUSTRIAL), ("medical", MEDICAL_PIXEL)):
        means[f"mean pixel auroc, {domain}"] = sum(n.of(ours(), "pixel auroc", d) for d in datasets) / len(
            datasets
        )
    return n.verdict(above(*means.values()), "a higher mean of the industrial datasets is asked", means)


def anomalyclip_c07(results: pd.DataFrame) -> Verdict:
    """Tuning on medical images improves the segmentation of polyps."""
    return ahead(results, "c07", [(TUNED, ours()), (VAND_TUNED, VAND)], PIXEL_AUROC, COLON)


def anomalyclip_c08(results: pd.DataFrame) -> Verdict:
    """Tuning on colon images improves the detection of brain tumours."""
    return ahead(results, "c08", [(TUNED, ours())], AUROC, BRAIN)


def anomalyclip_c09(results: pd.DataFrame) -> Verdict:
    """Tuning on colon images costs on skin and chest."""
    n, pairs = own_numbers(results, "c09"), [(ours(), TUNED)]
    return n.all_ahead(n.leads(pairs, PIXEL_AUROC, ("isic",)) | n.leads(pairs, AUROC, ("covid19",)))


def anomalyclip_c10(results: pd.DataFrame) -> Verdict:
    """After medical tuning, ahead of VAND on each medical dataset."""
    with_masks = [d for d in MEDICAL_PIXEL if d != "cvc_colondb"]  # it is what both are tuned on
    return _medical(results, "c10", [(TUNED, VAND_TUNED)], with_masks)


def anomalyclip_c11(results: pd.DataFrame) -> Verdict:
    """Prompts without the class name are no worse on any dataset and better in the mean."""
    n, pair, shown, holds = own_numbers(results, "c11"), (ours(), ours("object_aware")), {}, []
    for measure in AUROCS:
        datasets = shared(n, measure, *pair)
        leads = n.leads([pair], (measure,), datasets)
        mean = mean_leads(n, [pair], (measure,), datasets)
        holds += [at_least(lead, -0.5) for lead in leads.values()] + [above(m, 0) for m in mean.values()]
        worst = min(leads, key=leads.__getitem__, default="none")
        shown |= {f"smallest, {worst}": leads[worst]} | mean if leads else {}
    return n.verdict(all(holds), "-0.5 on each dataset and more than 0 in the mean are asked", shown)


def anomalyclip_c36(results: pd.DataFrame) -> Verdict:
    """Ahead of detectors trained on all normal images, on SDD and DAGM."""
    n = own_numbers(results, "c36")
    leads = n.leads([(ours(), PATCHCORE)], AUROC, ("sdd", "dagm")) | n.leads(
        [(ours(), RD4AD)], AUROC, ("dagm",)
    )
    return n.all_ahead(leads)


def anomalyclip_c37(results: pd.DataFrame) -> Verdict:
    """PatchCore with all normal images is ahead by little in the mean over six datasets."""
    n = own_numbers(results, "c37")
    gaps = mean_leads(n, [(PATCHCORE, ours())], AUROCS, SIX)
    return n.verdict(all(at_least(5.0, gap) for gap in gaps.values()), "gaps of at most 5.0 are asked", gaps)


def _minutes(n: Numbers, setting: Setting) -> float:
    """Minutes of an epoch of training for mvtec."""
    return n("train_min_per_epoch", setting.method, "mvtec", variant=setting.variant, task="")


def _fps(n: Numbers, setting: Setting) -> float:
    """Images in a second at test time."""
    return n("fps", setting.method, variant=setting.variant, task="")


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.inf


def anomalyclip_c44(results: pd.DataFrame) -> Verdict:
    """Methods that train take similar times for an epoch."""
    n = own_numbers(results, "c44")
    minutes = [_minutes(n, setting) for setting in (VAND, COOP, ours())]
    longest = _ratio(max(minutes), min(minutes))
    return n.verdict(at_least(1.2, longest), f"a ratio of {longest:.4g}, at most 1.2 is asked")


def anomalyclip_c45(results: pd.DataFrame) -> Verdict:
    """The diagonal attention costs little time."""
    n = own_numbers(results, "c45")
    training, test = (_ratio(cost(n, ours()), cost(n, ours("wo_dpam"))) for cost in (_minutes, _fps))
    reason = f"ratios of {training:.4g} (at most 1.10 is asked) and {test:.4g} (at least 0.85)"
    return n.verdict(at_least(1.10, training) and at_least(test, 0.85), reason)


def anomalyclip_c46(results: pd.DataFrame) -> Verdict:
    """Several times faster than WinCLIP."""
    n = own_numbers(results, "c46")
    ratio = _ratio(_fps(n, ours()), _fps(n, WINCLIP))
    return n.verdict(at_least(ratio, 3), f"a ratio of {ratio:.4g}, at least 3 is asked")


def anomalyclip_c47(results: pd.DataFrame) -> Verdict:
    """Plain CLIP is quicker and worse."""
    n = own_numbers(results, "c47")
    faster = {"fps clip - anomalyclip": _fps(n, CLIP) - _fps(n, ours())}
    return n.all_ahead(faster | n.leads([(ours(), CLIP)], AUROCS, ("visa",)))


def anomalyclip_c48(results: pd.DataFrame) -> Verdict:
    """CLIP's scores are near one half, close together and overlap; tuned ones are spread."""
    n = own_numbers(results, "c48")
    off = [abs(n.of(CLIP, "image score_mean", d) - 0.5) for d in BOTH]
    leads = n.leads([(ours(), CLIP)], ("image score_std",), BOTH)
    leads |= n.leads([(CLIP, ours())], ("image score_overlap",), BOTH)
    half = all(at_least(0.1, distance) for distance in off)
    return n.all_ahead(leads, half, f"CLIP's means are up to {max(off):.4g} from 0.5, 0.1 is allowed")


def anomalyclip_c49(results: pd.DataFrame) -> Verdict:
    """False alarms lie on the background more often than normal pixels do."""
    n, leads = own_numbers(results, "c49"), {}
    for d in BOTH:
        alarms, normal = (n.of(ours(), f"pixel background_{of}", d) for of in ("false_positives", "normal"))
        leads[f"{d} share of false positives - of normal pixels"] = alarms - normal
    return n.all_ahead(leads)
