"""`make book` and `make notebook`: run Snakemake, one run at a time; go on where a run was interrupted.

    python workflow/run.py --profile mini --cores 2 [options for Snakemake, as --dry-run]
    python workflow/run.py --page rwda/43
    python workflow/run.py --profile paper --cluster workflow/profiles/slurm [options for Snakemake]

A killed Snakemake leaves its lock behind. The lock taken here ends with its process; its holder may clear
Snakemake's lock. What Snakemake writes goes into logs/<profile>.log, what a job writes into logs/<profile>/.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script: `workflow` is a package of this checkout

from workflow.progress import Progress, end_of_log, follow  # noqa: E402

# The targets of Snakemake, in turn. The ledger reads the sections' result files: see the Snakefile.
FIRST_RUN = ROOT / "workflow" / "seconds.json"  # of a job of each rule, on two quiet cores
STEPS = {"embeddings": ("embeddings",), "sections": ("sections",), "book": ("sections", "book")}


def check(profile: str) -> int:
    """Run `zsad check` once for each content of the profile; 0 if the run can start. It takes seconds."""
    places = (ROOT / "profiles" / f"{profile}.yaml", Path(profile))
    content = next((path.read_bytes() for path in places if path.is_file()), b"")
    passed = ROOT / ".snakemake" / f"checked-{hashlib.sha256(content).hexdigest()[:16]}"
    if passed.exists():
        return 0
    command = [sys.executable, "-m", "workflow.preflight", "--profile", profile, "--quiet"]
    code = subprocess.run(command).returncode
    if code == 0:
        passed.touch()
    else:
        print("Nothing was started. `make check` shows every check; run.py --no-check goes on without.",
              file=sys.stderr)  # fmt: skip
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="a name in profiles/, or a YAML file")
    parser.add_argument("--cores", default="2", help="of this machine, or `all`")
    parser.add_argument("--cluster", help="instead of --cores: a folder, as workflow/profiles/slurm")
    parser.add_argument("--until", choices=STEPS, default="book", help="stop after this step")
    parser.add_argument("--page", type=page_of, metavar="NAME", help="only this page and what it needs")
    parser.add_argument("--no-check", action="store_true", help="start without `zsad check`")
    arguments, others = parser.parse_known_args()
    if arguments.cluster and not (ROOT / arguments.cluster / "config.yaml").is_file():
        parser.error(f"no config.yaml in {arguments.cluster}; expected a folder as workflow/profiles/slurm")
    if Path(arguments.profile).is_file():
        arguments.profile = os.path.relpath(arguments.profile, ROOT)
    os.chdir(ROOT)
    # On a cluster, --cores would be an upper limit for all nodes together.
    where = ["--workflow-profile", arguments.cluster] if arguments.cluster else ["--cores", arguments.cores]

    (ROOT / ".snakemake").mkdir(exist_ok=True)
    with (ROOT / ".snakemake" / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another `make book` is running in this folder: wait for it, or stop it.", file=sys.stderr)
            return 1
        nothing_runs = {"--dry-run", "--dryrun", "-n", "--touch"} & set(others)
        if not (arguments.no_check or nothing_runs) and (code := check(arguments.profile)):
            return code
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile"]
        snakemake += ["--config", f"profile={arguments.profile}"]
        # The weights as well are compared by content, not by time.
        snakemake += ["--max-checksum-file-size", "1GB"]
        unlock = [*snakemake, "--cores", "1", "--unlock", "--quiet", "all"]
        subprocess.run(unlock, capture_output=True)
        options = ["--rerun-incomplete", "--keep-going", "--quiet", "host", "reason", *where, *others]
        html = f"book/_build/_page/{arguments.page}/html/{arguments.page}.html"
        targets = (html,) if arguments.page else STEPS[arguments.until]
        commands = [[*snakemake, target, *options] for target in targets]
        if nothing_runs:
            return next(filter(None, (subprocess.run(command).returncode for command in commands)), 0)
        code = run(commands, Path(arguments.profile).stem)
        if arguments.page and not code:
            print(f"The page is at {html}")
        return code


def page_of(name: str) -> str:
    """The file name, without ending, of the notebook `folder/name`, of which a unique beginning is enough."""
    notebooks = (path.relative_to(ROOT / "notebooks") for path in (ROOT / "notebooks").rglob("*.ipynb"))
    pages = sorted(path.with_suffix("").as_posix() for path in notebooks if path.parent.name[:1] != ".")
    found = [page for page in pages if page == name] or [page for page in pages if page.startswith(name)]
    if len(found) != 1:
        known = "\n  ".join(found or pages)
        raise argparse.ArgumentTypeError(
            f"{len(found)} pages begin with {name!r}; expected one of\n  {known}"
        )
    return Path(found[0]).name


def run(commands: Sequence[Sequence[str]], name: str) -> int:
    """Runs these in turn until one fails, and shows their progress; the exit code."""
    log, times = Path("logs", f"{name}.log"), Path(".snakemake") / f"seconds-{name}.json"
    log.parent.mkdir(exist_ok=True)
    log.write_text("", encoding="utf-8")
    known = [json.loads(path.read_text()) for path in (FIRST_RUN, times) if path.is_file()]
    progress, code = Progress({rule: own for run in known for rule, own in run.items() if own}), 0
    for command in commands:
        code = code or follow(command, log, progress)
    times.write_text(json.dumps(progress.times(), indent=1))
    if code:
        if not progress.failed:
            print(end_of_log(log))
        print(
            f"The run failed; {log} has all that Snakemake said. A notebook that failed "
            "lies in the results folder under unfinished/, with the error in its last cell. The same command "
            "goes on from what is finished.",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
