import pytest

from tests.utils.launch.rig import CONFIG, RESULT
from utils.launch.cli import main
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
    runs = {name: Planned({}, ()) for name in ("complete", "failed", "stopped", "later", "again")}
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
    assert first.endswith(": 5 runs: 1 complete, 0 running, 0 diverged, 1 started, 2 failed, 1 not run")
    failed = ["  failed    again  boom", "  failed    failed  give --lr"]
    assert lines == [*failed, "  started   stopped", "  not run   later"]


def test_of_many_runs_that_are_not_run_some_are_named(tmp_path, status):
    Ledger(tmp_path / "group").plan({f"run{number:03}": Planned({}, ()) for number in range(100)})
    first, *lines = status()
    assert first.endswith("100 not run")
    assert (lines[0], lines[-1], len(lines)) == ("  not run   run000", "  and 80 more that are not run", 21)


def test_a_failed_run_that_goes_on_again_is_running(tmp_path, status, ledger):
    record = Record(tmp_path / "group" / "again").open()
    try:
        assert "1 running, 0 diverged, 1 started, 1 failed" in status()[0]
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
        ": 5 runs: 1 complete, 0 running, 0 diverged, 1 started, 1 failed, 1 other version, 1 not run"
    )
    assert "again  " in lines[0]
    assert "has schema 99, this version reads 1" in lines[0]
