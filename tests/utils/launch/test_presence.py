import os
import subprocess
import sys

import pytest

from utils.config.registry import ROOT
from utils.launch.presence import launchers_of, present


def test_a_launcher_is_known_as_long_as_it_is_at_the_group(tmp_path):
    assert launchers_of(tmp_path / "group") == []
    with present(tmp_path / "group"):
        (launcher,) = launchers_of(tmp_path / "group")
        assert (launcher.process, launcher.is_here, launcher.is_alive()) == (os.getpid(), True, True)
    assert launchers_of(tmp_path / "group") == []
    assert not launcher.is_alive()
    assert list((tmp_path / "group").rglob("launcher-*")) == []


def test_an_error_takes_it_away_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), present(tmp_path):
        raise KeyboardInterrupt
    assert launchers_of(tmp_path) == []


def test_what_a_killed_one_has_left_behind_is_none(tmp_path):
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom utils.launch.presence import present\n"
        f"with present(Path({str(tmp_path)!r})):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert len(list(tmp_path.rglob("launcher-*.json"))) == 1
    assert launchers_of(tmp_path) == []


def test_a_folder_that_cannot_be_written_stops_no_launcher(tmp_path):
    (tmp_path / "group").write_text("a file")
    with present(tmp_path / "group"):
        assert launchers_of(tmp_path / "group") == []


def test_one_on_another_machine_is_told_apart(tmp_path):
    with present(tmp_path):
        (path,) = tmp_path.rglob("launcher-*.json")
        path.write_text('{"process": 1, "machine": "elsewhere"}')
        (launcher,) = launchers_of(tmp_path)
        assert (launcher.is_here, launcher.machine) == (False, "elsewhere")
        path.write_text("{")
        assert launchers_of(tmp_path) == []
