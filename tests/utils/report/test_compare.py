"""The command, from records on the disk to the file."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.config.registry import ROOT
from utils.launch.cli import main
from utils.report.compare import file_name, make_comparison

RECORDS = Path(__file__).parent / "golden" / "records"


@pytest.fixture
def results(tmp_path):
    shutil.copytree(RECORDS, tmp_path / "results")
    shutil.copytree(RECORDS / "study", tmp_path / "results" / "again")
    return tmp_path / "results"


def test_two_groups_are_printed_and_written(results, capsys):
    assert main(["compare", "study", "again", "--results_dir", str(results)]) == 0
    path = results / "study" / "compare-again.md"
    written = path.read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{written}\n{path}\n"
    assert "| norm | scenario | study | again | again − study | p (Holm) |" in written
    assert not list((results / "again").glob("compare*"))


def test_equal_groups_differ_in_nothing(results):
    text, _ = make_comparison(results, ["study", "again"])
    assert "differ" not in text.replace("Differences", "")
    assert "+0.00" in text
    assert "In some groups only" not in text


def test_one_group_is_held_against_the_literature(results, capsys):
    assert main(["compare", "offline", "--results_dir", str(results), "--metric", "A_f"]) == 0
    shown = capsys.readouterr().out
    assert "# offline and the published figures" in shown
    assert "| TBBN | 38.75 ± 0.35 (2) | 38.46 | +0.29 |" in shown


def test_comparing_again_changes_nothing(results):
    first = make_comparison(results, ["study", "again"])
    assert make_comparison(results, ["study", "again"]) == first


def test_comparisons_of_a_group_do_not_overwrite_each_other(results):
    for words in (["study"], ["study", "again"], ["study", "--metric", "forgetting"], ["study", "again", "searched"]):
        assert main(["compare", *words, "--results_dir", str(results)]) == 0
    assert sorted(path.name for path in (results / "study").glob("compare*")) == [
        *("compare-again+searched.md", "compare-again.md", "compare-published.forgetting.md", "compare-published.md")
    ]


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
    names = [file_name(others, metric) for others in asked for metric in ("A_f", "forgetting")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"compare-[\w+~-]+(\.forgetting)?\.md", name, re.ASCII) for name in names)
    assert max(map(len, names)) < 200


def test_a_comparison_is_shown_where_it_cannot_be_written(results, capsys):
    (results / "offline" / "compare-published.md" / "in the way").mkdir(parents=True)
    assert main(["compare", "offline", "--results_dir", str(results)]) == 5
    shown = capsys.readouterr()
    assert "| TBBN | 38.75 ± 0.35 (2) | 38.46 | +0.29 |" in shown.out
    assert shown.err.startswith("error: cannot write ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stdy"], "Did you mean 'study'?"),
        (["study", "--metric", "a_F"], "Did you mean 'A_f'?"),
        (["study", "study"], "named twice"),
        ([], "GROUP"),
        (["study", "--speed", "9"], "--speed"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(results, capsys, words, message):
    assert main(["compare", *words, "--results_dir", str(results)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_no_torch_is_imported(results):
    script = (
        "import sys\nfrom utils.launch.cli import main\n"
        f"assert main(['compare', 'offline', '--results_dir', {str(results)!r}]) == 0\n"
        "assert not {'torch', 'pandas', 'GPUtil', 'matplotlib', 'wandb'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
