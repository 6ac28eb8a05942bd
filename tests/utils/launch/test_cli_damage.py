"""Records that a disk has damaged: the commands tell what they can, and end well."""

import json

import pytest

from tests.utils.launch.rig import CONFIG, RESULT
from tests.utils.records.rig import progress
from tests.utils.report.rig import counts
from utils.launch.cli import main
from utils.records.record import Record


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
            record.write_config(CONFIG)
            record.write_progress(progress())
            if state == "complete":
                record.write_result(RESULT)
            if state == "diverged":
                record.write_failure({"kind": "diverged", "message": "nan", "step": 1})
            record.close()
    return tmp_path / "group"


@pytest.mark.parametrize("damage", DAMAGE)
def test_status_goes_on(group, capsys, damage):
    for path in group.glob("*-damaged/*"):
        DAMAGE[damage](path)
    assert main(["status", "--results_dir", str(group.parent), "--group", "group"]) == 0
    shown = capsys.readouterr().out
    assert "started   started-sound  task 2/3, step 50/120" in shown
    assert shown.splitlines()[0].endswith(": 1 complete, 0 running, 1 diverged, 2 started, 2 damaged")


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


def _change(path, **changed):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changed}), encoding="utf-8")


FURTHER_DAMAGE = {
    **DAMAGE,
    "no counts": lambda path: path.write_text('{"schema": 1, "numbers": {}}', encoding="utf-8"),
    "impossible": lambda path: _change(path, counts=counts([101, 50])),
    "no schema": lambda path: _change(path, schema=None),
}


@pytest.fixture
def small_grid(small_root, tmp_path):
    """Words for runs of a second, in a group of their own."""
    grid = "--datasets seq-arrays --n_tasks 3 --models er --buffer_size 20 --lr 0.05 --nf 4 --nowandb"
    return [*grid.split(), "--data_root", str(small_root), "--results_dir", str(tmp_path), "--group", "group"]


@pytest.fixture
def plan(small_grid, tmp_path, capsys):
    """The words of a plan of two runs, and their records, which are complete."""
    words = ["--methods", "BN", "TBBN", "--seeds", "0", *small_grid]
    assert main([*words, "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    records = [Record(tmp_path / "group" / job["name"]).open() for job in jobs]
    for record in records:
        record.write_config(CONFIG)
        record.write_result(RESULT)
        record.close()
    return words, records


@pytest.mark.parametrize("damage", FURTHER_DAMAGE)
def test_a_plan_goes_on(plan, capsys, damage):
    words, records = plan
    FURTHER_DAMAGE[damage](records[0].result_path)
    assert main([*words, "--dry_run"]) == 0
    assert "2 runs: 1 damaged, 1 complete\n" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{}", b"null", bytes(9)])
def test_a_failure_that_is_none_is_damage(plan, capsys, content):
    words, records = plan
    records[0].result_path.unlink()
    records[0].failure_path.write_bytes(content)
    assert main([*words, "--dry_run"]) == 0
    assert "2 runs: 1 damaged, 1 complete\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config", "result", "failure"])
def test_a_record_of_another_version_is_counted_apart(plan, capsys, name):
    words, (other, _) = plan
    if name == "failure":
        other.result_path.rename(other.failure_path)
    path = getattr(other, f"{name}_path")
    _change(path, schema=99)
    assert main([*words, "--dry_run"]) == 0
    assert "2 runs: 1 other version, 1 complete\n" in capsys.readouterr().out
    assert main(["status", *words[-4:]]) == 0
    shown = capsys.readouterr().out
    assert ": 1 complete, 0 running, 0 diverged, 0 started, 1 other version\n" in shown
    assert f"{path} has schema 99, this version reads 1; choose another --results_dir or --group\n" in shown


@pytest.mark.slow
def test_records_of_another_version_fail_alone_and_are_left_as_they_are(plan, tmp_path, capsys):
    words, _ = plan
    words[words.index("--seeds") + 1 : words.index("--datasets")] = map(str, range(3))
    assert main([*words, "--json"]) == 0
    *old, new = [Record(tmp_path / "group" / job["name"]) for job in json.loads(capsys.readouterr().out)["jobs"]]
    for record in old:
        record.open().write_config(CONFIG)
        record.close()
        _change(record.config_path, schema=99)
    before = {path: path.read_bytes() for record in old for path in record.folder.iterdir()}
    assert main([*words, "-y"]) == 1
    shown = capsys.readouterr().out
    assert "6 runs: 5 other version, 1 not run\n" in shown
    assert shown.count(f"{old[0].config_path} has schema 99, this version reads 1; choose another --results_dir") == 2
    assert "1 of 6 runs complete" in shown
    assert new.complete
    assert {path: path.read_bytes() for record in old for path in record.folder.iterdir()} == before


@pytest.mark.slow
def test_a_damaged_result_is_set_aside_and_the_run_made_anew(small_grid, tmp_path):
    words = ["--methods", "BN", "--seeds", "0", *small_grid, "-y"]
    assert main(words) == 0
    (path,) = (tmp_path / "group").glob("*/result.json")
    sound = path.read_bytes()
    _change(path, counts={})
    assert main(words) == 0
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["weights_sha256"] == json.loads(sound)["weights_sha256"]
    assert path.parent.with_name(f"{path.parent.name}.damaged-1").is_dir()
    assert "damaged" not in (tmp_path / "group" / "table.md").read_text(encoding="utf-8")
