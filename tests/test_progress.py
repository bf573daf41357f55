"""A line for each job that ends, with what is left, from what Snakemake writes."""

import pytest
from click import BadParameter

from workflow.progress import Progress
from workflow.run import page_of

START = "dataset 1\nsection 3\nsections 1\ntotal 5\n".splitlines()


def told(progress, lines, now):
    return [said for line in lines if (said := progress.read(line, now))]


@pytest.mark.parametrize("known", [False, True])
def test_a_job_that_ends_is_a_line_with_its_time_and_what_is_left(known):
    progress = Progress({"section": [60.0]} if known else {})
    assert told(progress, [*START, "Job 3: Dataset textile"], 0) == []
    lines = told(progress, ["Finished jobid: 3 (Rule: dataset)"], 30)
    left = "3 min 0 s" if known else "1 min 30 s"  # three pages as in the last run, or as this job
    assert lines == [f"[1 of 4] 30 s, about {left} left: Dataset textile"]
    told(progress, ["Job 1: Notebook a", "Job 2: Notebook b"], 30)
    assert progress.seconds_left(40) == pytest.approx((180 - 20) / 2 if known else (90 - 20) / 2)
    (line,) = told(progress, ["Finished jobid: 1 (Rule: section)"], 80)
    assert line.startswith("[2 of 4] 50 s, about ") and line.endswith(": Notebook a")
    assert progress.seconds == {"dataset": [30], "section": [60, 50] if known else [50]}


def test_a_failed_job_is_named_with_the_end_of_its_log(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {number}\n" for number in range(40)))
    failed = f"Error in rule section:\n    jobid: 1\n    log: {log} (check log file(s) for error details)"
    name, end = told(Progress(), [*START, "Job 1: Notebook a", *failed.splitlines()], 0)
    assert name == "Failed: Notebook a"
    assert end.endswith("line 39") and "line 24" not in end


def test_the_beginning_of_a_name_is_enough_for_a_page():
    assert page_of("rwda/43") == page_of("rwda/43_state_of_the_art") == "43_state_of_the_art"
    with pytest.raises(BadParameter, match="0 pages begin with 'rwda/99'.*\n  anomalyclip/32_prompts\n"):
        page_of("rwda/99")
    with pytest.raises(BadParameter, match="7 pages begin with 'rwda/'; expected one of\n  rwda/31"):
        page_of("rwda/")
