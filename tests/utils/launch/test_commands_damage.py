"""Records that a disk has damaged: the commands tell what they can, and end well."""

import json

import pytest

from utils.launch.cli import main
from utils.record import Record


def _folder_in_place(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "types": lambda path: path.write_text('{"schema": 1, "values": 3, "metrics": [], "task": {}, "step": null}'),
    "folder": _folder_in_place,
}


@pytest.fixture
def group(tmp_path):
    """Two complete runs, two diverged and two started ones, the first of each to be damaged."""
    for state in ("complete", "diverged", "started"):
        for run in ("damaged", "sound"):
            record = Record(tmp_path / "group" / f"{state}-{run}").open()
            record.write_config({})
            record.append_metrics({"kind": "train", "task": 1, "step": 150})
            if state == "complete":
                record.write_result({})
            if state == "diverged":
                record.write_failure({})
            record.close()
    return tmp_path / "group"


@pytest.mark.parametrize("damage", DAMAGE)
def test_status_goes_on(group, capsys, damage):
    for path in group.glob("*-damaged/*"):
        DAMAGE[damage](path)
    assert main(["status", "--results_dir", str(group.parent), "--group", "group"]) == 0
    shown = capsys.readouterr().out
    assert "started   started-sound  task 2, step 150" in shown
    counts = "2 complete, 0 running, 2 diverged, 2 started"
    if damage != "types":
        counts = "1 complete, 0 running, 2 diverged, 2 started, 1 damaged"
    assert shown.splitlines()[0].endswith(f": {counts}")


def test_status_goes_on_where_nothing_may_be_read(group, capsys, monkeypatch):
    stat = type(group).stat

    def refuse(path, **more):
        if path.parent.name.endswith("-damaged"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **more)

    monkeypatch.setattr(type(group), "stat", refuse)
    assert main(["status", "--results_dir", str(group.parent), "--group", "group"]) == 0
    shown = capsys.readouterr().out
    assert ": 1 complete, 0 running, 1 diverged, " in shown
    assert "started   started-sound" in shown


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_plan_goes_on(tmp_path, capsys, damage):
    words = ["--preset", "demo", "--models", "er", "--methods", "BN", "GN", "--seeds", "0"]
    words += ["--results_dir", str(tmp_path), "--group", "group"]
    assert main([*words, "--json"]) == 0
    names = [job["name"] for job in json.loads(capsys.readouterr().out)["jobs"]]
    for name in names:
        record = Record(tmp_path / "group" / name).open()
        record.write_config({})
        record.write_result({})
    DAMAGE[damage](tmp_path / "group" / names[0] / "result.json")
    assert main([*words, "--dry_run"]) == 0
    counts = "2 complete" if damage == "types" else "1 damaged, 1 complete"
    assert f"2 runs: {counts}\n" in capsys.readouterr().out


def test_a_damaged_result_is_set_aside_and_the_run_made_anew(tmp_path):
    words = ["--preset", "demo", "--models", "er", "--methods", "BN", "--seeds", "0", "--nf", "4", "--nowandb", "-y"]
    words += ["--results_dir", str(tmp_path), "--group", "group"]
    assert main(words) == 0
    (path,) = (tmp_path / "group").glob("*/result.json")
    sound = path.read_bytes()
    path.write_bytes(sound[:100])
    assert main(words) == 0
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["weights_sha256"] == json.loads(sound)["weights_sha256"]
    assert path.parent.with_name(f"{path.parent.name}.damaged-1").is_dir()
    assert "damaged" not in (tmp_path / "group" / "table.md").read_text(encoding="utf-8")
