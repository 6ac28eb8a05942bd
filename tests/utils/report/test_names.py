import pytest

from utils.errors import UserError
from utils.report.names import read_names

KNOWN = ("er_ace", "seq-cifar10", "BN")


@pytest.mark.parametrize(
    ("name", "text"),
    [("names.json", '{"er_ace": "ER-ACE", "BN": " Batch\\nNorm "}'), ("names.csv", "er_ace,ER-ACE\nBN, Batch Norm\n")],
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
        ("names.json", '{"ER_ACE": "x"}', "unknown name 'ER_ACE'. Did you mean 'er_ace'"),
        ("names.json", '{"speed": "x"}', "Known: er_ace, seq-cifar10, BN"),
    ],
)
def test_mistakes_are_one_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_names(tmp_path / name, KNOWN)
    assert "\n" not in str(caught.value)
