"""The command, from records on the disk to the file."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.launch.cli import main
from utils.registry import ROOT
from utils.report.compare import write_comparison

RECORDS = Path(__file__).parent / "golden" / "records"


@pytest.fixture
def results(tmp_path):
    shutil.copytree(RECORDS, tmp_path / "results")
    shutil.copytree(RECORDS / "study", tmp_path / "results" / "again")
    return tmp_path / "results"


def test_two_groups_are_printed_and_written(results, capsys):
    assert main(["compare", "study", "again", "--results_dir", str(results)]) == 0
    written = (results / "study" / "compare.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{written}\n{results / 'study' / 'compare.md'}\n"
    assert "| norm | scenario | study | again | again − study | p (Holm) |" in written
    assert not (results / "again" / "compare.md").exists()


def test_equal_groups_differ_in_nothing(results):
    text, _ = write_comparison(results, ["study", "again"])
    assert "differ" not in text.replace("Differences", "")
    assert "+0.00" in text
    assert "In some groups only" not in text


def test_one_group_is_held_against_the_literature(results, capsys):
    assert main(["compare", "offline", "--results_dir", str(results), "--metric", "A_f"]) == 0
    shown = capsys.readouterr().out
    assert "# offline and the published figures" in shown
    assert "| TBBN | 38.75 ± 0.35 (2) | 38.46 | +0.29 |" in shown


def test_writing_again_changes_nothing(results):
    first = write_comparison(results, ["study", "again"])
    assert write_comparison(results, ["study", "again"]) == first


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
