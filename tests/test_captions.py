"""COCO's captions: the file that the script makes, and which ones a page shows for a word."""

import json
import shutil

import pytest
from helpers import refused, written

from data_scripts import coco_captions
from data_scripts.prepare import only_one
from zsad_papers.rwda.figures import load_captions, missing_captions

CAPTIONS = ["A normal street. ", "An abnormal  clock\non a wall\n", "Damaged bus at a stop."]
CAPTIONS += ["Storm DAMAGE on a roof\n", "A normal street.", "It looks Normally busy", "Normal, quiet beach"]


@pytest.fixture
def coco(tmp_path):
    """The validation set's file; the one of the training set lies beside it."""
    folder = tmp_path / "raw" / "annotations"
    folder.mkdir(parents=True)
    annotations = [{"image_id": 1, "id": i, "caption": caption} for i, caption in enumerate(CAPTIONS)]
    for split in ("train", "val"):
        content = {"info": {}, "licenses": [], "images": [], "annotations": annotations}
        (folder / f"captions_{split}2017.json").write_text(json.dumps(content))
    return folder / "captions_val2017.json"


@pytest.fixture
def script(coco, tmp_path):
    """script(*options): the file that it makes of the annotations."""

    def call(*options):
        coco_captions.main(["--raw", f"{tmp_path}/raw", "--out", f"{tmp_path}/captions.json", *options])
        return tmp_path / "captions.json"

    return call


def test_errors_and_a_file_that_is_not_there(coco, tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        message = f"captions file {path} does not exist: `zsad prepare coco_captions --help`"
        refused(message, load_captions, path, "normal", error=FileNotFoundError)
    refused("word is empty", load_captions, coco, " ")
    refused("none of the 6 captions in .* has 'zebra'", load_captions, coco, "zebra")
    earlier = written(tmp_path / "earlier.json", '{"match": "prefix", "annotations": []}')
    refused("for the rule 'prefix'; .*prepare it again", load_captions, earlier, "normal")
    for content in ('{"annotations": [{"bbox": []}]}', coco.read_text()[:100]):
        coco.write_text(content)
        refused("captions_val2017.json is no COCO captions file", load_captions, coco, "normal")
    assert missing_captions(None) == missing_captions(coco) == []
    (line,) = missing_captions(coco.with_name("gone.json"))
    assert line.startswith("The captions file gone.json is not there") and "coco_captions --help" in line


def test_captions_with_the_word_each_once_of_either_split(coco, script):
    for split in ("val", "train", None):
        file = script("--split", split) if split else coco
        assert load_captions(file, "normal") == ["A normal street.", "Normal, quiet beach"]
        assert load_captions(file, "damage") == ["Storm DAMAGE on a roof"]


def test_annotations_that_the_script_refuses(script, coco, tmp_path, capsys):
    def refuse(message):
        with pytest.raises(SystemExit):
            script()
        assert message in capsys.readouterr().err and not (tmp_path / "captions.json").exists()

    with only_one(tmp_path / "captions.json"):
        refuse("captions.json is running")
    shutil.make_archive(str(tmp_path / "annotations_trainval2017"), "zip", tmp_path / "raw")
    coco.write_text('{"annotations": [{"bbox": [0, 0, 1, 1]}]}')
    refuse("no COCO captions file")
    coco.unlink()
    refuse("captions_val2017.json")
    shutil.rmtree(coco.parent)
    shutil.move(tmp_path / "annotations_trainval2017.zip", tmp_path / "raw")
    refuse("expected 252,907,541")
    assert load_captions(script("--checksum", "warn"), "damage") == ["Storm DAMAGE on a roof"]
