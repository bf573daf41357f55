"""The command line of the dataset scripts: from a download as its owners ship it to a prepared folder.

A script has a `Source`, which describes the dataset, and a function that adds the images. The rest is here:
unpacking, checksums, comparison with published counts, and the report.
"""

from __future__ import annotations

import argparse
import csv
import errno
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from tqdm import tqdm

from data_scripts.download import checked, refuse_links_out, sorted_out, unpacked
from data_scripts.fetch import Archive, fetch
from data_scripts.prepare import RECORD, PreparedFolder, prepared_folder

__all__ = ["Archive", "Known", "Source", "all_sources", "run"]
PUBLISHED = Path(__file__).with_name("datasets.csv")

Write = Callable[[Path, PreparedFolder, argparse.Namespace], None]


@dataclass(frozen=True)
class Known:
    """Counts of test images that differ from the published ones for a known reason."""

    normal: int
    anomalous: int
    reason: str


@dataclass(frozen=True)
class Source:
    """What a dataset is and where it comes from.

    name: of the script, of the prepared folder and of the row in datasets.csv, if it has one.
    terms: the licence and what has to be accepted. how: what to fetch, and where a form or a login is needed.
    categories: per category the published numbers of training normal, test normal and test anomalous images;
        None where a number is not known. known: other counts of the test split that have a reason.
    """

    name: str
    title: str
    home: str
    terms: str
    how: str
    archives: tuple[Archive, ...] = ()
    categories: Mapping[str, tuple[int | None, int | None, int | None]] = field(default_factory=dict)
    known: tuple[Known, ...] = ()

    @property
    def published(self) -> tuple[int, int] | None:
        """Normal and anomalous test images as published, else the sums of `categories`, else None."""
        row = self._row()
        if row:
            return int(row["n_normal"]), int(row["n_anomalous"])
        sums = [[numbers[i] for numbers in self.categories.values()] for i in (1, 2)]
        return None if not self.categories or None in sums[0] + sums[1] else (sum(sums[0]), sum(sums[1]))

    @property
    def has_masks(self) -> bool:
        """Whether the papers use its masks."""
        row = self._row()
        return row is not None and row["has_pixel_masks"] == "1"

    def _row(self) -> dict[str, str] | None:
        with PUBLISHED.open(encoding="utf-8", newline="") as file:
            return next((row for row in csv.DictReader(file) if row["dataset"] == self.name), None)

    def instructions(self) -> str:
        """Instructions for a user without the download."""
        lines = [self.title, f"  home:  {self.home}", f"  terms: {self.terms}", f"  how:   {self.how}"]
        for archive in self.archives:
            sums = [f"{kind} {s}" for kind in ("sha256", "md5") if (s := getattr(archive, kind))]
            size = [f"{archive.bytes:,} bytes"] if archive.bytes else []
            lines.append(f"  file:  {', '.join([archive.name, *size, *sums[:1]])}")
        if any(archive.url for archive in self.archives):
            lines.append(f"  --fetch downloads {', '.join(a.name for a in self.archives if a.url)}")
        return "\n".join(lines)


def all_sources() -> list[Source]:
    """Those of all dataset scripts: first in the order of datasets.csv, then by name."""
    scripts = sorted(Path(__file__).parent.glob("*.py"))
    # the text is read before an import, because some modules here need torch and have no SOURCE
    texts = {path.stem: path.read_text(encoding="utf-8") for path in scripts}
    names = [name for name, text in texts.items() if "\nSOURCE = Source(" in text]
    sources = [import_module(f"data_scripts.{name}").SOURCE for name in names]
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        published = [row["dataset"] for row in csv.DictReader(file)]
    return sorted(sources, key=lambda s: published.index(s.name) if s.name in published else len(published))


def run(
    source: Source,
    write: Write,
    argv: list[str],
    *,
    doc: str,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Prepare a dataset as the command line `argv` says, and print what was found.

    write(root, out, arguments) adds the images; root is the folder given by --raw, or, if that holds
    archives, a folder with all of their contents and what else lay there. doc: the script's docstring.
    options: adds arguments of the script's own.

    Exits with 2 when there is no download to work on (and says how to get one), with 1 for an error in it;
    then nothing has changed.
    """
    arguments = _parser(source, doc, options).parse_args(argv)
    with errors_reported(arguments.out):
        require_download(source, arguments.raw, fetch=arguments.fetch)
        _prepare(source, write, arguments)


@contextmanager
def errors_reported(out: Path) -> Iterator[None]:
    """Prints an error that a user can fix as one message, without a traceback, and exits with 1; after Ctrl-C
    with 130."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {_message(error, out)}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print(f"interrupted: an older {out.name} is as it was; run this again", file=sys.stderr)
        raise SystemExit(130) from None


def require_download(source: Source, raw: Path | None, *, fetch: bool) -> None:
    """Downloads files with --fetch. Without a download it says how to get one and exits with 2."""
    if fetch and raw:
        _fetch_all(source, raw)
    lacks = _lacks_download(raw)
    if lacks:
        print(source.instructions())
        print(f"error: {lacks}", file=sys.stderr)
        raise SystemExit(2)


def _parser(
    source: Source, doc: str, options: Callable[[argparse.ArgumentParser], None] | None
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"zsad prepare {source.name}",
        description=doc,
        epilog=source.instructions(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out = Path("data") / source.name
    add = parser.add_argument
    add(
        "--raw", type=Path, help="folder with the download: archives, their contents, or both; or one archive"
    )
    add("--out", type=Path, default=out, help="prepared folder to write (%(default)s)")
    if any(archive.url for archive in source.archives):
        add("--fetch", action="store_true", help="first download to --raw what may be downloaded plainly")
    else:
        parser.set_defaults(fetch=False)
    add("--copy", action="store_true", help="copy the images: hard links are made where they can be")
    add("--counts", choices=("stop", "warn"), default="stop", help="at other counts than published")
    add("--checksum", choices=("stop", "warn"), default="stop", help="at another checksum than published")
    add("--quick", action="store_true", help="do not decode each image to see that it is whole")
    if source.has_masks:
        add(
            "--mask-above",
            type=_grey,
            default=0,
            metavar="N",
            help="masks are anomalous above this grey value (%(default)s, as in AnomalyCLIP's code)",
        )
    if options:
        options(parser)
    return parser


def _grey(text: str) -> int:
    if text.isdecimal() and int(text) < 255:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: expected a grey value from 0 to 254")


def _fetch_all(source: Source, raw: Path) -> None:
    for archive in source.archives:
        if archive.url:
            path = fetch(archive, raw)
            unknown = "" if archive.sha256 or archive.md5 else "; no checksum is known to compare it with"
            print(f"fetched {path}{unknown}")


def _lacks_download(raw: Path | None) -> str | None:
    if raw is None:
        return "give the folder with the download by --raw"
    if not raw.exists():
        return f"--raw {raw} does not exist"
    if raw.is_dir() and not any(not path.name.startswith(".") for path in raw.iterdir()):
        return f"--raw {raw} is empty"
    return None


def _prepare(source: Source, write: Write, arguments: argparse.Namespace) -> None:
    raw, out = arguments.raw, arguments.out
    archives, loose = sorted_out(raw, source.archives)
    _check_apart(source, raw, out)
    link = bool(archives) or not arguments.copy  # files unpacked here are linked, not copied
    with prepared_folder(out, link=link, check=not arguments.quick) as folder:
        sums = [checked(path, source.archives, arguments.checksum) for path in archives]
        with unpacked(raw, archives, loose, out) as root:
            refuse_links_out(root)
            try:
                # disable=None: a bar only if stderr is a terminal
                with tqdm(desc=source.name, unit=" images", disable=None) as bar:
                    folder.added = bar.update
                    write(root, folder, arguments)
            except (ValueError, FileNotFoundError) as error:
                names = " or ".join(archive.name for archive in source.archives)
                expected = f"{names} of " if len(source.archives) == 1 else "the files of "
                raise ValueError(
                    f"{error}\nThis script wants {expected}{source.title}, see --help"
                ) from error
            found = _counts(folder)
            faults, reason = _compare(source, folder, found)
            if faults and arguments.counts == "stop":
                raise ValueError(
                    "\n  ".join([f"{source.title} is not as published:", *faults, *folder.notes])
                    + "\nIs the download whole? --counts warn goes on all the same"
                )
            if folder.empty_masks:
                empty = folder.empty_masks
                folder.note(f"masks that mark nothing: {len(empty)}, the first is {empty[0]}")
            if folder.repeats:
                image, earlier = folder.repeats[0]
                folder.note(
                    f"byte-identical images: {len(folder.repeats)}, the first is {image}, as {earlier}"
                )
            folder.record = {
                "source": source.name,
                "title": source.title,
                "home": source.home,
                "terms": source.terms,
                "archives": sums,
                "test images found": _totals(found),
                "test images published": source.published,
                "known reason of the difference": reason,
                "differences": faults,
                "categories (train normal, test normal, test anomalous)": found,
                "repeated images, and as which": folder.repeats,
                "mask above": getattr(arguments, "mask_above", None),
                "notes": folder.notes,
            }
    _report(folder.record, out)


def _check_apart(source: Source, raw: Path, out: Path) -> None:
    """`out` gets replaced: it must not be the download, another dataset or other files of the user."""
    a, b = raw.resolve(), out.resolve()
    if out.name in ("", ".."):
        raise FileExistsError(f"--out {out}: give the prepared folder a name, such as {source.name}")
    if a == b or a in b.parents or b in a.parents:
        raise FileExistsError(f"--out {out} and --raw {raw} lie in each other: give --out a folder elsewhere")
    if out.is_dir() and any(out.iterdir()):
        try:
            made_by = json.loads((out / RECORD).read_text(encoding="utf-8"))["source"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            made_by = None
        if made_by != source.name:
            what = f"was made of {made_by}" if made_by else f"has no {RECORD} of this script"
            raise FileExistsError(f"{out} {what}: give --out a new folder, or remove this one")


def _counts(folder: PreparedFolder) -> dict[str, list[int]]:
    """Per category: normal training images, normal and anomalous test images."""
    counter = Counter((row["category"], row["split"], row["label"]) for row in folder.rows)
    kinds = (("train", 0), ("test", 0), ("test", 1))
    categories = dict.fromkeys(str(row["category"]) for row in folder.rows)
    return {category: [counter[(category, *kind)] for kind in kinds] for category in categories}


def _totals(found: dict[str, list[int]]) -> tuple[int, int]:
    return sum(n[1] for n in found.values()), sum(n[2] for n in found.values())


def _compare(
    source: Source, folder: PreparedFolder, found: dict[str, list[int]]
) -> tuple[list[str], str | None]:
    """The differences from the published counts, and the reason if one is known for all of them."""
    bare = sum(row["split"] == "test" and row["label"] == 1 and not row["mask"] for row in folder.rows)
    faults = [f"{bare} anomalous test images have no mask"] if bare and source.has_masks else []
    totals = _totals(found)
    if folder.reason and totals != source.published:
        return faults, folder.reason
    for known in source.known:
        if totals == (known.normal, known.anomalous) != source.published:
            return faults, known.reason
    if source.published and totals != source.published:
        faults.append(
            "test images, normal and anomalous: found {} and {}, published {} and {}".format(
                *totals, *source.published
            )
        )
    for category in source.categories | found if source.categories else []:
        expected = source.categories.get(category)
        numbers = found.get(category)
        if expected is None or numbers is None:
            faults.append(f"category {category}: " + ("not expected" if expected is None else "missing"))
            continue
        for what, n, wanted in zip(
            ("train", "test normal", "test anomalous"), numbers, expected, strict=True
        ):
            if wanted is not None and n != wanted:
                faults.append(f"category {category}, {what}: found {n}, published {wanted}")
    return faults, None


def _report(record: dict, out: Path) -> None:
    categories = record["categories (train normal, test normal, test anomalous)"]
    width = max(map(len, [*categories, "category"]))
    print(f"{'category':{width}}  train  normal  anomalous")
    for category, (train, normal, anomalous) in categories.items():
        print(f"{category:{width}}  {train:5}  {normal:6}  {anomalous:9}")
    found, published = record["test images found"], record["test images published"]
    compared = "{} and {} published".format(*published) if published else "no counts are published"
    print("test images: {} normal and {} anomalous found, {}".format(*found, compared))
    if record["known reason of the difference"]:
        print(f"The difference is known: {record['known reason of the difference']}")
    for fault in record["differences"]:
        print(f"warning: {fault}", file=sys.stderr)
    if not record["repeated images, and as which"]:
        print("byte-identical images: none")
    if record["mask above"] is not None:
        print(f"masks: anomalous where the grey value is above {record['mask above']}")
    for archive in record["archives"]:
        state = {True: "as published", False: "another than published", None: "no other to compare it with"}
        print(f"{archive['name']}: sha256 {archive['sha256']}, {state[archive['as published']]}")
    for note in record["notes"]:
        print(f"note: {note}")
    print(f"{out} is complete; the same report is in {out / RECORD}")


def _message(error: Exception, out: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"a disk is full ({error}). Nothing half-made was kept but an unfinished download, an older "
            f"{out.name} is as it was: free some space beside {out}, or where --fetch downloads to, and run "
            "this again"
        )
    if isinstance(error, PermissionError):
        return f"{error}: let this user read the download and write beside {out}, and run this again"
    return str(error)
