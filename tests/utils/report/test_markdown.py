from tests.utils.report.rig import HOSTILE, published, run, table_of
from utils.report import markdown
from utils.report.markdown import to_markdown


def test_names_stay_text():
    assert markdown.escape("a|b `c` *d* [e](f) <script> a < b\nc \\") == (
        r"a\|b \`c\` \*d\* \[e](f) \<script> a < b c \\"
    )
    assert markdown.escape("er_ace") == "er_ace"


def test_a_text_of_ours_may_hold_code():
    assert markdown.escape("`a` *b*", with_code=True) == r"`a` \*b\*"


def test_table_has_a_line_per_row():
    assert markdown.table(["a", "b"], [["1", "x|y"]]).splitlines() == ["| a | b |", "|---|---|", r"| 1 | x\|y |"]


def test_section_without_items_is_left_out():
    assert markdown.section("Missing", []) == []
    assert markdown.section("Missing", iter(["a", "b"])) == ["## Missing", "- a\n- b"]


def test_markdown_has_a_row_of_published_figures_under_ours():
    lines = to_markdown(published(37.26)).splitlines()
    (row,) = [line for line in lines if line.startswith("| TBBN, published")]
    assert "38.46 (−1.20)" in row
    assert lines.index(row) == next(i for i, line in enumerate(lines) if line.startswith("| TBBN |")) + 1
    assert not any(line.startswith("| LN, published") for line in lines)
    assert any("CVPR 2023" in line for line in lines)


def test_names_stay_inside_their_cell_in_markdown():
    text = to_markdown(table_of(run(HOSTILE, 0, {"A_f": 1.0}), run("BN", 1, None, state="started", reason=HOSTILE)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    unescaped = [row.replace("\\|", "").count("|") for row in rows]
    assert len(set(unescaped)) == 1
    assert "<b>" not in text.replace("\\<b>", "")
    assert "[u](v)" not in text.replace("\\[u](v)", "")
    assert not any("`c`" in row for row in rows)
