"""The summary of a grid, from records to what the real wandb wrote in offline mode, and with broken ones."""

import functools
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.utils.records.wandb_rig import Tracked, install_fake
from tests.utils.report.rig import run
from utils.launch import cli, local
from utils.records import trackers
from utils.records.selection import select
from utils.report import Report, plots
from utils.report.wandb_summary import by_project, send_summary

RECORDS = Path(__file__).parent / "golden" / "records"


def tracking(mode="offline", entity=None, project=None):
    return SimpleNamespace(wandb_mode=mode, wandb_entity=entity, wandb_project=project)


def cells_of(*named):
    runs = [
        run(norm, seed, {"A_f": 50.0 + seed * step}, dataset=dataset)
        for dataset, norm, step in named
        for seed in range(3)
    ]
    return select(runs)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return functools.partial(install_fake, tmp_path / "packages", monkeypatch)


@pytest.fixture
def results(tmp_path):
    shutil.copytree(RECORDS / "study", tmp_path / "results" / "study")
    return tmp_path / "results"


@pytest.fixture
def no_plots(monkeypatch):
    monkeypatch.setattr(plots, "make_plots", lambda *_: {})


def test_columns_are_in_the_projects_of_their_runs():
    cells = cells_of(("a", "BN", 1), ("b", "BN", 1))
    assert {name: [column[0] for column in own] for name, own in by_project(cells, None).items()} == {
        "a": ["a"],
        "b": ["b"],
    }
    assert list(by_project(cells, "mine")) == ["mine"]
    assert by_project(cells, "mine")["mine"] == cells


def test_projects_without_a_complete_run_are_left_out():
    cells = select([run("BN", 0, None, state="diverged", reason="diverged")])
    assert by_project(cells, None) == by_project(cells, "mine") == {}


def test_real_wandb_has_tables_and_plots(results):
    said = []
    send_summary(Report(results, "study"), tracking(project="mine"), said.append)
    tracked = Tracked(results / "study")
    run = tracked.run
    assert (run.project, run.job_type, run.display_name, list(run.tags)) == (
        *("mine", "summary", "summary of study"),
        ["study"],
    )
    assert tracked.exit_code == 0
    table = tracked.table("table/A_f")
    assert table["columns"][:3] == ["norm", "settings", "seq-digits er 200 Class-IL"]
    assert table["data"][0][:3] == ["BN", "1", "55.08 ± 0.80"]
    assert {row[3] for row in tracked.table("figures")["data"]} == {"A_f", "forgetting"}
    assert "sample standard deviation over 3 seeds" in run.notes
    assert "seed 2 not complete" in run.notes
    for kind in ("accuracy", "forgetting", "matrix"):
        assert tracked.file(f"plots/seq-digits er 200 {kind}").read_bytes().startswith(b"\x89PNG")
    (line,) = said
    assert "`summary of study` of mine has the table and the plots (offline)" in line


SAVE = "open(os.environ['FAKE_FOLDER'] + '/seen', 'a').write(json.dumps(settings, default=dict) + '\\n')"


@pytest.mark.usefixtures("no_plots")
def test_a_repeated_summary_is_the_same_run(results, fake):
    folder = fake(init=SAVE)
    for project in (None, None, "mine"):
        send_summary(Report(results, "study"), tracking(project=project, entity="us"), lambda line: None)
    seen = [json.loads(line) for line in (folder / "seen").read_text().splitlines()]
    assert [each["project"] for each in seen] == ["seq-digits", "seq-digits", "mine"]
    assert seen[0]["id"] == seen[1]["id"] != seen[2]["id"]
    assert {(each["resume"], each["entity"]) for each in seen} == {("allow", "us")}


def test_where_nothing_is_tracked_nothing_is_read(tmp_path, fake):
    folder = fake()
    said = []
    send_summary(Report(tmp_path, "none"), tracking("disabled"), said.append)
    assert said == []
    assert not (folder / "started").exists()


def test_without_a_complete_run_nothing_is_sent(results, fake):
    folder = fake()
    for path in results.glob("study/*/result.json"):
        path.unlink()
    send_summary(Report(results, "study"), tracking(), pytest.fail)
    assert not (folder / "started").exists()


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("broken", "reason"),
    [({"init": "raise RuntimeError('no such entity')"}, "no such entity"), ({"log": "time.sleep(600)"}, "not done")],
)
def test_broken_wandb_is_one_line(results, fake, monkeypatch, broken, reason):
    fake(**broken)
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 2.0)
    said, started = [], time.monotonic()
    send_summary(Report(results, "study"), tracking(), said.append)
    assert time.monotonic() - started < 12
    assert [reason in line for line in said] == [True]


def test_without_matplotlib_the_tables_are_sent(results, fake, monkeypatch):
    def fail(*_):
        raise ImportError("no matplotlib")

    monkeypatch.setattr(plots, "make_plots", fail)
    folder = fake(log="open(os.environ['FAKE_FOLDER'] + '/keys', 'w').write(' '.join(values))")
    send_summary(Report(results, "study"), tracking(), lambda line: None)
    assert (folder / "keys").read_text() == "table/A_f table/forgetting figures"


# -- At the end of a launch -------------------------------------------------------------------------------------------


class InstantEngine(local.LocalEngine):
    """Every run is complete at once, with the record of a stored one."""

    def __init__(self, where, *more, **named):
        where.results_dir.mkdir(parents=True, exist_ok=True)
        program = where.results_dir / "nothing.py"
        program.write_text("")
        super().__init__(where, *more, **named, program=program)

    def start(self, job, ended):
        job.record.folder.mkdir(parents=True)
        job.record.write_config({"values": job.config.values, "command": ["python"]})
        shutil.copy(RECORDS / "study" / "er-BN-s0" / "result.json", job.record.result_path)
        return super().start(job, ended)


GRID = ("--preset", "demo", "--models", "er", "--methods", "BN", "--seeds", "0", "--jobs", "1", "-y")


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--wandb_mode", "offline", "--wandb_project", "mine"], "`summary of demo` of mine has the table"),
        (["--nowandb"], None),
    ],
)
def test_launcher_ends_with_the_summary(tmp_path, fake, monkeypatch, capsys, words, line):
    folder = fake()
    monkeypatch.setattr(local, "LocalEngine", InstantEngine)
    assert cli.main([*GRID, "--results_dir", str(tmp_path / "results"), *words]) == 0
    shown = capsys.readouterr().out
    assert (line in shown) if line else ("Weights" not in shown)
    assert (folder / "started").exists() == (line is not None)


@pytest.mark.usefixtures("no_plots")
def test_broken_wandb_does_not_fail_the_grid(tmp_path, fake, monkeypatch, capsys):
    fake(init="raise RuntimeError('no such entity')")
    monkeypatch.setattr(local, "LocalEngine", InstantEngine)
    assert cli.main([*GRID, "--results_dir", str(tmp_path / "results"), "--wandb_mode", "online"]) == 0
    assert capsys.readouterr().out.count("Weights & Biases tracking stopped: RuntimeError: no such entity") == 1
