"""SHA-256 of a dataset's files, computed once and kept on disk: 38 GB are read once, not by every notebook.

A file is taken for unchanged while its size and the time of its last change, in nanoseconds, are the same, as
git and rsync do. What enters keys and records is the content's digest alone, so they are the same on every
machine, wherever the files lie and whenever they were copied.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from zsad_core.cache import sha256_of, write_atomically

_YOUNG = 2 * 10**9
"""Nanoseconds. A file that changed just now could change once more within one tick of its clock, unseen."""


@dataclass(frozen=True, eq=False)
class Digests:
    """Digests of the files below `root`; kept in `folder` between runs, None: only as long as this object.

    Whoever computes some writes them as a file of their own, so any number of workers may do so at once.
    """

    root: Path
    folder: Path | None = None
    _known: dict[tuple[str, int, int], str] = field(default_factory=dict, repr=False)

    def of(self, relatives: Iterable[str]) -> list[str]:
        """64 hexadecimal digits for each path relative to `root`; files that are not known are read."""
        now, found, new = time.time_ns(), [], {}
        for relative in relatives:
            stat = (self.root / relative).stat()
            key = (relative, stat.st_size, stat.st_mtime_ns)
            digest = self._known.get(key) or self._kept.get(key)
            if digest is None:
                digest = sha256_of(self.root / relative)
                if now - stat.st_mtime_ns > _YOUNG:
                    self._known[key] = new[key] = digest
            found.append(digest)
        if new and self.folder is not None:
            self._keep(new)
        return found

    @cached_property
    def _kept(self) -> dict[tuple[str, int, int], str]:
        """What the folder holds: lines of digest, size, nanoseconds and path."""
        kept = {}
        for path in sorted(self.folder.glob(f"{self._name}-*.txt")) if self.folder else ():
            for line in path.read_text(encoding="utf-8").splitlines():
                digest, size, changed, relative = line.split(" ", 3)
                kept[relative, int(size), int(changed)] = digest
        return kept

    @property
    def _name(self) -> str:
        place = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()
        return f"{self.root.name}-{place[:8]}"

    def _keep(self, new: dict[tuple[str, int, int], str]) -> None:
        text = "".join(f"{digest} {size} {changed} {path}\n" for (path, size, changed), digest in new.items())
        file = self.folder / f"{self._name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
        write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
