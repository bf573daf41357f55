"""Scores a folder of your own images: a table, decisions, heat maps, and one page to read.

    python -m zsad_predict photos
    python -m zsad_predict photos --method winclip_plus --normal good_ones --object "metal bracket"
    python -m zsad_predict photos --model ViT-B-16-plus-240 --weights laion400m_e32

Nothing else is needed: no labels, no masks, no list of files. Broken files are rows with the reason, and the
others are scored. Stop it when you like: the same command goes on where it was.

exit codes:
  0    every file was scored
  1    nothing was scored: an error, said in one line
  2    the command line is wrong
  3    done, but some files could not be read, or their masks not be used; the table says which and why
  130  stopped by Ctrl-C
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zsad_papers.common.settings import METHODS, THRESHOLDS, read_settings
from zsad_predict.result import Result

_SHOWN = 20  # files with a problem that are printed


def main(arguments: list[str] | None = None) -> int:
    """The exit code, see the module's text."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        settings = read_settings(_parameters(given))
    except (ValueError, OSError) as error:
        parser.error(str(error))  # exits with 2
    out = given.out or Path(f"{given.folder.resolve().name}-scores")
    try:
        from zsad_predict.run import score_folder  # here: --help need not wait for torch

        result = score_folder(
            given.folder,
            given.method,
            settings=settings,
            out=out,
            normal=given.normal,
            object_name=given.object,
            labels=given.labels,
            masks=given.masks,
            threshold=given.threshold,
            threshold_from=given.threshold_from,
            threshold_quantile=given.threshold_quantile,
            prompts_file=given.prompts,
            heat_maps=given.heat_maps,
            whole=given.whole,
            bits=given.bits,
            max_pixels=given.max_pixels,
            follow_links=given.follow_links,
            progress=not given.quiet,
        )
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if not given.quiet:
        print(summary(result, out))
    return 3 if (result.table["error"] != "").any() else 0


def summary(result: Result, out: Path) -> str:
    """What a person at a terminal wants to know."""
    table = result.table
    scored, bad = table[table["status"] == "scored"], table[table["error"] != ""]
    flagged = scored[scored["decision"] == "anomalous"].sort_values("score", ascending=False)
    lines = [
        f"{len(table)} files, {len(scored)} scored, {len(flagged)} decided anomalous.",
        f"Anomalous is what scores {result.threshold.rule}.",
        *(f"Note: {message}" for message in result.messages),
    ]
    lines += [f"  {row.score:.4g}  {row.file}" for row in flagged.head(5).itertuples()]
    lines += [f"  … and {len(flagged) - 5} more" for _ in range(len(flagged) > 5)]
    if len(bad):
        lines += [f"{len(bad)} with a problem:"]
        lines += [f"  {row.file}: {row.status}, {row.error}" for row in bad.head(_SHOWN).itertuples()]
        lines += [f"  … and {len(bad) - _SHOWN} more, in scores.csv" for _ in range(len(bad) > _SHOWN)]
    for row in result.metrics.itertuples() if len(result.metrics) else ():
        value = "undefined" if row.value != row.value else f"{row.value:.3f}"
        lines.append(f"{row.task} {row.metric}: {value} ({row.note})")
    return "\n".join([*lines, f"Written to {out}: report.html, scores.csv, scores.parquet, maps, run.json."])


def _parameters(given: argparse.Namespace) -> dict[str, object]:
    """Notebook parameters of the options; model, weights and size are AnomalyCLIP's own for its method."""
    prefix = "prompt_" if given.method == "anomalyclip" else ""
    values = {"profile": given.profile, "cache_dir": given.cache, "device": given.device}
    values |= {"precision": given.precision, "seed": given.seed}
    values |= {f"{prefix}model": given.model, f"{prefix}weights": given.weights}
    if given.image_size is not None and not prefix:
        raise ValueError("--image-size is for the method anomalyclip; the others take the model's own")
    return values | {"prompt_image_size": given.image_size}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zsad_predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="images, in any sub-folders")
    add("--method", choices=METHODS, default="winclip", help="default: winclip")
    add("--normal", type=Path, metavar="DIR", help="a few normal images; winclip_plus needs them")
    add("--out", type=Path, metavar="DIR", help="where the results go; default: <FOLDER>-scores, here")
    add("--object", default="object", metavar="NAME", help='what is in the images; default: "object"')
    add("--labels", metavar="FILE.csv", help="columns file and label; or the word folders: good, ok and "
        "normal are normal, all other sub-folders anomalous")  # fmt: skip
    add("--masks", type=Path, metavar="DIR", help="masks called like their images, perhaps with _mask")
    add("--threshold", type=float, metavar="X", help="decide by this number")
    add("--threshold-from", choices=THRESHOLDS, default="auto", help="whose scores set the threshold; auto: "
        "the normal images if there are any, else the folder")  # fmt: skip
    add("--threshold-quantile", type=float, metavar="Q", help="of those scores; default: 1 of normal images, "
        "0.9 of the folder")  # fmt: skip
    add("--prompts", type=Path, metavar="FILE", help="learned prompts for anomalyclip: safetensors, or the "
        "authors' torch file; default: those of zsad-mini")  # fmt: skip
    add("--heat-maps", type=int, metavar="N", help="draw the N highest only; default: all")
    add(
        "--whole",
        choices=("tiles", "squash"),
        default="tiles",
        help="how images that are not square are seen",
    )
    add("--bits", type=int, default=16, help="of 16-bit files that the camera fills; default: 16")
    add("--max-pixels", type=int, default=100_000_000, metavar="N", help="refuse larger images; default: 100 "
        "million")  # fmt: skip
    add("--follow-links", action="store_true", help="also links that leave the folder")
    add("--profile", default="mini", help="a name in profiles/ or a YAML file; default: mini")
    add("--model", help="an open_clip architecture, in the place of the profile's")
    add("--weights", help="an open_clip tag, a checkpoint file, or random")
    add("--image-size", type=int, metavar="N", help="edge of anomalyclip's input in pixels")
    add("--device", help="auto, cpu, cuda, cuda:<number> or mps")
    add("--precision", choices=("fp32", "bf16"))
    add("--seed", type=int, help="of RWDA's network and of random weights")
    add("--cache", metavar="DIR", help="what is kept between runs; default: the profile's")
    add("--quiet", action="store_true", help="no progress, no summary")
    return parser


if __name__ == "__main__":
    sys.exit(main())
