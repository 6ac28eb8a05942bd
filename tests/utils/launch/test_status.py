import json
import subprocess
import sys
import time

import pytest

from tests.utils.launch.rig import CONFIG, RESULT
from tests.utils.records.rig import progress
from utils.config.registry import ROOT
from utils.launch.cli import main
from utils.launch.presence import present
from utils.records.ledger import Ledger, Planned
from utils.records.record import Record
from utils.records.state import RunState


@pytest.fixture
def status(tmp_path, capsys):
    """What the command shows of a group."""

    def show():
        assert main(["status", "--results_dir", str(tmp_path), "--group", "group"]) == 0
        return capsys.readouterr().out.splitlines()

    return show


@pytest.fixture
def ledger(tmp_path):
    runs = {name: Planned(CONFIG["values"], ()) for name in ("complete", "failed", "stopped", "later", "again")}
    ledger = Ledger(tmp_path / "group")
    ledger.plan(runs)
    ledger.note("failed", RunState.FAILED, "give --lr")
    ledger.note("stopped", RunState.STOPPED, "its state is saved")
    ledger.note("again", RunState.FAILED, "boom")
    for name in ("complete", "stopped", "again"):
        record = Record(tmp_path / "group" / name).open()
        record.write_config(CONFIG)
        if name == "complete":
            record.write_result(RESULT)
        record.close()
    return ledger


def test_planned_runs_are_counted_and_failures_say_why(status, ledger):
    first, *lines = status()
    assert first.endswith(": 5 runs: 1 complete, 0 running, 0 diverged, 0 started, 1 stopped, 2 failed, 1 not run")
    failed = ["  failed    again  boom", "  failed    failed  give --lr"]
    assert lines == [*failed, "  stopped   stopped", "  not run   later"]


def test_of_many_runs_that_are_not_run_some_are_named(tmp_path, status):
    Ledger(tmp_path / "group").plan({f"run{number:03}": Planned(CONFIG["values"], ()) for number in range(100)})
    first, *lines = status()
    assert first.endswith("100 not run")
    assert (lines[0], lines[-1], len(lines)) == ("  not run   run000", "  and 80 more not run", 21)


def test_a_failed_run_that_goes_on_again_is_running(tmp_path, status, ledger):
    record = Record(tmp_path / "group" / "again").open()
    try:
        assert "1 running, 0 diverged, 0 started, 1 stopped, 1 failed" in status()[0]
    finally:
        record.close()


def test_a_damaged_plan_hides_no_record(status, ledger):
    ledger.plan_path.write_text("{")
    first, *_, last = status()
    assert first.endswith(": 3 runs: 1 complete, 0 running, 0 diverged, 2 started")
    assert "plan.json is damaged" in last


def test_a_record_of_another_version_says_so_and_hides_no_other(tmp_path, status, ledger):
    (tmp_path / "group" / "again" / "config.json").write_text('{"schema": 99}')
    first, *lines = status()
    assert first.endswith(
        ": 5 runs: 1 complete, 0 running, 0 diverged, 0 started, 1 stopped, 1 failed, 1 other version, 1 not run"
    )
    assert "again  " in lines[0]
    assert "has schema 99, this version reads 1" in lines[0]


@pytest.fixture
def running(tmp_path, ledger):
    """A planned run that goes on, of 120 steps at 10 a second, of which 50 are done."""
    record = Record(tmp_path / "group" / "again").open()
    record.write_progress(progress(started=time.time() - 5.0, updated=time.time()))
    yield record
    record.close()


def test_a_run_under_way_tells_where_it_is_and_when_it_ends(status, running):
    first, line, *_ = status()
    assert first.endswith(", ETA 0:00:07") or first.endswith(", ETA 0:00:06")
    assert line.startswith("  running   again  task 2/3, step 50/120, loss 0.25, ETA 0:00:0")


def test_with_a_launcher_what_waits_counts_too(tmp_path, status, running):
    with present(tmp_path / "group"):
        first, second, *_ = status()
    left = 7 + 2 * 12  # one slot; one run is started and one not run, each as long as the one that runs
    assert second.startswith("  launcher ")
    assert any(first.endswith(f", ETA 0:00:{seconds}") for seconds in (left - 1, left))


def test_a_run_that_has_told_nothing_yet_is_starting(status, running):
    running.remove_progress()
    first, line, *_ = status()
    assert "ETA" not in first
    assert line == "  running   again  starting"


def test_a_stopped_run_tells_where_it_stopped(tmp_path, status, ledger):
    Record(tmp_path / "group" / "stopped").write_progress(progress())
    assert "  stopped   stopped  task 2/3, step 50/120, loss 0.25" in status()


def test_a_complete_run_is_not_under_way(tmp_path, status, ledger):
    Record(tmp_path / "group" / "complete").write_progress(progress())  # as a kill after its result leaves it
    assert not [line for line in status() if "task 2/3" in line]


def test_groups_are_listed_where_none_is_named(tmp_path, capsys, ledger):
    Ledger(tmp_path / "other").plan({"run": Planned(CONFIG["values"], ())})
    assert main(["status", "--results_dir", str(tmp_path)]) == 0
    first, *runs, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'group'}: 5 runs: 1 complete")
    assert runs == ["  failed    again  boom", "  failed    failed  give --lr"]
    assert second.startswith(f"{tmp_path / 'other'}: 1 run: 0 complete")
    assert main(["status", "other", "--results_dir", str(tmp_path)]) == 0
    assert "  not run   run" in capsys.readouterr().out
    assert main(["status", "none", "--results_dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip().endswith("Known: group, other.")


def test_of_several_groups_running_runs_and_what_cannot_be_read_are_listed(tmp_path, capsys, running):
    other = Ledger(tmp_path / "other")
    other.plan({"run": Planned(CONFIG["values"], ())})
    other.plan_path.write_text("{")
    assert main(["status", "--results_dir", str(tmp_path)]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  running   again  task 2/3, step 50/120, loss 0.25, ETA 0:00:0")
    assert lines[1] == "  failed    failed  give --lr"
    assert lines[2].startswith(f"{tmp_path / 'other'}: 0 runs: ")
    assert lines[3].startswith(f"  {other.plan_path} is damaged")


@pytest.mark.parametrize(("command", "meant"), [("status", "all groups"), ("table", "the only one there is")])
def test_help_says_which_group_is_meant_without_a_name(capsys, command, meant):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert " ".join(capsys.readouterr().out.split()).count(f"folder of these runs inside --results_dir ({meant})") == 2


def test_one_document_for_programs(tmp_path, capsys, running):
    assert main(["status", "--results_dir", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (group,) = document["groups"]
    assert (document["schema"], group["group"]) == (1, "group")
    assert group["counts"] == {"running": 1, "complete": 1, "failed": 1, "not run": 1, "stopped": 1}
    runs = {run["name"]: run for run in group["runs"]}
    assert runs["again"]["progress"]["step"] == 50
    assert 6 < runs["again"]["seconds_left"] <= 7
    assert runs["failed"] | {"state": "failed", "reason": "give --lr", "progress": None} == runs["failed"]


def test_json_and_watch_are_one_or_the_other(tmp_path, capsys, ledger):
    assert main(["status", "--results_dir", str(tmp_path), "--json", "--watch"]) == 2
    assert "cannot be given together" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_shows_it_again_until_ctrl_c(tmp_path, monkeypatch, capsys, ledger, terminal):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("utils.launch.status.time.sleep", sleep)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    assert main(["status", "--results_dir", str(tmp_path), "--watch", "7"]) == 0
    assert waited == [7.0] * 3
    shown = capsys.readouterr()
    assert shown.out.count("not run   later") == 3 + terminal  # a live picture is drawn once more at its end
    assert ("\x1b" in shown.out) is terminal
    assert shown.err == ""


def test_watching_with_a_closed_output_goes_on_until_ctrl_c(tmp_path, monkeypatch, ledger):
    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.launch.status.time.sleep", sleep)
    monkeypatch.setattr("sys.stdout", None)
    assert main(["status", "--results_dir", str(tmp_path), "--watch"]) == 0


def test_hundreds_of_runs_are_told_without_torch(tmp_path):
    for number in range(300):
        record = Record(tmp_path / "group" / f"run{number:03}").open()
        record.write_config(CONFIG)
        record.write_result(RESULT) if number % 2 else record.write_progress(progress())
        record.close()
    words = [sys.executable, "-X", "importtime", str(ROOT / "run.py"), "status", "--results_dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "300 runs: 150 complete" in done.stdout
    assert not {"torch", "pandas"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
