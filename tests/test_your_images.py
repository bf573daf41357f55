"""A folder of anybody's images: none lost, decisions by a rule that is said, the methods' own scores."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from helpers import noise, pixel_auroc, refused, saved, written
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from zsad_core.encoders import load_encoder
from zsad_core.images import inference_views
from zsad_core.methods import category_texts, clip
from zsad_core.metrics import aupro
from zsad_predict import __main__, report, scorers
from zsad_predict import result as result_module
from zsad_predict.options import Options, options_from, read_options
from zsad_predict.run import score_folder
from zsad_predict.scorers import load_scorer, read_prompts
from zsad_predict.thresholds import Threshold, check_rule, choose_threshold


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    vision = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 2}}
    (folder / "tiny.json").write_text(json.dumps(config))
    few = {"n_pairs": 8, "batch_size": 8, "epochs": 1}
    few |= {"model": str(folder / "tiny.json"), "weights": "random", "device": "cpu"}
    return options_from({**few, "cache_dir": str(folder / "cache")})


@pytest.fixture
def score(settings):
    return partial(score_folder, options=settings, progress=False)


def fill(folder, names, first=0, size=(30, 30)):
    names = [f"{i:02d}.png" for i in range(names)] if isinstance(names, int) else names
    for i, name in enumerate(names):
        saved(folder / name, noise(first + i, size))
    return folder


def test_a_folder_as_people_have_them(tmp_path, score):
    folder, out, picture, turned = tmp_path / "photos", tmp_path / "out", noise(0, (30, 24)), Image.Exif()
    turned[274] = 8
    fill(folder, [f"box {i // 2}/ü{i}-{end}" for i, end in enumerate(("a.jpg", "b.tiff", "c.webp", "d.png"))])
    for mode, name in (("L", "grey.png"), ("RGBA", "clear.png"), ("CMYK", "print.jpg"), ("P", "old.bmp")):
        picture.convert(mode).save(folder / name)
    picture.save(folder / "turned.jpg", exif=turned)
    Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    (folder / "cut.jpg").write_bytes((folder / "print.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("none of them is broken")
    table = score(folder, out=out).table.set_index("file")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert list(table.index) == files and len(files) == 12
    unread = table[table["status"] != "scored"]
    assert unread["status"].to_dict() == {"cut.jpg": "unreadable", "notes.txt": "no image"}
    assert unread["score"].isna().all() and (unread["error"] != "").all() and (unread["decision"] == "").all()
    good = table.drop(unread.index)
    assert good["score"].between(0, 1).all() and set(good["decision"]) == {"normal", "anomalous"}
    notes = good.loc[good["notes"] != "", "notes"].to_dict()
    assert notes["turned.jpg"] == "turned as its EXIF data say" and notes["deep.png"] == "16 bits scaled to 8"
    assert table.loc["turned.jpg", ["width", "height"]].tolist() == [24, 30]
    kept, parquet = pd.read_csv(out / "scores.csv"), pd.read_parquet(out / "scores.parquet")
    assert kept["file"].tolist() == parquet["file"].tolist() == files
    for own in (kept, parquet):
        np.testing.assert_array_equal(own["score"].to_numpy(float), table["score"])
    assert len(list((out / "maps").iterdir())) == 10
    assert all((out / path).is_file() for path in table["heat_map"] if path)
    facts, shown = json.loads((out / "run.json").read_text()), (out / "report.html").read_text()
    assert "cut.jpg" in shown and "notes.txt" in shown
    assert facts["weights"].startswith("random") and facts["method"] == "winclip"
    assert facts["caveat"] is None and 'beware"><strong' not in shown
    assert {"weights_sha256", "threshold", "map_threshold", "parameters", "versions"} <= set(facts)
    assert str(tmp_path) not in json.dumps(facts) + shown, "no page names a folder of this machine"


def test_winclip_score_is_the_core_s_own(tmp_path, score, settings):
    folder = fill(tmp_path / "photos", 3) and fill(tmp_path / "photos", ["wide.png"], 9, (70, 30))
    table = score(folder, object_name="metal nut").table.set_index("file")
    encoder = load_encoder(settings.model, "random", device="cpu")
    texts = category_texts(encoder, "metal_nut", tmp_path)
    for name in ("00.png", "wide.png"):
        image = Image.open(folder / name)
        pictures = inference_views(image, encoder.image_size, whole="tiles")
        pixels = torch.stack([*map(encoder.transform, pictures)])
        views = encoder.embed_images(pixels, normalize=False)
        assert len(views) == (6 if name == "00.png" else 18)  # three tiles
        expected = clip(views[None].numpy(), texts, encoder.temperature).scores
        assert table["score"][name] == pytest.approx(float(expected[0]), abs=1e-6)


def test_anomalyclip_reads_shipped_prompts_and_refuses_them_for_another_model(tmp_path, score, settings):
    folder = fill(tmp_path / "photos", 2)
    own = read_options(cache_dir=str(tmp_path / "cache"), device="cpu")
    result = score_folder(folder, "anomalyclip", options=own, progress=False)
    assert result.table["score"].between(0, 1).all() and result.smooth
    assert result.facts["model"] == "zsad-mini-144px"
    (_, image), size = next(result.scored_images()), (259, 518)
    smooth = gaussian_filter(replace(result, smooth=False).map(image, size), 2.0)  # 4 pixels at 518
    np.testing.assert_allclose(result.map(image, size), smooth, rtol=1e-5)
    refused("give prompts_file", read_prompts, load_encoder(settings.model, "random", device="cpu"))
    with pytest.raises(FileNotFoundError, match="no.pth"):
        score_folder(folder, "anomalyclip", options=own, prompts_file=tmp_path / "no.pth", progress=False)
    refused("leave it out", score, folder, "winclip", prompts_file=tmp_path / "no.pth")


def test_a_reference_is_scored_against_the_others(tmp_path, score):
    """Brute force: for each reference a run of its own, with the others as references."""
    normal, folder = fill(tmp_path / "good", 3, first=50), fill(tmp_path / "photos", 3)
    result = score(folder, "winclip_plus", normal=normal)
    expected = []
    for number, path in enumerate(sorted(normal.iterdir())):
        shutil.copytree(normal, others := tmp_path / f"without {number}")
        (only := tmp_path / f"only {number}").mkdir()
        shutil.move(others / path.name, only)
        expected.append(score(only, "winclip_plus", normal=others).table["score"][0])
    np.testing.assert_allclose(result.references, expected, atol=1e-9)
    assert result.threshold.value == pytest.approx(max(expected))
    own = score(normal, "winclip_plus", normal=normal, threshold_from="folder").table
    assert (own["notes"] == "also a normal reference").all()
    assert (own["score"] < min(expected) + 1e-9).all(), "against itself it would be perfect"


def test_references_that_cannot_be_read(tmp_path, score):
    normal, folder = fill(tmp_path / "good", 2, first=50), fill(tmp_path / "photos", 2)
    written(normal / "broken.png", b"")
    bad = written(tmp_path / "bad" / "a.png", b"").parent
    result = score(folder, "winclip_plus", normal=normal)
    assert len(result.references) == 2 and any("broken.png (" in message for message in result.messages)
    refused("no normal reference can be read: a.png", score, folder, "winclip_plus", normal=bad)
    refused("compares with normal images", score, folder, "winclip_plus")


def test_a_killed_run_goes_on_with_the_part_it_was_in(tmp_path, score, settings, monkeypatch):
    folder, seen = fill(tmp_path / "photos", 40, size=(24, 24)), []
    embed = scorers.embed

    def counting(scorer, images):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.extend(images)
        return embed(scorer, images)

    monkeypatch.setattr(result_module, "embed", counting)
    stop = 32
    with pytest.raises(KeyboardInterrupt):
        score(folder, out=tmp_path / "out")
    assert len(seen) == 32 and not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    stop = math.inf
    first = score(folder, out=tmp_path / "out").table
    assert len(seen) == 40, "the first part was not read again"
    pd.testing.assert_frame_equal(score(folder, out=tmp_path / "out").table, first)
    assert len(seen) == 40
    noise(99, (24, 24)).save(folder / "39.png")  # other content: its part is another one
    assert score(folder).table["score"][39] != first["score"][39]
    assert len(seen) == 48


def test_results_never_overwrite_anything_else(tmp_path, score):
    folder = fill(tmp_path / "photos", ["a.png", "a.jpg", "b/a.png"])
    foreign, mine = fill(tmp_path / "holiday", 1), tmp_path / "out" / "maps" / "mine.txt"
    refused("would replace", score, folder, out=folder)
    refused("00.png", score, folder, out=foreign, error=FileExistsError)
    with pytest.raises(OSError, match=r"a\.png cannot be written \(.+\): give another folder"):
        report.check_out(folder / "a.png" / "out")
    assert score(folder, out=tmp_path / "out").table["heat_map"].nunique() == 3, "equal stems"
    mine.write_text("kept")
    refused("maps/mine.txt", score, folder, out=tmp_path / "out", error=FileExistsError)
    for _ in range(2):
        again = score(folder, out=folder / "results")  # its own heat maps are not images to score
    assert len(again.table) == 3 and any("an earlier run" in message for message in again.messages)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_report_stands_alone_and_shows_names_as_text(tmp_path, score):
    names = [f"{i:02d}.png" for i in range(39)] + ["<script>alert(1)<&>.png"]
    folder = fill(tmp_path / "photos", names, size=(12, 12))
    table = score(folder, out=tmp_path / "out", heat_maps=2).table
    text = (tmp_path / "out" / "report.html").read_text()
    page = BeautifulSoup(text, "html.parser")
    assert not page.find_all("script") and "<script>alert(1)<&>.png" in page.get_text()
    images = page.find_all("img")
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)
    assert not [tag for tag in page.find_all(src=True) if not tag["src"].startswith("data:")]
    assert not page.find_all("link") and "http" not in text.replace("http-equiv", "")
    assert len(page.select(".gallery li")) == report.TOP + 8  # every second of the others
    assert set(table["score"][table["heat_map"] != ""]) == set(table["score"].nlargest(2))


def labelled(folder):
    return fill(folder, ["good/0.png", "good/1.png", "good/2.png", "hole/0.png", "hole/1.png"])


def values(result, task):
    own = result.metrics[result.metrics["task"] == task]
    return dict(zip(own["metric"], own["value"]))


def test_metrics_from_folders_and_from_a_file_are_scikit_learn_s(tmp_path, score):
    folder, file, labels = labelled(tmp_path / "photos"), tmp_path / "labels.csv", np.array([0, 0, 0, 1, 1])
    result = score(folder, labels="folders", threshold_quantile=0.25)
    scores, found = result.table["score"].to_numpy(), values(result, "image")
    assert result.table["label"].tolist() == labels.tolist()
    flagged = scores > np.quantile(scores, 0.25)  # the second lowest: three are above it
    expected = {"auroc": roc_auc_score(labels, scores), "ap": average_precision_score(labels, scores)}
    expected |= {"recall": flagged[3:].sum() / 2, "precision": flagged[3:].sum() / flagged.sum()}
    expected |= {"false_alarms": flagged[:3].sum() / 3}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    file.write_text("file,label\ngood/0.png,OK\ngood/1.png,0\n2.png,normal\nhole/0.png,1\nlost.png,bad\n")
    result = score(folder, labels=file)
    assert result.table["label"].fillna(-1).tolist() == [0, 0, 0, 1, -1]
    said = " ".join(result.messages)
    assert "1 labels belong to no file" in said and "1 scored images have no label" in said
    assert values(result, "image")["auroc"] == pytest.approx(roc_auc_score(labels[:4], scores[:4]))
    refused("unknown labels 2", score, folder, labels=written(file, "file,label\na.png,2\n"))
    twice = written(file, "file,label\na.png,1\na.png,0\n")
    refused("listed as normal and as anomalous", score, folder, labels=twice)
    refused("is not a CSV file", score, folder, labels=written(file, ""))


def test_masks_give_pixel_metrics_and_errors_by_name(tmp_path, score):
    folder = labelled(tmp_path / "photos")
    masks, mask = folder / "truth", np.zeros((30, 30), np.uint8)  # inside: not to be scored
    mask[5:15, 5:15] = 255
    for name in ("hole/0_mask.png", "hole/1.png", "stray.png"):
        saved(masks / name, Image.fromarray(mask))
    result = score(folder, masks=masks)
    assert len(result.table) == 5 and result.table["label"].tolist() == [0, 0, 0, 1, 1]
    assert any("1 masks belong to no image" in message for message in result.messages)
    truth = np.stack([np.zeros_like(mask)] * 3 + [mask] * 2) > 0
    maps = np.stack([result.map(image, (30, 30)) for _, image in result.scored_images()])
    expected = {"auroc": pixel_auroc(truth, maps), "pro": aupro(truth, maps)}
    found = values(result, "pixel")
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    Image.new("L", (31, 30)).save(masks / "hole" / "1.png")
    (masks / "hole" / "0_mask.png").unlink()
    table = score(folder, masks=masks, labels="folders").table
    assert "labelled anomalous and has no mask" in table["error"][3]
    assert "1.png cannot be read: it is 31 x 30 (W x H), its image 30 x 30" in table["error"][4]
    assert (table["status"] == "scored").all() and table["score"].notna().all()


def test_heat_map_is_marked_where_it_is_above_the_threshold():
    heat = np.zeros((40, 40))
    heat[10:20, 10:20] = 1
    drawn = np.asarray(report.decorated(Image.new("RGB", (40, 40), "grey"), heat, (0.0, 1.0), 0.5))
    assert (drawn[9, 12] == 255).all() and (drawn[8, 12] == 0).all(), "white, and black beside it"
    plain = np.asarray(report.decorated(Image.new("RGB", (40, 40), "grey"), heat, (0.0, 1.0), math.nan))
    assert (plain[0, 0] == plain[9, 12]).all() and plain[15, 15].sum() > plain[0, 0].sum()
    table = pd.DataFrame({"map_maximum": [*np.zeros(99), 0.9]})
    own = result_module.Result(table, Threshold(0.5, 0.5, ""), (), {}, "", map_low=0.1)
    assert own.scale == pytest.approx((0.1, 0.6)), "the threshold 0.5 lies inside"


def test_options_say_what_is_wrong(tmp_path):
    for name, value in {"device": "gpu", "seed": -1, "scales": (), "dropout": 1.0}.items():
        refused(rf"{name} = .*: \w+ should", options_from, {name: value})
    refused("only zsad-mini has its own", load_scorer, "clip", read_options(model="RN50", device="cpu"))
    (tmp_path / "own.yaml").write_text("sedes: 3")
    refused("'sedes' .*: did you mean 'seeds'", read_options, str(tmp_path / "own.yaml"))
    refused("expected one of .*mini", read_options, "no", error=FileNotFoundError)
    assert read_options() == Options(cache_dir=read_options().cache_dir), "the profile mini has the defaults"


@pytest.fixture
def run(settings, tmp_path, monkeypatch, capsys):
    """run(arguments): exit code, standard output, standard error; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    tiny = ["--model", settings.model, "--weights", "random", "--device", "cpu"]
    tiny += ["--cache", settings.cache_dir]

    def call(*arguments):
        with pytest.raises(SystemExit) as exited:
            __main__.main(["predict", *tiny, *map(str, arguments)])
        return exited.value.code, *capsys.readouterr()

    return call


def test_exit_codes_say_whether_every_file_was_scored(run, tmp_path, monkeypatch):
    folder, normal = fill(tmp_path / "photos", 3), fill(tmp_path / "good", 2, first=50)
    code, out, err = run(folder, "--method", "winclip_plus", "--normal", normal, "--object", "nut")
    assert code == 0 and "3 files, 3 scored" in out and "each scored against the others" in out
    assert "3/3" in err, "progress"
    table = pd.read_csv(tmp_path / "photos-scores" / "scores.csv")
    assert len(table) == 3 and (table["status"] == "scored").all()
    assert json.loads((tmp_path / "photos-scores" / "run.json").read_text())["object"] == "nut"
    assert run(folder, "--quiet")[1:] == ("", "")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    code, out, _ = run(folder)
    assert code == 3 and "4 files, 3 scored" in out and "1 with a problem: broken.jpg (" in out
    for arguments in ((), (folder, "--method", "patchcore"), (folder, "--threshold", "high")):
        code, _, err = run(*arguments)
        assert code == 2 and "Usage:" in err
    monkeypatch.setattr("zsad_predict.run.score_folder", Mock(side_effect=KeyboardInterrupt))
    code, _, err = run(folder)
    assert code == 130 and "The same command goes on" in err


PUBLISHED = [("winclip", "ViT-B-16-plus-240"), ("anomalyclip", "ViT-L-14-336-quickgelu")]


@pytest.mark.parametrize(("method", "published"), PUBLISHED)
def test_the_model_of_drawings_says_so_before_it_scores_photographs(run, tmp_path, method, published):
    folder, own = fill(tmp_path / "photos", 1), ("--method", method, "--model", "zsad-mini")
    code, _, err = run(folder, *own, "--weights", "shipped")
    said = json.loads((tmp_path / "photos-scores" / "run.json").read_text())["caveat"]
    assert code == 0 and err.startswith(f"{said}\n"), "before the bar"
    assert "drawings of parts, not on photographs" in said and f"--model {published} --weights" in said
    assert said in (tmp_path / "photos-scores" / "report.html").read_text().partition("<h2>")[0]


def test_exit_1_with_one_line_and_no_traceback(run, tmp_path):
    photos = fill(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((tmp_path / "nowhere",), "correct the path"),
        ((tmp_path / "empty",), "no file in it"),
        ((photos, "--threshold-from", "references"), "there are none"),
        ((photos, "--labels", tmp_path / "no.csv"), "no file of labels"),
    ):
        code, _, err = run(*arguments)
        assert code == 1 and message in err
        assert err.startswith("error: ") and err.count("\n") == 1, "nothing was begun"


TABLE = pd.DataFrame({"score": np.arange(11) / 10, "map_maximum": np.arange(11) / 20})  # 0, 0.1, ..., 1
REFERENCES = pd.DataFrame({"score": [0.2, 0.5, 0.3, 0.4], "map_maximum": [0.6, 0.7, 0.9, 0.8]})


HALF, OWN = {"threshold_quantile": 0.5}, {"threshold_from": "folder", "threshold_quantile": 0.75}


@pytest.mark.parametrize(
    ("references", "options", "expected", "rule", "warning"),
    [
        (REFERENCES, {}, (0.5, 0.9), "above the highest score of 4 normal references, 0.5", "rough"),
        (REFERENCES, HALF, (0.35, 0.75), "0.5-quantile of the scores of 4 normal references, 0.35", "rough"),
        (REFERENCES, OWN, (0.75, 0.375), "folder's own 11 scores", "flags about 25 %"),
        (None, {}, (0.9, 0.45), "folder's own 11 scores", "flags about 10 %"),
        (None, {"threshold": 0.25}, (0.25, math.nan), "above 0.25, a number that was given", None),
        (REFERENCES, {"threshold": 0.25}, (0.25, 0.9), "above 0.25, a number that was given", None),
    ],
)
def test_thresholds_are_quantiles_or_given(references, options, expected, rule, warning):
    found = choose_threshold(TABLE, references, **options)
    assert found[:2] == pytest.approx(expected, nan_ok=True) and rule in found.rule
    assert warning in found.warnings[0] if warning else not found.warnings


def test_options_that_contradict_each_other():
    refused("there are none", check_rule, None, "references", None, has_references=False)
    refused("expected auto, references or folder", check_rule, None, "median", None, has_references=False)
    refused("expected 0 to 1", check_rule, None, "auto", 1.5, has_references=False)
    refused("finite", check_rule, math.inf, "auto", None, has_references=False)
    refused("leave out it, or", check_rule, 1.0, "auto", 0.5, has_references=False)
