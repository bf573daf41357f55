"""One predicate for each claim of the WinCLIP paper; each implements the `test` of `claims.csv`.

The predicates read rows of the paper `winclip` only, named as in `published.csv`: classification has
task `image`, segmentation task `pixel`, the category is `mean` unless another is named, and an empty variant
is the full method: `winclip` at 0 shots, `winclip_plus` at 1, 2 and 4. Rows that stand in no table, or under
names that the table does not give away:

| claim | dataset | method, variant | shots | task, metric |
|---|---|---|---|---|
| c20, c21 | mvtec | winclip, empty, `patch_token`, `image_tiling`; on one device | 0 | pixel, time_ms |
| c21 | mvtec | winclip, `image_tiling` (its AUROC is not published) | 0 | pixel, auroc |
| c30 | mvtec, category metal_nut | winclip, winclip_plus, `defect=flip` | 0, 1 | image, auroc |
| c31 | visa | winclip, empty (tiles averaged) and `whole=center_crop` | 0 | image, auroc |
| c33, c34 | mvtec | patchcore_clip_last, patchcore_clip_hidden, `backbone=B` | 1, 2, 4 | image, auroc |
| c34 | mvtec | patchcore, `backbone=wrn_50_2` | 1, 2, 4 | image, auroc |
| c35 | mvtec | winclip_plus, patchcore_clip_last, `backbone=B` | 1, 2, 4 | both, three each |
| c36 to c38 | mvtec | winclip, `backbone=B` for B in `VITS` and `RESNETS` | 0 | both, auroc |
| c39 | both, by category | winclip, winclip_plus, empty | 0, 4 | image, auroc |
| c40 | empty | winclip, empty | 0 | pixel, spearman |

In c33 to c35 B is the one backbone that both methods have in artifact S8, whatever its name. c39 needs the
categories in `ARRANGEMENT`; the others are those that the frame has. `defect=flip` is over normal and flipped
nuts only. `spearman` is one correlation over the anomalous test images of mvtec and visa together: of the
defect's share of the image with the pixel AUROC of that image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from zsad_papers.common.claims import Numbers, Setting, Verdict, above, at_least
from zsad_papers.common.results import FULL_SHOT

MVTEC, VISA, BOTH = ("mvtec",), ("visa",), ("mvtec", "visa")
CLASSIFICATION = ("image auroc", "image aupr", "image f1max")
SEGMENTATION = ("pixel auroc", "pixel pro", "pixel f1max")
AUROC, PIXEL_AUROC = CLASSIFICATION[:1], SEGMENTATION[:1]
SHOTS = (1, 2, 4)
BASELINES = ("spade", "padim", "patchcore")
HEADLINES = {  # by shots
    0: {"image auroc": (91.8, 78.1), "pixel auroc": (85.1, 79.6)},
    1: {"image auroc": (93.1, 83.8), "pixel auroc": (95.2, 96.4)},
}
VITS = ("vit_b_16", "vit_b_16_plus", "vit_l_14")
RESNETS = ("rn50", "rn101", "rn50x4", "rn50x16")
ARRANGEMENT = (("mvtec", "cable"), ("mvtec", "capsule"), ("visa", "pcb1"), ("visa", "pcb3"))


def _winclip(variant: str = "", shots: int = 0) -> Setting:
    return Setting("winclip_plus" if shots else "winclip", variant, shots)


def _numbers(results: pd.DataFrame, claim: str) -> Numbers:
    """The paper's own numbers: others run WinCLIP too, with other settings under the same names."""
    return Numbers(results[results["paper"] == "winclip"], f"winclip-{claim}")


def _ahead(
    results: pd.DataFrame, claim: str, pairs: Iterable[tuple[Setting, Setting]], *where: Any
) -> Verdict:
    """The first of each pair is ahead; where: measures, datasets, category."""
    n = _numbers(results, claim)
    return n.all_ahead(n.leads(pairs, *where))


def _all_at_least(leads: Mapping[str, float], least: float) -> bool:
    return all(at_least(lead, least) for lead in leads.values())


def _all_within(leads: Mapping[str, float], most: float) -> bool:
    return all(at_least(most, abs(lead)) for lead in leads.values())


def winclip_c01(results: pd.DataFrame) -> Verdict:
    """The averages come out at the headline values."""
    n = _numbers(results, "c01")
    off = {
        (shots, measure, d): n.of(_winclip(shots=shots), measure, d) - headline
        for shots, measures in HEADLINES.items()
        for measure, headlines in measures.items()
        for d, headline in zip(BOTH, headlines)
    }
    return n.verdict(_all_within(off, 1.0), f"off by up to {max(map(abs, off.values())):.6g}, 1.0 is allowed")


def winclip_c02(results: pd.DataFrame) -> Verdict:
    """Prompts for both states beat prompts for the normal one, by far."""
    n, pairs = _numbers(results, "c02"), [(_winclip("two_class"), _winclip("one_class"))]
    far = _all_at_least(n.leads(pairs), 20)
    return n.all_ahead(n.leads(pairs, CLASSIFICATION), far, "20 in auroc is asked")


def winclip_c03(results: pd.DataFrame) -> Verdict:
    """Several state words beat a single pair."""
    return _ahead(results, "c03", [(_winclip("state_ens"), _winclip("two_class"))], CLASSIFICATION)


def winclip_c04(results: pd.DataFrame) -> Verdict:
    """Templates improve on state words alone."""
    return _ahead(results, "c04", [(_winclip("prompt_ens"), _winclip("state_ens"))], CLASSIFICATION)


def winclip_c05(results: pd.DataFrame) -> Verdict:
    """The ensemble over states gains more than that over templates."""
    n = _numbers(results, "c05")
    pair, states, templates = map(_winclip, ("two_class", "state_ens", "prompt_ens"))
    gains = n.leads([(states, pair), (templates, states)])
    return n.verdict(above(*gains.values()), "a larger gain from states is asked", gains)


def winclip_c06(results: pd.DataFrame) -> Verdict:
    """Several crops help a little."""
    n = _numbers(results, "c06")
    gains = n.leads([(_winclip("multi_crop"), _winclip("prompt_ens"))])
    return n.all_ahead(gains, _all_within(gains, 2.0), "at most 2.0 is asked")


def winclip_c07(results: pd.DataFrame) -> Verdict:
    """WinCLIP is far ahead of CLIP with one prompt pair."""
    n, pairs = _numbers(results, "c07"), [(_winclip(), Setting("clip_ac"))]
    far = _all_at_least(n.leads(pairs, AUROC, BOTH), 10)
    return n.all_ahead(n.leads(pairs, CLASSIFICATION, BOTH), far, "10 in auroc is asked")


def winclip_c08(results: pd.DataFrame) -> Verdict:
    """ImageNet's templates change little and stay far behind WinCLIP."""
    n, templates = _numbers(results, "c08"), Setting("clip_ac_prompt_ens")
    gaps = n.leads([(_winclip(), templates)], AUROC, BOTH)
    changes = n.leads([(templates, Setting("clip_ac"))], AUROC, BOTH)
    holds = _all_at_least(gaps, 10) and _all_within(changes, 2)
    return n.verdict(holds, "gaps of 10 and changes of at most 2 are asked", gaps | changes)


def winclip_c09(results: pd.DataFrame) -> Verdict:
    """On MVTec-AD, zero-shot WinCLIP classifies better than few-shot baselines."""
    pairs = [(_winclip(), Setting(baseline, shots=k)) for baseline in BASELINES for k in SHOTS]
    return _ahead(results, "c09", pairs, CLASSIFICATION)


OVER_BASELINES = [(_winclip(shots=k), Setting(baseline, shots=k)) for k in SHOTS for baseline in BASELINES]
OVER_ZERO_SHOT = [(_winclip(shots=k), _winclip()) for k in SHOTS]


def winclip_c10(results: pd.DataFrame) -> Verdict:
    """Few-shot WinCLIP classifies better than the baselines everywhere."""
    return _ahead(results, "c10", OVER_BASELINES, CLASSIFICATION, BOTH)


def winclip_c11(results: pd.DataFrame) -> Verdict:
    """With one reference the lead over PatchCore is wide."""
    n = _numbers(results, "c11")
    leads = n.leads([(_winclip(shots=1), Setting("patchcore", shots=1))], AUROC, BOTH)
    holds = all(map(at_least, leads.values(), (9.0, 5.0)))
    return n.verdict(holds, "9.0 on mvtec and 5.0 on visa are asked", leads)


def winclip_c12(results: pd.DataFrame) -> Verdict:
    """References improve classification."""
    return _ahead(results, "c12", OVER_ZERO_SHOT, AUROC, BOTH)


def winclip_c13(results: pd.DataFrame) -> Verdict:
    """WinCLIP localizes better than other ways to get masks out of CLIP."""
    pairs = [(_winclip(), Setting(other)) for other in ("trans_mm", "maskclip")]
    return _ahead(results, "c13", pairs, SEGMENTATION, BOTH)


def winclip_c14(results: pd.DataFrame) -> Verdict:
    """Few-shot WinCLIP segments better than the baselines everywhere."""
    return _ahead(results, "c14", OVER_BASELINES, SEGMENTATION, BOTH)


def winclip_c15(results: pd.DataFrame) -> Verdict:
    """References improve segmentation."""
    return _ahead(results, "c15", OVER_ZERO_SHOT, SEGMENTATION, BOTH)


def winclip_c16(results: pd.DataFrame) -> Verdict:
    """With four references WinCLIP is close to CutPaste with all."""
    n = _numbers(results, "c16")
    gaps = n.leads([(_winclip(shots=4), Setting("cutpaste", shots=FULL_SHOT))], AUROC + PIXEL_AUROC)
    return n.verdict(_all_within(gaps, 1.0), "differences of at most 1.0 are asked", gaps)


def winclip_c17(results: pd.DataFrame) -> Verdict:
    """Zero-shot WinCLIP beats DifferNet and TDG with ten or more images."""
    others = (Setting("differnet", shots=16), Setting("tdg", shots=10))
    return _ahead(results, "c17", [(_winclip(), other) for other in others])


def winclip_c18(results: pd.DataFrame) -> Verdict:
    """Four-shot WinCLIP beats four-shot RegAD trained on the other classes."""
    return _ahead(results, "c18", [(_winclip(shots=4), Setting("regad", "agg", 4))], AUROC + PIXEL_AUROC)


def winclip_c19(results: pd.DataFrame) -> Verdict:
    """Patch tokens against prompts localize worse than chance, and than WinCLIP."""
    n, tokens = _numbers(results, "c19"), _winclip("patch_token")
    auroc = n.of(tokens, "pixel auroc")
    asked = f"patch tokens have an auroc of {auroc:.6g}, below 50 is asked"
    return n.all_ahead(n.leads([(_winclip(), tokens)], SEGMENTATION), above(50, auroc), asked)


def _times(n: Numbers, *variants: str) -> list[float]:
    return [n.of(_winclip(variant), "pixel time_ms") for variant in variants]


def winclip_c20(results: pd.DataFrame) -> Verdict:
    """Patch tokens are the quickest, image tiles the slowest."""
    n = _numbers(results, "c20")
    times = _times(n, "patch_token", "", "image_tiling")
    return n.verdict(all(map(above, times[1:], times)), "rising times in this order are asked")


def winclip_c21(results: pd.DataFrame) -> Verdict:
    """Windows give better maps than image tiles, at least twice as fast."""
    n = _numbers(results, "c21")
    leads = n.leads([(_winclip(), _winclip("image_tiling"))], SEGMENTATION)
    tiles, windows = _times(n, "image_tiling", "")
    asked = f"tiles take {tiles:.6g} ms, windows {windows:.6g} ms, a ratio of 2 is asked"
    return n.all_ahead(leads, at_least(tiles, 2 * windows), asked)


def winclip_c22(results: pd.DataFrame) -> Verdict:
    """Harmonic averages of window scores beat arithmetic ones."""
    return _ahead(results, "c22", [(_winclip(), _winclip("wo_harmonic"))], SEGMENTATION)


def winclip_c23(results: pd.DataFrame) -> Verdict:
    """Each of the three scales contributes to segmentation."""
    pairs = [(_winclip(), _winclip(f"wo_{scale}_scale")) for scale in ("small", "mid", "image")]
    return _ahead(results, "c23", pairs, SEGMENTATION)


LANGUAGE, REFERENCE, TOGETHER = (f"score={score}" for score in ("ascore0", "max_map", "ascore0+max_map"))


def winclip_c24(results: pd.DataFrame) -> Verdict:
    """Language score and reference map together beat either alone."""
    alone = [(k, score) for k in (*SHOTS, 8) for score in (REFERENCE, LANGUAGE)]
    return _ahead(results, "c24", [(_winclip(TOGETHER, k), _winclip(score, k)) for k, score in alone])


def winclip_c25(results: pd.DataFrame) -> Verdict:
    """At eight shots the reference map beats language, and both together beat it."""
    language, reference, together = (_winclip(score, 8) for score in (LANGUAGE, REFERENCE, TOGETHER))
    return _ahead(results, "c25", [(reference, language), (together, reference)])


def winclip_c26(results: pd.DataFrame) -> Verdict:
    """Window features improve on patch features alone."""
    more = [(k, maps) for k in (*SHOTS, 8) for maps in ("maps=P+Wm", "maps=P+Wm+Ws")]
    pairs = [(_winclip(maps, k), _winclip("maps=P", k)) for k, maps in more]
    return _ahead(results, "c26", pairs, PIXEL_AUROC)


def winclip_c27(results: pd.DataFrame) -> Verdict:
    """Patch tokens fail against text and succeed against references."""
    n = _numbers(results, "c27")
    reference, text = (n.of(s, "pixel auroc") for s in (_winclip("maps=P", 1), _winclip("patch_token")))
    holds = at_least(reference, 90) and above(50, text)
    return n.verdict(holds, "at least 90 with a reference and below 50 with text are asked")


SPECIFIC = [(_winclip("specific_states"), _winclip())]


def winclip_c28(results: pd.DataFrame) -> Verdict:
    """State words for the known defects help a little on VisA."""
    n = _numbers(results, "c28")
    gains = n.leads(SPECIFIC, AUROC, VISA)
    return n.all_ahead(gains, _all_within(gains, 2.0), "at most 2.0 is asked")


def winclip_c29(results: pd.DataFrame) -> Verdict:
    """State words for the known defects help PCB2 more than the mean."""
    n = _numbers(results, "c29")
    pcb2, mean = (n.leads(SPECIFIC, AUROC, VISA, category) for category in ("pcb2", "mean"))
    holds = _all_at_least(pcb2, 3.0) and all(map(above, pcb2.values(), mean.values()))
    return n.verdict(holds, "a gain of 3.0, and one above that of the mean, is asked", pcb2 | mean)


def winclip_c30(results: pd.DataFrame) -> Verdict:
    """A reference helps to recognise flipped metal nuts."""
    pairs = [(_winclip("defect=flip", 1), _winclip("defect=flip"))]
    return _ahead(results, "c30", pairs, AUROC, MVTEC, "metal_nut")


def winclip_c31(results: pd.DataFrame) -> Verdict:
    """On VisA, averaging over tiles beats a centre crop."""
    return _ahead(results, "c31", [(_winclip(), _winclip("whole=center_crop"))], AUROC, VISA)


def winclip_c32(results: pd.DataFrame) -> Verdict:
    """At four shots pixel F1 stays below 60 although pixel AUROC is above 95."""
    n, four = _numbers(results, "c32"), _winclip(shots=4)
    auroc, f1max = ([n.of(four, m, d) for d in BOTH] for m in ("pixel auroc", "pixel f1max"))
    holds = all(above(a, 95) for a in auroc) and all(above(60, f) for f in f1max)
    return n.verdict(holds, "auroc above 95 and f1max below 60 are asked")


def _one_backbone(n: Numbers, *methods: str) -> list[tuple[Setting, ...]]:
    """The methods at 1, 2 and 4 shots, with the one backbone that all of them have in artifact S8.

    Nothing, and a problem noted, if they share none or several.
    """
    rows = n.results[n.results["artifact"] == "S8"]
    rows = rows[rows["variant"].str.startswith("backbone=")]
    shared = sorted(set.intersection(*(set(rows["variant"][rows["method"] == m]) for m in methods)))
    if len(shared) != 1:
        found = f"rows for {', '.join(shared)}" if shared else "no row for a backbone"
        n.problems.append(f"{found} of both {' and '.join(methods)} in S8; expected one backbone")
        return []
    return [tuple(Setting(method, shared[0], k) for method in methods) for k in SHOTS]


def winclip_c33(results: pd.DataFrame) -> Verdict:
    """PatchCore on a CLIP transformer does better with the last layer."""
    n = _numbers(results, "c33")
    return n.all_ahead(n.leads(_one_backbone(n, "patchcore_clip_last", "patchcore_clip_hidden")))


def winclip_c34(results: pd.DataFrame) -> Verdict:
    """PatchCore on a CLIP transformer does no better than on its own network."""
    n = _numbers(results, "c34")
    own = {k: Setting("patchcore", "backbone=wrn_50_2", k) for k in SHOTS}
    clip = _one_backbone(n, "patchcore_clip_last", "patchcore_clip_hidden")
    leads = n.leads([(own[other.shots], other) for others in clip for other in others])
    behind = [name for name, lead in leads.items() if not at_least(lead, 0)]
    return n.verdict(not behind, f"behind in {', '.join(behind) or 'none'}", leads)


def winclip_c35(results: pd.DataFrame) -> Verdict:
    """On the same transformer, WinCLIP beats PatchCore."""
    n = _numbers(results, "c35")
    pairs = _one_backbone(n, "winclip_plus", "patchcore_clip_last")
    return n.all_ahead(n.leads(pairs, CLASSIFICATION + SEGMENTATION))


def _transformer_gains(n: Numbers) -> dict[str, float]:
    """Mean over the transformers minus mean over the ResNets."""
    gains = {}
    for measure in AUROC + PIXEL_AUROC:
        means = [
            np.mean([n.of(_winclip(f"backbone={name}"), measure) for name in names])
            for names in (VITS, RESNETS)
        ]
        gains[f"mvtec {measure} transformers - ResNets"] = means[0] - means[1]
    return gains


def winclip_c36(results: pd.DataFrame) -> Verdict:
    """Transformers serve WinCLIP better than ResNets."""
    n = _numbers(results, "c36")
    return n.all_ahead(_transformer_gains(n))


def winclip_c37(results: pd.DataFrame) -> Verdict:
    """Transformers help segmentation more than classification."""
    n = _numbers(results, "c37")
    gains = _transformer_gains(n)
    image, pixel = gains.values()
    return n.verdict(above(pixel, image), "a larger gain in segmentation is asked", gains)


def winclip_c38(results: pd.DataFrame) -> Verdict:
    """Within a family of backbones, the larger the better."""
    steps = [("rn50x4", "rn50"), ("rn50x16", "rn50x4"), ("vit_b_16_plus", "vit_b_16")]
    return _ahead(results, "c38", [tuple(_winclip(f"backbone={b}") for b in step) for step in steps])


def winclip_c39(results: pd.DataFrame) -> Verdict:
    """References help most where parts are misplaced or missing."""
    n, pair = _numbers(results, "c39"), (_winclip(shots=4), _winclip())
    rows = n.results.query(
        "task == 'image' and metric == 'auroc' and variant == '' and category != 'mean' and dataset in @BOTH"
        " and method in ('winclip', 'winclip_plus') and shots in (0, 4)"
    )
    others = sorted(set(zip(rows["dataset"], rows["category"])) - set(ARRANGEMENT))
    if not others:
        n.problems.append("no row for any category beside cable, capsule, pcb1 and pcb3")
    means = {}
    for name, cells in {"the four": ARRANGEMENT, f"{len(others)} others": others}.items():
        gains = [gain for d, c in cells for gain in n.leads([pair], AUROC, (d,), c).values()]
        means[f"mean gain of {name}"] = sum(gains) / max(len(gains), 1)
    return n.verdict(above(*means.values()), "a larger gain of cable, capsule, pcb1 and pcb3 is asked", means)


def winclip_c40(results: pd.DataFrame) -> Verdict:
    """The smaller a defect, the worse its map."""
    n = _numbers(results, "c40")
    holds = above(n.of(_winclip(), "pixel spearman", ""), 0)
    return n.verdict(holds, "a correlation of defect area with pixel auroc above 0 is asked")
