import csv
import io

import pytest

from tests.utils.report.rig import OFFLINE, run
from utils.records.selection import select
from utils.report.formats import to_csv, to_markdown
from utils.report.tables import build_table

HOSTILE = "a|b\n<b> **n** [u](v) `c`"


def table_of(*runs, **more):
    return build_table(select(runs), **more)


def published(ours):
    metrics = {"A_f": ours, "A": [1.0] * 10}
    return table_of(run("TBBN", 0, metrics, **OFFLINE), run("LN", 0, metrics, **OFFLINE))


def test_markdown_has_a_row_of_published_figures_under_ours():
    lines = to_markdown(published(37.26)).splitlines()
    (row,) = [line for line in lines if line.startswith("| TBBN, published")]
    assert "38.46 (−1.20)" in row
    assert lines.index(row) == next(i for i, line in enumerate(lines) if line.startswith("| TBBN |")) + 1
    assert not any(line.startswith("| LN, published") for line in lines)
    assert any("CVPR 2023" in line for line in lines)


def test_csv_has_published_figure_deviation_and_source():
    rows = list(csv.DictReader(io.StringIO(to_csv([published(37.26)]))))
    first = next(row for row in rows if row["norm"] == "TBBN" and row["scenario"] == "class_il")
    assert (first["published"], float(first["deviation"])) == ("38.46", pytest.approx(-1.2))
    assert "CVPR 2023" in first["published_source"]
    assert {row["published"] for row in rows if row["norm"] == "LN" or row["scenario"] == "task_il"} == {""}


def test_csv_holds_every_table():
    runs = select([run("BN", 0, {"A_f": 5.0, "forgetting": 7.0})])
    rows = csv.DictReader(io.StringIO(to_csv([build_table(runs), build_table(runs, "forgetting")])))
    assert {(row["metric"], row["mean"]) for row in rows} == {("A_f", "5"), ("forgetting", "7")}


def test_names_stay_inside_their_cell_in_markdown():
    text = to_markdown(table_of(run(HOSTILE, 0, {"A_f": 1.0}), run("BN", 1, None, state="started", reason=HOSTILE)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    unescaped = [row.replace("\\|", "").count("|") for row in rows]
    assert len(set(unescaped)) == 1
    assert "<b>" not in text.replace("\\<b>", "")
    assert "[u](v)" not in text.replace("\\[u](v)", "")
    assert not any("`c`" in row for row in rows)


def test_csv_keeps_names_as_they_are():
    (first, *_) = csv.DictReader(io.StringIO(to_csv([table_of(run(HOSTILE, 0, {"A_f": 1.0}))])))
    assert first["norm"] == HOSTILE


def test_csv_says_what_was_tested_on_held_out_data():
    runs = [run("BN", 0, {"A_f": 1.0}, model=model, validation=share) for model, share in (("er", 0.1), ("derpp", 0.0))]
    rows = csv.DictReader(io.StringIO(to_csv([table_of(*runs)])))
    assert {(row["model"], row["tested_on"]) for row in rows} == {
        ("er", "held-out training data"),
        ("derpp", "test data"),
    }
