"""The work is cut by the table alone."""

from __future__ import annotations

from zsad_core import shards
from zsad_core.datasets import COLUMNS
from zsad_core.shards import jobs_of, of_shard


def test_every_image_is_in_one_shard_of_constant_size(monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 6)
    parts = list(range(7))  # of two images each
    cut = [list(of_shard(parts, 2, shard)) for shard in range(4)]
    assert cut == [[0, 1, 2], [3, 4, 5], [6], []]
    assert list(of_shard(parts, 100, 1)) == [1]  # a part larger than a shard is one


def test_jobs_of_a_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 4)
    rows = [("electrical commutators", "train", 0)] * 3 + [("electrical commutators", "test", 0)] * 6
    rows += [("nut", "test", 1)] * 4
    lines = [",".join(COLUMNS), *(f"{c},{s},{label},x,{i}.png," for i, (c, s, label) in enumerate(rows))]
    table = tmp_path / "meta.csv"
    table.write_text("\n".join(lines))
    assert jobs_of(table) == [*(("electrical commutators", i) for i in range(3)), ("nut", 0)]
    assert jobs_of(table, limit=1) == [("electrical commutators", 0), ("nut", 0)]  # 4 + 1 images
    table.write_text("\n".join(lines[:5]))
    assert jobs_of(table) == []  # small enough for one job
