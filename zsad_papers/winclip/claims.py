"""The claims of the WinCLIP paper that rows of `claim_tests.csv` cannot test; a docstring is the test.

Some rows stand in no table and only a run gives them: `defect=...`, `whole=center_crop`, `score=max_map`
without shots, `figure=5` and `spearman`. `defect=...` is over normal images and some kinds of defect only.
`spearman` is one correlation over the anomalous test images of mvtec and visa together: of the defect's
share of the image with the pixel AUROC of that image. All `time_ms` come from one device.
"""

from zsad_papers.common.claims import Comparison, Numbers, Verdict, judge

SHOTS = "({1|2|4}-shot)"
MEASURES = "image auroc | image aupr | image f1max | pixel auroc | pixel pro | pixel f1max"
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
    """on the backbone of S8, on mvtec at each of 1, 2 and 4 shots, image auroc, aupr, f1max and pixel auroc,
    pro, f1max: patchcore_clip_last > patchcore_clip_hidden"""
    settings = _one_backbone(n, LAST, HIDDEN)
    return judge(n, [Comparison("", *settings, MEASURES, "mvtec")] if settings else [])


def c34(n: Numbers) -> Verdict:
    """on the backbone of S8, the same shots and measures as c33: patchcore[backbone=wrn_50_2] >= both
    patchcore_clip_last and patchcore_clip_hidden"""
    own, on_clip = f"patchcore[backbone=wrn_50_2] {SHOTS}", _one_backbone(n, LAST, HIDDEN)
    return judge(n, [Comparison("", own, other, MEASURES, "mvtec", condition=">= 0") for other in on_clip])


def c35(n: Numbers) -> Verdict:
    """on the backbone of S8, the same shots and measures as c33: winclip_plus > patchcore_clip_last"""
    settings = _one_backbone(n, "winclip_plus", LAST)
    return judge(n, [Comparison("", *settings, MEASURES, "mvtec")] if settings else [])


def c41(n: Numbers) -> Verdict:
    """pixel f1max within each image of Figure 5, at 1 shot: winclip_plus > each of spade, padim, patchcore"""
    images = n.rows[n.rows["variant"] == "figure=5"][["dataset", "category"]].drop_duplicates()
    if images.empty:
        n.problems.append("no row for an image of Figure 5")
    others = " | ".join(f"{method}[figure=5] (1-shot)" for method in ("spade", "padim", "patchcore"))
    plus = "winclip_plus[figure=5] (1-shot)"
    return judge(n, [Comparison("", plus, others, "pixel f1max", *image) for image in images.to_numpy()])
