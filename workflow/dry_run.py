"""Before a long run: is everything there, how long will it take, and how much disk?

    python -m workflow.dry_run --profile paper                     checks, then an estimate from a sample
    python -m workflow.dry_run --profile paper --no-sample         checks alone, in seconds
    python -m workflow.dry_run --profile paper -p limit_images 10 -p cache_dir elsewhere --json FILE

Nothing is downloaded. The sample runs the workflow's own steps on a few images, in a temporary folder that is
removed. Exit code 0: the run can start (a missing dataset is left out); 1: it would fail.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from workflow.preflight import (
    Check,
    Weights,
    check_datasets,
    check_device,
    check_folders,
    check_weights,
    gigabytes,
)
from workflow.run_estimate import estimate_run, longest_chain
from workflow.run_samples import Estimate
from zsad_papers.common.settings import Settings, read_settings


def with_weights_at_hand(settings: Settings, weights: Mapping[tuple[str, str | None], Weights]) -> Settings:
    """The settings for a sample: random weights, which take as long, where the real ones are not here."""
    lacking = {key for key, found in weights.items() if not found.present}
    others = {
        name: f"{text.split()[0]} random" if tuple(text.split()) in lacking else text
        for name, text in settings.clip_backbones.items()
    }
    pairs = {"weights": "model", "prompt_weights": "prompt_model", "backbone_weights": "backbone"}
    own = {
        name: "random"
        for name, model in pairs.items()
        if (getattr(settings, model), getattr(settings, name)) in lacking
    }
    return replace(settings, clip_backbones=others, **own)


def sampled(settings: Settings) -> tuple[list[Estimate], dict[str, str]]:
    """`run_estimate.estimate_run` in a temporary folder beside the cache, which is removed."""
    cache = Path(settings.cache_dir).absolute()
    beside = next(folder for folder in cache.parents if folder.is_dir())

    def told(what: str) -> None:
        print(f"sample of {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(dir=beside, prefix=".dry_run-") as folder:
        return estimate_run(settings, Path(folder), told)


def dry_run(settings: Settings, *, sample: bool = True) -> tuple[list[Check], list[Estimate], dict[str, str]]:
    """The checks, the estimates of the stages, and what was not estimated, with why."""
    checks = [
        Check("profile", "ok", f"{settings.profile}, every parameter is valid"),
        *check_device(settings),
    ]
    weights = check_weights(settings)
    checks += [found.check for found in weights.values()]
    checks += check_datasets(settings)
    estimates, failed, needed = [], {}, {}
    if sample and not any(check.state == "error" and _stops_sample(check) for check in checks):
        estimates, failed = sampled(with_weights_at_hand(settings, weights))
        needed = {"cache_dir": sum(estimate.bytes for estimate in estimates)}
    elif sample:
        failed = {"everything": "the errors come first"}
    download = sum(found.bytes for found in weights.values())
    return checks + check_folders(settings, needed, download), estimates, failed


def _stops_sample(check: Check) -> bool:
    """Weights that cannot be had do not: random ones take their place."""
    return not check.what.startswith("weights of")


def table(estimates: Sequence[Estimate], workers: int) -> str:
    """The estimates for people: stages, then totals."""
    lines = [f"{'stage':48}{'number of':>18}{'':>10}{'each':>10}{'time':>10}{'cache':>10}"]
    for e in estimates:
        each = f"{e.seconds_per_unit * 1000:.1f} ms"
        size = gigabytes(e.bytes) if e.bytes else ""
        lines.append(
            f"{e.stage:48}{e.unit:>18}{e.units:>10,.0f}{each:>10}{duration(e.seconds):>10}{size:>10}"
        )
    total = sum(e.seconds for e in estimates)
    spread = max(total / workers, longest_chain(estimates))
    lines.append(f"{'in all, one thing after the other':86}{duration(total):>10}"
                 f"{gigabytes(sum(e.bytes for e in estimates)):>10}")  # fmt: skip
    computing = sum(e.processor for e in estimates)
    if not torch.cuda.is_available() and computing < total / 2:
        what = "the same on a processor without other work, as far as can be told"
        lines.append(f"{what:86}{duration(computing):>10}")
    if workers > 1:
        lines.append(f"{f'in all, {workers} workers of this kind':86}{duration(spread):>10}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """
    >>> duration(12.3), duration(600), duration(90000)
    ('12 s', '10 min', '25.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _options(given: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Parameters of -p, read as YAML. Raises ValueError where one is none."""
    try:
        return {name: yaml.safe_load(value) for name, value in given}
    except yaml.YAMLError as error:
        raise ValueError(
            f"-p {' '.join(map(' '.join, given))}: expected a name and a YAML value: {error}"
        ) from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--profile", default="mini", help="a name in profiles/, or a YAML file")
    add("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, as YAML")
    add("--no-sample", action="store_true", help="checks alone: nothing is timed")
    add("--workers", type=int, default=1, help="also the time of so many workers like this one")
    add("--quiet", action="store_true", help="only the checks that are not ok")
    add("--json", type=Path, metavar="FILE", help="write everything to a file as well")
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error(f"--workers {arguments.workers}: expected 1 or more")
    try:
        settings = read_settings({**_options(arguments.p), "profile": arguments.profile})
    except (ValueError, OSError) as error:
        print(Check("profile", "error", str(error)))
        return 1
    checks, estimates, failed = dry_run(settings, sample=not arguments.no_sample)
    for check in checks:
        if check.state != "ok" or not arguments.quiet:
            print(check)
    if estimates:
        print("\n" + table(estimates, arguments.workers))
    for what, why in failed.items():
        print(f"not estimated: {what} ({why})")
    errors = sum(check.state == "error" for check in checks)
    if errors:
        print(f"\n{errors} of the checks say that the run would fail.", file=sys.stderr)
    if arguments.json:
        content = {
            "checks": [asdict(check) for check in checks],
            "stages": [{**asdict(e), "seconds_per_unit": e.seconds_per_unit} for e in estimates],
            "not_estimated": failed,
            "seconds": sum(e.seconds for e in estimates),
            "seconds_by_workers": max(
                sum(e.seconds for e in estimates) / arguments.workers, longest_chain(estimates)
            ),
            "workers": arguments.workers,
            "bytes": sum(e.bytes for e in estimates),
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
