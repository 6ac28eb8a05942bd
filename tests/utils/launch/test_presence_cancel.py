import subprocess
import sys
import time

import pytest

from utils.config.registry import ROOT
from utils.launch.cli import main
from utils.launch.presence import present


@pytest.mark.slow
def test_a_launcher_is_stopped_and_its_run_goes_on_with_the_same_command(tmp_path, capsys):
    words = f"--preset demo --seeds 0 --methods BN --models er --nf 4 --jobs 1 --results_dir {tmp_path} --nowandb -y"
    command = [sys.executable, str(ROOT / "run.py"), *words.split()]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while "started" not in (shown := launcher.stdout.readline()):
        assert shown, "the launcher ended without a start"
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("demo-nf-4/*/config.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    place = ["--results_dir", str(tmp_path), "--group", "demo-nf-4"]
    assert main(["status", *place]) == 0
    assert f"launcher {launcher.pid} is running on " in capsys.readouterr().out
    assert main(["cancel", *place]) == 0
    assert f"launcher {launcher.pid} has stopped" in capsys.readouterr().out
    launcher.communicate(timeout=60)
    assert launcher.returncode == 143
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_without_a_launcher_it_says_so(tmp_path, capsys):
    (tmp_path / "group").mkdir()
    words = ["cancel", "--results_dir", str(tmp_path), "--group", "group"]
    assert main(words) == 2
    assert "no launcher is running" in capsys.readouterr().err
    with present(tmp_path / "group"):
        (path,) = (tmp_path / "group").rglob("launcher-*.json")
        path.write_text('{"process": 1, "machine": "elsewhere"}')
        assert main(words) == 2
    assert "but on elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--preset", "none"], ["extra"]])
def test_mistakes_are_told(words):
    assert main(["cancel", *words]) == 2
