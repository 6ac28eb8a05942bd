import re

import pytest

from utils.errors import UserError
from utils.report.names import comparison_file, file_stem, read_names

KNOWN = ("er_ace", "seq-cifar10", "BN")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.json", '{"er_ace": "ER-ACE", "BN": " Batch\\nNorm "}'),
        ("names.json", '{"ER-ACE": "ER-ACE", "bn": "Batch Norm"}'),
        ("names.csv", "er_ace,ER-ACE\nBN, Batch Norm\n"),
    ],
)
def test_names_of_both_kinds_of_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_names(tmp_path / name, KNOWN) == {"er_ace": "ER-ACE", "BN": "Batch Norm"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.json", None, "cannot be read: No such file"),
        ("names.json", "{", "must be a JSON object"),
        ("names.json", "[1]", "must be a JSON object"),
        ("names.json", '{"BN": 1}', "must be a JSON object"),
        ("names.csv", "a,b,c", "must be a JSON object"),
        ("names.json", '{"ER_ACEE": "x"}', "unknown name in --names 'ER_ACEE'. Did you mean 'er_ace'"),
        ("names.json", '{"speed": "x"}', "Known: er_ace, seq-cifar10, BN"),
    ],
)
def test_mistakes_are_one_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_names(tmp_path / name, KNOWN)
    assert "\n" not in str(caught.value)


def test_a_title_is_a_name_that_a_disk_can_hold_and_no_two_share_one():
    titles = ["seq-digits er 200", "seq-digits/er 200", "seq-digits-er-200 ", "a" * 200, "a" * 201, "Ü", "\ud800", ""]
    assert file_stem(titles[0]) == "seq-digits-er-200"
    assert len({file_stem(title) for title in titles}) == len(titles)
    assert all(len(file_stem(title)) < 120 and "/" not in file_stem(title) for title in titles)


def test_every_comparison_has_a_name_of_its_own_that_a_disk_can_hold():
    groups = [
        "a",
        "b",
        "a-b",
        "a+b",
        "a/b",
        "a.forgetting",
        "published",
        "a~b",
        "Ünïcode",
        "\ud800",
        "..",
        " ",
        "x" * 300,
    ]
    asked = [[], *([name] for name in groups), ["a", "b"], ["b", "a"], ["x" * 300, "a"], ["x" * 300, "b"]]
    names = [comparison_file(others, metric) for others in asked for metric in ("A_f", "forgetting")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"compare-[\w+~-]+(\.forgetting)?\.md", name, re.ASCII) for name in names)
    assert max(map(len, names)) < 200
