import csv
import io

import pytest

from tests.utils.report.rig import OFFLINE, run
from utils.report.formats import to_csv, to_latex, to_markdown
from utils.report.select import select
from utils.report.tables import build_table

HOSTILE = "a|b\n<b>\\end{tabular} $x_1$ **n** [u](v) 5% & ~^"


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


def test_latex_has_a_row_of_published_figures_under_ours():
    text = to_latex(published(37.26))
    assert r"\quad published &  & 38.46 ($-$1.20) &  \\" in text


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
    text = to_markdown(table_of(run(HOSTILE, 0, {"A_f": 1.0}), run("BN", 1, None, status="incomplete", reason=HOSTILE)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    unescaped = [row.replace("\\|", "").count("|") for row in rows]
    assert len(set(unescaped)) == 1
    assert "<b>" not in text.replace("\\<b>", "")
    assert "[u](v)" not in text.replace("\\[u](v)", "")


def test_names_stay_text_in_latex():
    text = to_latex(table_of(run(HOSTILE, 0, {"A_f": 1.0}), unreadable=[f"damaged record {HOSTILE}"]))
    lines = text.splitlines()
    body = "\n".join(line for line in lines if not line.startswith("%"))
    assert body.count(r"\end{tabular}") == 1
    assert r"\textbackslash{}end\{tabular\} \$x\_1\$" in body
    assert r"5\% \& \textasciitilde{}\textasciicircum{}" in body
    assert lines[lines.index(r"\end{tabular}") + 1 :] == [line for line in lines if line.startswith("%")]


def test_csv_keeps_names_as_they_are():
    (first, *_) = csv.DictReader(io.StringIO(to_csv([table_of(run(HOSTILE, 0, {"A_f": 1.0}))])))
    assert first["norm"] == HOSTILE
