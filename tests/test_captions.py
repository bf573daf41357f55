import json

import pytest

from zsad_papers.rwda.figures import load_captions, missing_captions

CAPTIONS = [
    "A normal street. ",
    "An abnormal  clock\non a wall\n",
    "Damaged bus at a stop.",
    "Storm DAMAGE on a roof",
    "A normal street.",
    "It looks Normally busy",
    "Normal, quiet beach",
]


@pytest.fixture
def coco(tmp_path):
    path = tmp_path / "captions_val2017.json"
    annotations = [{"image_id": 1, "id": i, "caption": caption} for i, caption in enumerate(CAPTIONS)]
    path.write_text(json.dumps({"info": {}, "licenses": [], "images": [], "annotations": annotations}))
    return path


def test_matching_rules(coco):
    assert load_captions(coco, "normal") == ["A normal street.", "Normal, quiet beach"]
    assert load_captions(coco, "damage") == ["Storm DAMAGE on a roof"]
    assert load_captions(coco, "damage", "prefix") == ["Damaged bus at a stop.", "Storm DAMAGE on a roof"]
    assert load_captions(coco, "normal", "prefix") == [
        "A normal street.",
        "It looks Normally busy",
        "Normal, quiet beach",
    ]
    assert "An abnormal clock on a wall" in load_captions(coco, "normal", "substring")


def test_errors(coco, tmp_path):
    with pytest.raises(FileNotFoundError, match="annotations_trainval2017.zip"):
        load_captions(tmp_path / "none.json", "normal")
    with pytest.raises(ValueError, match="none of the 6 captions in .* has 'zebra'"):
        load_captions(coco, "zebra")
    with pytest.raises(ValueError, match="match='stem'"):
        load_captions(coco, "normal", "stem")
    for content in ('{"annotations": [{"bbox": []}]}', coco.read_text()[:100]):
        coco.write_text(content)
        with pytest.raises(ValueError, match="captions_val2017.json is no COCO captions file"):
            load_captions(coco, "normal")


def test_a_captions_file_that_is_not_there_is_told(coco):
    assert missing_captions(None) == missing_captions(coco) == []
    (line,) = missing_captions(coco.with_name("gone.json"))
    assert line.startswith("The captions file gone.json is not there") and "coco_captions --help" in line
