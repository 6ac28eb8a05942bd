import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from utils.launch.job import CommonOptions
from utils.launch.presence import present
from utils.launch.scheduler import Bookkeeper
from utils.records.ledger import Axes, Ledger
from utils.records.state import RunState


@dataclass
class FakeJob:
    name: str
    words: tuple = ("--nl", "BN")
    config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(values={"nl": "BN", "seed": 0}, seed=0))


@pytest.fixture
def said():
    return []


@pytest.fixture
def books(tmp_path, said):
    return Bookkeeper(CommonOptions(tmp_path, "group", tmp_path / "data"), said.append, (0, 1), Axes())


def test_plan_and_what_follows_are_in_the_ledger_with_their_commands(tmp_path, books):
    books.plan([FakeJob("one")])
    books.add([FakeJob("two")])
    runs = Ledger(tmp_path / "group").read()
    assert list(runs) == ["one", "two"]
    places = ("--group", "group", "--results_dir", str(tmp_path), "--data_root", str(tmp_path / "data"))
    words = (*places, "--keep_model", "0")
    assert runs["two"].command == ("python", "utils/main.py", "--nl", "BN", *words)
    assert runs["two"].values == {"nl": "BN", "seed": 0}


@pytest.mark.parametrize("outcome", RunState)
def test_ends_of_which_no_record_tells_are_noted(tmp_path, books, outcome):
    books.plan([FakeJob("one")])
    books.note(FakeJob("one"), outcome, "boom")
    noted = Ledger(tmp_path / "group").read()["one"]
    is_noted = outcome in (RunState.FAILED, RunState.STOPPED)
    assert (noted.outcome, noted.reason) == ((outcome.value, "boom") if is_noted else (None, ""))


def test_a_disk_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path, books, said):
    (tmp_path / "group").write_text("a file")
    books.plan([FakeJob("one")])
    books.add([FakeJob("two")])
    books.note(FakeJob("one"), RunState.FAILED, "boom")
    assert len(said) == 1
    assert "the runs continue" in said[0]


def test_runs_on_seeds_of_the_search_alone_are_marked(tmp_path, books):
    books.plan([FakeJob("one"), FakeJob("two", config=SimpleNamespace(values={"nl": "BN", "seed": 7}, seed=7))])
    assert [run.for_search for run in Ledger(tmp_path / "group").read().values()] == [False, True]


def test_the_plan_of_a_launcher_that_is_alive_stays(tmp_path, books):
    books.plan([FakeJob("one")])
    with present(tmp_path / "group"):
        (path,) = (tmp_path / "group").rglob("launcher-*.json")
        books.plan([FakeJob("two")])
        assert list(Ledger(tmp_path / "group").read()) == ["two"]  # it is this one
        path.write_text(json.dumps({"process": 1, "machine": "elsewhere"}))
        books.plan([FakeJob("three")])
    assert list(Ledger(tmp_path / "group").read()) == ["two", "three"]
