"""What `make book` shows of Snakemake's log: one line for each job that ends, a bar for those that run."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

TAIL = 15  # lines of a failed job's log
TARGETS = ("total", "embeddings", "sections")  # these do nothing themselves


@dataclass
class Progress:
    """The jobs of a run. seconds: of each rule, the mean of earlier runs, and of the jobs that have ended.
    left: jobs of each rule that have not ended. running: name and start of each job, by its number."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    running: dict[str, tuple[str, float]] = field(default_factory=dict)
    ended: int = 0
    failed: bool = False
    at_once: int = 1

    def read(self, line: str, now: float) -> str | None:
        """Takes a line of Snakemake's; returns what to print."""
        if found := re.match(r"(\w+) +(\d+)$", line):
            if found[1] not in TARGETS:
                self.left[found[1]] = int(found[2])
        elif found := re.match(r"Job (\d+): (.*)", line):
            self.running[found[1]] = found[2], now
            self.at_once = max(self.at_once, len(self.running))
        elif found := re.match(r"Finished jobid: (\d+) \(Rule: (\w+)\)", line):
            return self._end(*found.groups(), now)
        elif found := re.match(r" +log: (.*) \(check log file", line):
            self.failed = True
            return end_of_log(Path(found[1]))
        elif found := re.match(r" +jobid: (\d+)$", line):
            name, _ = self.running.pop(found[1], ("", 0))
            return f"Failed: {name}" if name else None
        elif line.startswith("Trying to restart job"):
            return "It is tried once more."
        elif line.startswith("Nothing to be done"):
            return line.rstrip()
        return None

    def _end(self, job: str, rule: str, now: float) -> str | None:
        if job not in self.running:  # a target
            return None
        self.left[rule] -= 1
        name, start = self.running.pop(job)
        self.seconds.setdefault(rule, []).append(now - start)
        self.ended += 1
        left = sum(self.left.values())
        rest = f", about {duration(self.seconds_left(now))} left" if left else ""
        return f"[{self.ended} of {self.ended + left}] {duration(now - start)}{rest}: {name}"

    def seconds_left(self, now: float) -> float:
        """The mean of each rule, or of all, times its jobs that are left; less what runs has run."""
        known = [s for own in self.seconds.values() for s in own] or [0.0]
        work = sum(number * fmean(self.seconds.get(rule, known)) for rule, number in self.left.items())
        work -= sum(now - start for _, start in self.running.values())
        return max(work, 0.0) / self.at_once


def follow(command: Sequence[str], log: Path, progress: Progress) -> int:
    """Runs the command, prints what becomes of its jobs; its exit code. After Ctrl-C Snakemake cleans up."""
    with (
        log.open("a", encoding="utf-8") as output,
        log.open(encoding="utf-8", errors="replace") as lines,
        tqdm(total=1, bar_format="{bar:20} {desc}", disable=not sys.stderr.isatty(), leave=False) as bar,
    ):
        lines.seek(0, 2)
        start = time.time()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        code, rest = None, ""
        while code is None:
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                code = process.wait(timeout=0.5)
            *whole, rest = (rest + lines.read()).split("\n")
            for line in whole:
                if (said := progress.read(line, time.time())) is not None:
                    tqdm.write(said)
                    sys.stdout.flush()
            now = time.time()
            bar.n = (now - start) / max(now - start + progress.seconds_left(now), 1.0)
            jobs = (f"{name}, {duration(now - began)}" for name, began in progress.running.values())
            bar.set_description_str("; ".join(jobs))
    return code


def duration(seconds: float) -> str:
    """
    >>> duration(7.4), duration(220), duration(7300)
    ('7 s', '3 min 40 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def end_of_log(path: Path) -> str | None:
    """None where there is nothing, as when a job is tried once more."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:] if path.is_file() else []
    return "\n".join([f"The last lines of {path}:", *(f"    {line}" for line in lines)]) if lines else None
