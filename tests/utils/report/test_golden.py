"""The whole path from stored records to the bytes of the tables."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.report.rig import ONLINE, write_record
from utils.config.registry import ROOT
from utils.errors import UserError
from utils.report import Report, write_report

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def results(tmp_path):
    shutil.copytree(GOLDEN / "records", tmp_path / "results")
    return tmp_path / "results"


def write_tables(results, group):
    """The tables by ending; the page with its plots is not waited for."""
    paths = write_report(Report(results, group))
    return {path.suffix[1:]: path for path in (next(paths), next(paths), next(paths))}


@pytest.mark.parametrize("group", ["study", "offline", "searched"])
@pytest.mark.parametrize("ending", ["md", "tex", "csv"])
def test_tables_are_the_stored_ones(results, group, ending):
    stored = (GOLDEN / f"{group}.{ending}").read_text(encoding="utf-8")
    assert write_tables(results, group)[ending].read_text(encoding="utf-8") == stored


def test_writing_again_changes_nothing(results):
    first = {path.name: path.read_bytes() for path in write_report(Report(results, "study"))}
    assert list(first)[:5] == ["table.md", "table.tex", "table.csv", "runs.csv", "report.html"]
    assert {path.name: path.read_bytes() for path in write_report(Report(results, "study"))} == first


def test_empty_group_gives_an_empty_table(tmp_path):
    (tmp_path / "group").mkdir()
    paths = list(write_report(Report(tmp_path, "group")))
    assert paths[0].read_text(encoding="utf-8").startswith("| norm | settings |")
    assert "no run is complete yet" in paths[-1].read_text(encoding="utf-8")
    assert paths[-2].read_text(encoding="utf-8").startswith("column,norm,dataset,model,")


def test_missing_group_is_named(tmp_path):
    with pytest.raises(UserError, match="--group"):
        list(write_report(Report(tmp_path, "none")))


def test_names_that_utf8_cannot_hold_are_written(tmp_path):
    write_record(tmp_path / "group" / "run", {**ONLINE, "nl": "BN\ud800", "seed": 0}, [50, 60])
    assert rb"BN\ud800" in next(write_report(Report(tmp_path, "group"))).read_bytes()


@pytest.mark.parametrize(
    "damage", [None, True, -1, 1e400, "<b>|", [], {}, [None], [[1]], 10**30, float("nan")], ids=repr
)
def test_a_damaged_option_never_stops_the_report(tmp_path, damage):
    group = tmp_path / "group"
    write_record(group / "sound", {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
    for name in (*ONLINE, "nl", "seed", "lr"):
        write_record(group / name, {**ONLINE, "nl": "BN", "seed": 1, name: damage}, [50, 60])
    assert "| BN |" in write_tables(tmp_path, "group")["md"].read_text(encoding="utf-8")


def test_damaged_configurations_are_listed(tmp_path):
    write_record(tmp_path / "group" / "sound", {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
    write_record(tmp_path / "group" / "lost", {"nl": 5}, [50, 60])
    assert "not in the table: damaged record lost" in write_tables(tmp_path, "group")["md"].read_text(encoding="utf-8")


def test_tables_need_neither_torch_nor_matplotlib(results):
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from utils.report import Report, write_report\n"
        f"paths = write_report(Report(Path({str(results)!r}), 'study'))\n"
        "next(paths), next(paths), next(paths)\n"
        "print(json.dumps(sorted({'torch', 'matplotlib', 'pandas', 'PIL'} & sys.modules.keys())))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
