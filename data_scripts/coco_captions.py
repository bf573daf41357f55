"""COCO captions 2017: natural sentences, as one captions file.

    zsad prepare coco_captions --raw downloads/coco --fetch --out data/captions.json

No images are needed, and no prepared folder is made. The file is what the parameter `captions_file` of the
notebooks reads (RWDA, Fig. 5); without one they show sentences written for this project.

RWDA says neither which split it took (see --split) nor whether "damaged" or "abnormal" counted: in the
notebooks a caption counts that has the word as a whole, in capitals or not. Of equal captions one is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from data_scripts.download import checked, sorted_out, unpacked
from data_scripts.folders import find_file
from data_scripts.prepare import only_one
from data_scripts.source import Archive, Source, errors_reported, require_download
from zsad_core.cache import write_atomically

SOURCE = Source(
    name="coco_captions",
    title="COCO captions 2017 (annotations only)",
    home="https://cocodataset.org",
    terms="Annotations: CC BY 4.0. No form.",
    how="annotations_trainval2017.zip from the page above, or --fetch.",
    archives=(
        Archive(
            "annotations_trainval2017.zip",
            "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
            md5="f4bbac642086de4f52a3fdda2de5fa2c",
            bytes=252_907_541,
        ),
    ),
)


def write_captions(root: Path, out: Path, *, split: str = "val") -> int:
    """Writes the captions of `captions_<split>2017.json` below `root`, each once.

    Returns their number. Raises FileNotFoundError when the file is not there, ValueError when it is no
    captions file.
    """
    file = find_file(root, f"captions_{split}2017.json")
    captions = list(dict.fromkeys(_captions(file)))
    content = {
        "info": {"description": f"captions of {file.name}", "home": SOURCE.home},
        "annotations": [{"caption": text} for text in captions],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out, lambda path: path.write_text(text, encoding="utf-8"))
    return len(captions)


def _captions(file: Path) -> list[str]:
    try:
        return [annotation["caption"] for annotation in json.loads(file.read_text("utf-8"))["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        message = "is no COCO captions file: expected JSON with 'annotations', each with a 'caption'"
        raise ValueError(f"{file} {message} ({type(error).__name__}: {error})") from error


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog=f"zsad prepare {SOURCE.name}",
        description=__doc__,
        epilog=SOURCE.instructions(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--raw", type=Path, help="folder with the archive or its contents; or the archive")
    add("--out", type=Path, default=Path("data/captions.json"), help="file to write (%(default)s)")
    add("--split", choices=("val", "train"), default="val", help="of COCO (%(default)s)")
    add("--fetch", action="store_true", help="first download the archive to --raw, 253 MB")
    add("--checksum", choices=("stop", "warn"), default="stop", help="at another checksum than published")
    arguments = parser.parse_args(argv)
    raw, out = arguments.raw, arguments.out
    with errors_reported(out):
        if out.is_dir():
            raise FileExistsError(f"--out {out} is a folder: give a file, such as {out / 'captions.json'}")
        require_download(SOURCE, raw, fetch=arguments.fetch)
        archives, loose = sorted_out(raw, SOURCE.archives)
        for path in archives:
            checked(path, SOURCE.archives, arguments.checksum)
        with only_one(out), unpacked(raw, archives, loose, out) as root:
            n = write_captions(root, out, split=arguments.split)
    print(f"{n} captions of the {arguments.split} split")
    print(f"{out} is complete; give it as the parameter captions_file")
