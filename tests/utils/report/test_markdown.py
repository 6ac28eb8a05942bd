from utils.report import markdown


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
