import json

import pytest

from utils.records.collect import collect
from utils.records.ledger import Ledger, Planned
from utils.records.state import RunState

CONFIG = {"schema": 1, "values": {"nl": "BN", "seed": 0}, "command": ["python", "utils/main.py"]}
COUNTS = {"class_il": [[5, None], [2, 4]], "task_il": [[5, None], [5, 6]], "total": [[10, None], [10, 10]]}
POINTS = {"step": [1, 2], "task": [0, 1], "images": [4, 8], **COUNTS}
RESULT = {"schema": 1, "counts": COUNTS, "untrained": None, "anytime": [50.0, 30.0]}


@pytest.fixture
def write(tmp_path):
    """Writes a record; a text is taken as it is."""

    def write(**files):
        folder = tmp_path / "group" / "run"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            data = text.encode() if isinstance(text, str) else text
            (folder / f"{name}.json").write_bytes(data)
        (run,) = collect(tmp_path, "group")
        return run

    return write


def test_metrics_are_computed_from_the_counts(write):
    run = write(config=CONFIG, result={**RESULT, "metrics": {"class_il": {"A_f": 99.0}}})
    assert run.state == RunState.COMPLETE
    assert run.metrics["class_il"]["A_f"] == pytest.approx(30.0)
    assert run.metrics["task_il"]["A_f"] == pytest.approx(55.0)


def test_started_and_diverged_runs_are_told_apart(write):
    assert write(config=CONFIG).state == RunState.STARTED
    assert write(config=CONFIG, failure={"schema": 1, "kind": "diverged"}).state == RunState.DIVERGED


@pytest.mark.parametrize(
    "damage",
    [
        {"config": ""},
        {"config": "{"},
        {"config": b"\x00\xff\xfe"},
        {"config": {"schema": 1}},
        {"config": {"schema": 1, "values": 5, "command": []}},
        {"config": {**CONFIG, "values": {"nl": "BN"}}},
        {"config": {**CONFIG, "values": {"seed": 0}}},
        {"config": {**CONFIG, "values": {"nl": ["BN"], "seed": 0}}},
        {"config": {**CONFIG, "values": {"nl": "BN", "seed": "0"}}},
        {"config": {**CONFIG, "values": {"nl": "BN", "seed": True}}},
        {"config": {**CONFIG, "values": {"nl": "BN", "seed": 0, "dataset": {}}}},
        {"config": {**CONFIG, "values": {"nl": "BN", "seed": 0, "protocol": ["online"]}}},
        {"config": {**CONFIG, "values": {"nl": "BN", "seed": 0, "lr": [[0.1]]}}},
        {"config": {**CONFIG, "command": None}},
        {"config": "[" * 100_000},
        {"result": ""},
        {"result": '{"schema": 1, "counts"'},
        {"result": {"schema": 1}},
        {"result": {**RESULT, "counts": {}}},
        {"result": {**RESULT, "counts": {**COUNTS, "class_il": [[5], [2, 4]]}}},
        {"result": {**RESULT, "counts": {**COUNTS, "total": None}}},
        {"result": {**RESULT, "counts": {**COUNTS, "total": [[0, None], [0, 0]]}}},
        {"result": {**RESULT, "counts": {**COUNTS, "class_il": [[11, None], [2, 4]]}}},
        {"result": {**RESULT, "counts": {**COUNTS, "class_il": [[-1, None], [2, 4]]}}},
        {"result": {**RESULT, "counts": {**COUNTS, "class_il": [[10**400, None], [2, 4]]}}},
        {"result": {**RESULT, "counts": {**COUNTS, "class_il": []}}},
        {"result": {**RESULT, "anytime": ["x"]}},
        {"result": {**RESULT, "points": {"step": [1]}}},
        {"result": {**RESULT, "points": {**POINTS, "class_il": [[5, None], [11, 4]]}}},
        {"result": {**RESULT, "points": {**POINTS, "task": [0, 2]}}},
        {"result": {**RESULT, "points": {**POINTS, "images": [4]}}},
        {"result": {**RESULT, "untrained": {"class_il": [1]}}},
        {"result": "[" * 100_000},
        {"result": {**RESULT, "counts": {**COUNTS, "class_il": [["x", None], [2, 4]]}}},
        {"result": [1, 2]},
    ],
)
def test_damage_is_a_status_and_never_an_exception(write, damage):
    run = write(**{"config": CONFIG, "result": RESULT, **damage})
    assert run.state == RunState.DAMAGED
    assert "run" in run.reason


def test_debug_records_and_logs_are_left_alone(tmp_path, write):
    write(config=CONFIG)
    for folder in ("debug/other", "logs"):
        (tmp_path / "group" / folder).mkdir(parents=True)
        (tmp_path / "group" / folder / "x.json").touch()
    assert len(collect(tmp_path, "group")) == 1


PLANNED = Planned({"nl": "TBBN", "seed": 1, "dataset": "d"}, ("python", "utils/main.py", "--nl", "TBBN"))


def test_a_planned_run_without_a_record_says_what_became_of_it(tmp_path):
    ledger = Ledger(tmp_path / "group")
    ledger.plan({"a": PLANNED, "b": PLANNED})
    ledger.note("b", RunState.FAILED, "give --lr")
    first, second = collect(tmp_path, "group")
    assert (first.state, first.reason, second.reason) == (RunState.NOT_RUN, "not run", "failed: give --lr")
    assert (first.values, first.command) == (PLANNED.values, PLANNED.command)


def test_a_record_tells_more_than_the_plan(tmp_path, write):
    ledger = Ledger(tmp_path / "group")
    ledger.plan({"run": PLANNED})
    ledger.note("run", RunState.FAILED, "it took too long")
    assert write(config=CONFIG).reason == "failed: it took too long"
    assert write(config=CONFIG).values == CONFIG["values"]
    run = write(config=CONFIG, result=RESULT)
    assert (run.state, run.reason) == (RunState.COMPLETE, "")
    run = write(config="{")
    assert (run.state, run.values) == (RunState.DAMAGED, PLANNED.values)


@pytest.mark.parametrize("values", [{"nl": "BN"}, {"nl": 5, "seed": 0}, {"nl": "BN", "seed": 0, "lr": [[1]]}])
def test_a_damaged_plan_is_told_and_hides_no_record(tmp_path, values):
    (tmp_path / "group" / "run").mkdir(parents=True)
    (tmp_path / "group" / "run" / "config.json").write_text(json.dumps(CONFIG))
    Ledger(tmp_path / "group").plan({"other": Planned(values, ())})
    run, plan = collect(tmp_path, "group")
    assert (run.state, plan.state, plan.values) == (RunState.STARTED, RunState.DAMAGED, {})
    assert "plan.json is damaged" in plan.reason


def test_a_record_of_another_version_says_so(write):
    for files, schema in (({"config": {"schema": 99}}, 99), ({"config": CONFIG, "result": {**RESULT, "schema": 2}}, 2)):
        run = write(**files)
        assert run.state is RunState.OTHER_VERSION
        assert f"has schema {schema}, this version reads 1" in run.reason
