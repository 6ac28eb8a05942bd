"""What is said about a package that is not installed."""

import subprocess
import sys

import pytest

from utils.config.registry import ROOT
from utils.errors import explain_missing, required_packages
from utils.launch.cli import main


@pytest.mark.parametrize("words", ["run.py --preset demo -y", "run.py data", "utils/main.py --preset demo"])
def test_a_program_without_its_packages_ends_in_one_line(words):
    alone = [sys.executable, "-S", *words.split()]  # without the folder of installed packages
    ended = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("error: the package ")
    assert ended.stderr.endswith("is not installed: pip install -r requirements.txt\n")


@pytest.mark.parametrize("module", required_packages())
def test_a_grid_starts_nothing_without_one_of_the_packages(module, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    words = ["--preset", "demo", "--seeds", "0", "--methods", "BN", "--models", "er", "-y"]
    assert main([*words, "--results_dir", str(tmp_path)]) == 2
    reason = f"the package {required_packages()[module]} is not installed: pip install -r requirements.txt"
    assert capsys.readouterr().err == f"error: {reason}\n"
    assert not list(tmp_path.iterdir())


def test_what_the_suite_does_not_require_is_no_mistake_of_an_installation():
    assert not explain_missing(ModuleNotFoundError("No module named 'mine'", name="mine"))
