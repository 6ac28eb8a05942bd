import json
from dataclasses import replace

import pytest

from utils.errors import DiskError
from utils.records.content import DamagedRecord
from utils.records.ledger import Ledger, Planned
from utils.records.state import RunState

BN = Planned({"nl": "BN", "seed": 0, "lr": 0.1}, ("python", "utils/main.py", "--nl", "BN"))
LN = Planned({"nl": "LN", "seed": 0, "lr": 0.1, "milestones": [1, 2]}, ("python", "utils/main.py", "--nl", "LN"))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "group")


def test_nothing_planned_is_nothing(ledger):
    assert ledger.read() == {}


@pytest.mark.parametrize("runs", [{}, {"one": BN}, {"one": BN, "two": LN}])
def test_what_was_planned_is_read(ledger, runs):
    ledger.plan(runs)
    assert ledger.read() == runs


def test_what_all_runs_share_is_written_once(ledger):
    ledger.plan({f"run{number}": BN for number in range(100)})
    assert ledger.plan_path.read_text().count('"lr"') == 1


def test_the_latest_outcome_counts(ledger):
    ledger.plan({"one": BN, "two": LN})
    ledger.note("one", RunState.STOPPED, "its state is saved")
    ledger.note("one", RunState.FAILED, "no such file: ä\n")
    ledger.note("unknown", RunState.FAILED, "x")
    assert (ledger.read()["one"].outcome, ledger.read()["one"].reason) == (RunState.FAILED, "no such file: ä\n")
    assert ledger.read()["two"] == LN


def test_a_new_plan_takes_the_place_of_the_former_one_but_for_runs_that_have_begun(ledger):
    ledger.plan({"failed": BN, "mistyped": BN, "never begun": BN})
    ledger.note("failed", RunState.FAILED, "boom")
    ledger.note("mistyped", RunState.FAILED, "give --lr")
    (ledger.plan_path.parent / "failed").mkdir()
    ledger.plan({"new": LN})
    assert {name: run.outcome for name, run in ledger.read().items()} == {"failed": RunState.FAILED, "new": None}


def test_a_plan_beside_another_one_takes_nothing_away(ledger):
    ledger.plan({"theirs": BN})
    ledger.plan({"ours": LN}, is_shared=True)
    assert list(ledger.read()) == ["theirs", "ours"]


def test_a_run_that_is_for_a_search_alone_says_so(ledger):
    ledger.plan({"one": replace(BN, for_search=True), "two": BN})
    assert [run.for_search for run in ledger.read().values()] == [True, False]


def test_a_plan_of_another_version_says_so(ledger):
    ledger.plan({"one": BN})
    ledger.plan_path.write_text(ledger.plan_path.read_text().replace('"schema": 1', '"schema": 7'))
    with pytest.raises(DamagedRecord, match="has schema 7, this version reads 1"):
        ledger.read()


def test_what_follows_is_added(ledger):
    ledger.plan({"one": BN})
    ledger.add({"two": LN})
    assert list(ledger.read()) == ["one", "two"]


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[]", "5", "null", "[" * 100_000, '{"schema": 1}', '{"schema": 1, "shared": {}, "runs": [1]}'),
        '{"schema": 1, "shared": {}, "runs": {"one": {}}}',
        '{"schema": 1, "shared": 3, "runs": {"one": {"values": {}, "command": []}}}',
        '{"schema": 1, "shared": {}, "runs": {"one": {"values": {}, "command": 5}}}',
        '{"schema": 99, "shared": {}, "runs": {}}',
    ],
)
def test_a_damaged_plan_is_told_and_written_anew(ledger, damage):
    ledger.plan({"one": BN})
    ledger.plan_path.write_text(damage)
    with pytest.raises(DamagedRecord, match=r"plan\.json"):
        ledger.read()
    ledger.plan({"two": LN})
    assert ledger.read() == {"two": LN}


@pytest.mark.parametrize("line", ['{"run": "one", "outc', "5", "[]", "\x00\x00", '{"run": "one"}', "[" * 10_000])
def test_a_note_that_a_crash_has_cut_hides_no_other(ledger, line):
    ledger.plan({"one": BN, "two": BN})
    ledger.note("one", RunState.FAILED, "boom")
    with ledger.outcomes_path.open("a") as file:
        file.write(f"\n{line}")
    ledger.note("two", RunState.FAILED, "bang")
    assert [run.reason for run in ledger.read().values()] == ["boom", "bang"]


def test_a_folder_that_cannot_be_written_is_told(ledger):
    ledger.plan_path.parent.write_text("a file")
    with pytest.raises(DiskError, match="results_dir"):
        ledger.plan({"one": BN})


def test_the_plan_can_be_read_by_others(ledger):
    ledger.plan({"one": BN})
    assert json.loads(ledger.plan_path.read_text())["runs"]["one"]["command"] == list(BN.command)
