"""The claims of the WinCLIP paper that rows of `claim_tests.csv` cannot test; a docstring is the test.

Some rows stand in no table and only a run gives them: `image_tiling` in pixel auroc, `defect=flip`,
`whole=center_crop` and `spearman`. `defect=flip` is over normal and flipped nuts only. `spearman` is one
correlation over the anomalous test images of mvtec and visa together: of the defect's share of the image with
the pixel AUROC of that image. All `time_ms` come from one device.
"""

from __future__ import annotations

from zsad_papers.common.claims import Comparison, Numbers, Verdict, above, judge

DATASETS = ("mvtec", "visa")
ARRANGEMENT = (("mvtec", "cable"), ("mvtec", "capsule"), ("visa", "pcb1"), ("visa", "pcb3"))
SHOTS = "({1|2|4}-shot)"
LAST, HIDDEN = "patchcore_clip_last", "patchcore_clip_hidden"


def _one_backbone(n: Numbers, *methods: str) -> list[str]:
    """The methods at 1, 2 and 4 shots, with the one backbone that all of them have in artifact S8."""
    rows = n.rows[(n.rows["artifact"] == "S8") & n.rows["variant"].str.startswith("backbone=")]
    shared = sorted(set.intersection(*(set(rows["variant"][rows["method"] == m]) for m in methods)))
    if len(shared) != 1:
        found = f"rows for {', '.join(shared)}" if shared else "no row for a backbone"
        n.problems.append(f"{found} of both {' and '.join(methods)} in S8; expected one backbone")
        return []
    return [f"{method}[{shared[0]}] {SHOTS}" for method in methods]


def c33(n: Numbers) -> Verdict:
    """on the backbone of S8, image auroc on mvtec at each of 1, 2 and 4 shots: patchcore_clip_last >
    patchcore_clip_hidden"""
    settings = _one_backbone(n, LAST, HIDDEN)
    return judge(n, [Comparison("", *settings, "image auroc", "mvtec")] if settings else [])


def c34(n: Numbers) -> Verdict:
    """on the backbone of S8, image auroc on mvtec at each of 1, 2 and 4 shots: patchcore[backbone=wrn_50_2]
    >= both patchcore_clip_last and patchcore_clip_hidden"""
    own, on_clip = f"patchcore[backbone=wrn_50_2] {SHOTS}", _one_backbone(n, LAST, HIDDEN)
    rows = [Comparison("", own, other, "image auroc", "mvtec", condition=">= 0") for other in on_clip]
    return judge(n, rows)


def c35(n: Numbers) -> Verdict:
    """on the backbone of S8, on mvtec at each of 1, 2 and 4 shots, image auroc, aupr, f1max and pixel auroc,
    pro, f1max: winclip_plus > patchcore_clip_last"""
    settings = _one_backbone(n, "winclip_plus", LAST)
    measures = "image auroc | image aupr | image f1max | pixel auroc | pixel pro | pixel f1max"
    return judge(n, [Comparison("", *settings, measures, "mvtec")] if settings else [])


def c39(n: Numbers) -> Verdict:
    """the mean over cable, capsule, pcb1 and pcb3 of the image auroc gain, winclip_plus at 4 shots minus
    winclip, is larger than the mean gain over the other categories of mvtec and visa"""
    rows = n.rows.query(
        "task == 'image' and metric == 'auroc' and variant == '' and category != 'mean'"
        " and dataset in @DATASETS and method in ('winclip', 'winclip_plus') and shots in (0, 4)"
    )
    others = sorted(set(zip(rows["dataset"], rows["category"])) - set(ARRANGEMENT))
    if not others:
        n.problems.append("no row for any category beside cable, capsule, pcb1 and pcb3")
    means = {}
    for name, cells in {"the four": ARRANGEMENT, f"{len(others)} others": others}.items():
        gains = [
            n.of("winclip_plus (4-shot)", "image auroc", *cell) - n.of("winclip", "image auroc", *cell)
            for cell in cells
        ]
        means[f"mean gain of {name}"] = sum(gains) / max(len(gains), 1)
    return n.verdict(above(*means.values()), "a larger gain of the four is needed", means)
