"""`make book` and `make notebook`: run Snakemake, one run at a time; go on where a run was interrupted.

    python workflow/run.py --profile mini --cores 2 [options for Snakemake, as --dry-run]
    python workflow/run.py --page rwda/43
    python workflow/run.py --profile paper --cluster workflow/profiles/slurm [options for Snakemake]

The lock taken here ends with its process, where a killed Snakemake would leave its own behind.
What Snakemake writes goes into logs/<profile>.log, what a job writes into logs/<profile>/.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import click
from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script: `workflow` is a package of this checkout

from workflow.progress import Progress, end_of_log, follow  # noqa: E402

FIRST_RUN = ROOT / "workflow" / "seconds.json"  # a job of each rule, measured on two shared cores
# The targets of Snakemake, in turn. The ledger reads the sections' result files: see the Snakefile.
STEPS = {"embeddings": ("embeddings",), "sections": ("sections",), "book": ("sections", "book")}


def page_of(name: str) -> str:
    """The file name, without ending, of the notebook `folder/name`, of which a unique beginning is enough."""
    notebooks = (path.relative_to(ROOT / "notebooks") for path in (ROOT / "notebooks").rglob("*.ipynb"))
    pages = sorted(path.with_suffix("").as_posix() for path in notebooks if path.parent.name[:1] != ".")
    found = [page for page in pages if page == name] or [page for page in pages if page.startswith(name)]
    if len(found) != 1:
        known = "\n  ".join(found or pages)
        raise click.BadParameter(f"{len(found)} pages begin with {name!r}; expected one of\n  {known}")
    return Path(found[0]).name


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--profile", default="mini", help="A name in profiles/, or a YAML file.")
@click.option("--cores", default="2", help="Of this machine, or `all`.")
@click.option("--cluster", help="Instead of --cores: a folder, as workflow/profiles/slurm.")
@click.option("--until", type=click.Choice(list(STEPS)), default="book", help="Stop after this step.")
@click.option("--page", type=page_of, metavar="NAME", help="Only this page and what it needs.")
@click.option("--no-check", is_flag=True, help="Start without `zsad check`.")
@click.argument("others", nargs=-1, type=click.UNPROCESSED)
def main(
    profile: str, cores: str, cluster: str, until: str, page: str, no_check: bool, others: Sequence[str]
) -> None:
    """Run Snakemake, one run at a time; all other options are for it."""
    if cluster and not (ROOT / cluster / "config.yaml").is_file():
        raise click.UsageError(f"no config.yaml in {cluster}; expected a folder as workflow/profiles/slurm")
    if Path(profile).is_file():
        profile = os.path.relpath(profile, ROOT)
    os.chdir(ROOT)
    lock = FileLock(".snakemake/run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        sys.exit("Another `make book` is running in this folder: wait for it, or stop it.")

    nothing_runs = {"--dry-run", "--dryrun", "-n", "--touch"} & set(others)
    if not (no_check or nothing_runs):
        check(profile)
    # The weights as well are compared by content, not by time.
    options = ["--config", f"profile={profile}", "--max-checksum-file-size", "1GB", "--nolock"]
    options += ["--rerun-incomplete", "--keep-going", "--quiet", "host", "reason"]
    # On a cluster, --cores would be an upper limit for all nodes together.
    options += ["--workflow-profile", cluster] if cluster else ["--cores", cores]
    html = f"book/_build/_page/{page}/html/{page}.html"
    start = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile"]
    targets = [html] if page else STEPS[until]
    commands = [[*start, *options, *others, "--", target] for target in targets]
    if nothing_runs:
        sys.exit(any(subprocess.run(command).returncode for command in commands))
    run(commands, Path(profile).stem)
    if page:
        print(f"The page is at {html}")


def check(profile: str) -> None:
    """Run `zsad check`, which takes seconds, once for each content of the profile."""
    places = (Path("profiles", f"{profile}.yaml"), Path(profile))
    content = next((path.read_bytes() for path in places if path.is_file()), b"")
    passed = Path(".snakemake", f"checked-{hashlib.sha256(content).hexdigest()[:16]}")
    command = [sys.executable, "-m", "workflow.preflight", "--profile", profile, "--quiet"]
    if not passed.exists() and subprocess.run(command).returncode:
        sys.exit("Nothing was started. `make check` shows every check; run.py --no-check goes on without.")
    passed.touch()


def run(commands: Sequence[Sequence[str]], name: str) -> None:
    """Runs these in turn, and shows their progress, until one fails: then exits with its code."""
    log, times = Path("logs", f"{name}.log"), Path(".snakemake", f"means-{name}.json")
    log.parent.mkdir(exist_ok=True)
    log.write_text("", encoding="utf-8")
    known = [json.loads(path.read_text()) for path in (FIRST_RUN, times) if path.is_file()]
    progress = Progress({rule: [mean] for run in known for rule, mean in run.items()})
    code = next(filter(None, (follow(command, log, progress) for command in commands)), 0)
    times.write_text(json.dumps({rule: fmean(own) for rule, own in progress.seconds.items()}, indent=1))
    if code:
        if not progress.failed:
            print(end_of_log(log))
        where = "in the results folder under unfinished/, with the error in its last cell"
        said = f"{log} has all that Snakemake said. A notebook that failed lies {where}."
        print(f"The run failed; {said} The same command goes on from what is finished.", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
