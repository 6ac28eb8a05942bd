"""Searches from the plan to the table: which runs are made, and which setting stands for a layer."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.launch.rig import STUDY, FakeDevices, SilentView
from tests.utils.report.rig import counts
from utils import errors
from utils.config.registry import NORMS, ROOT
from utils.launch.engine import Limits
from utils.launch.grid import change, read_extras
from utils.launch.job import CommonOptions, Data
from utils.launch.local import Child
from utils.launch.plan import FollowUps, decided, make_plan
from utils.launch.scheduler import Bookkeeper, Scheduler
from utils.records.collect import collect
from utils.records.state import RunState
from utils.report import Report

ON_TEST = {0.1: 90, 0.4: 60, 1.0: 50}
HELD_OUT = {0.1: 30, 0.4: 80, 1.0: 70}


class Killed(BaseException):
    """The launcher was ended by a signal that it cannot catch."""


class Engine:
    """Writes a record at once in the place of each run.

    Args:
        outcome: gives a run's final accuracy in percent, or the exit code of `errors` as a negative number.
        starts: of all launchers together.
        dies_after: starts after which the launcher is killed.
        num_slots: runs at a time.
    """

    outlives_launcher = False

    def __init__(self, outcome, starts, dies_after=None, num_slots=2):
        self.outcome, self.starts, self.left, self.devices = outcome, starts, dies_after, FakeDevices(num_slots)

    def start(self, job, ended):
        slot = self.devices.acquire(None)
        if slot is None:
            return None
        if self.left == 0:
            raise Killed
        self.left = None if self.left is None else self.left - 1
        self.starts.append(job.name)
        child = Child(job, slot, None, job.record.log_path)
        ended(child, self._write(job))
        return child

    def look(self):
        pass

    def patience(self):
        return None

    def release(self, child):
        self.devices.release(child.slot)

    def fewer_neighbours(self, child):
        pass

    crashed = refused = fewer_neighbours

    def obstacle(self):
        return ""

    def _write(self, job):
        outcome, record = self.outcome(job.config.values), job.record.open()
        record.write_config({"values": json.loads(json.dumps(job.config.values)), "command": list(job.words)})
        if outcome >= 0:
            record.write_result({"counts": counts([outcome, outcome]), "untrained": None, "anytime": []})
        elif -outcome == errors.DIVERGED:
            record.write_failure({"kind": "diverged", "message": "nan", "step": 1})
        record.close()
        return max(0, -outcome)


def usual(values):
    if values["nl"] == "BN":
        return 55
    return (HELD_OUT if values["validation"] else ON_TEST)[values["kappa"]] + values["seed"]


class Study:
    """A small grid that several launchers work at, one after the other."""

    def __init__(self, root, outcome=usual, extras="", **typed):
        self.where = CommonOptions(root, "group", Path("data"))
        self.outcome, self.starts, self.said = outcome, [], []
        few = {"models": ("er",), "methods": ("BN", "AdaB2N"), "kappa": tuple(ON_TEST), "seeds": (0, 1), **typed}
        self.grid = change(STUDY, {name: values for name, values in few.items() if values is not None})
        self.extras = extras

    def plan(self):
        return make_plan(self.grid, read_extras(self.extras.split()), self.where)

    def launch(self, dies_after=None, num_slots=2):
        plan = self.plan()
        engine, view = Engine(self.outcome, self.starts, dies_after, num_slots), SilentView()
        follow = FollowUps(plan.searches, view.say).after
        limits, books = Limits(waitsecs=0.2, equal_failures=99), Bookkeeper(self.where, view.say, plan.seeds, plan.axes)
        scheduler = Scheduler(plan.jobs, engine, limits, view, books, follow)
        progress = scheduler.run()
        self.said += view.lines
        return progress

    def cells(self):
        return Report(self.where.results_dir, self.where.group).cells

    def cell(self, norm="AdaB2N"):
        (column,) = self.cells().values()
        return column[norm]


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, ()))


@pytest.mark.parametrize(
    ("typed", "num_starts", "setting", "seeds"),
    [
        ({}, 2 + 6, 0.1, [0, 1]),
        ({"search_seeds": (0,)}, 2 + 3 + 1, 0.1, [0, 1]),
        ({"selection": "validation"}, 2 + 6 + 2, 0.4, [0, 1]),
        ({"selection": "validation", "search_seeds": (1,)}, 2 + 3 + 2, 0.4, [0, 1]),
        ({"selection": "validation", "search_seeds": (7, 8)}, 2 + 6 + 2, 0.4, [0, 1]),
        ({"search_seeds": (7,)}, 2 + 3 + 2, 0.1, [0, 1]),
    ],
)
def test_every_run_is_made_once_and_the_best_setting_stands_in_the_table(tmp_path, typed, num_starts, setting, seeds):
    study = Study(tmp_path, **typed)
    progress = study.launch()
    assert progress.count(RunState.COMPLETE) == progress.num_jobs == num_starts
    assert len(study.starts) == len(set(study.starts)) == num_starts
    cell = study.cell()
    assert (cell.setting, cell.num_settings, cell.reason) == ({"kappa": setting}, 3, "")
    assert cell.values("class_il", "A_f") == {seed: ON_TEST[setting] + seed for seed in seeds}
    assert cell.selection == typed.get("selection", "oracle")


@pytest.mark.parametrize("typed", [{"search_seeds": (0,)}, {"selection": "validation"}], ids=str)
def test_a_launcher_that_is_killed_at_any_moment_is_taken_up_and_nothing_is_done_twice(tmp_path, typed):
    whole = Study(tmp_path / "whole", **typed)
    whole.launch()
    for number in range(len(whole.starts)):
        study = Study(tmp_path / str(number), **typed)
        with pytest.raises(Killed):
            study.launch(dies_after=number)
        study.launch()
        assert sorted(study.starts) == sorted(whole.starts), number
        assert study.cell().values("class_il", "A_f") == whole.cell().values("class_il", "A_f")


def test_a_second_launcher_on_a_finished_plan_starts_nothing(tmp_path):
    study = Study(tmp_path, selection="validation")
    study.launch()
    starts = list(study.starts)
    progress = study.launch()
    assert study.starts == starts
    assert progress.count(RunState.COMPLETE) == len(starts)


def test_runs_of_an_oracle_serve_a_search_by_validation(tmp_path):
    Study(tmp_path).launch()
    study = Study(tmp_path, selection="validation")
    study.launch()
    assert len(study.starts) == 6
    assert (study.cell().setting, study.cell().selection) == ({"kappa": 0.4}, "validation")


def test_the_best_of_a_cell_follows_as_soon_as_its_own_runs_are_over(tmp_path):
    study = Study(tmp_path, models=("er", "er_ace"), methods=("AdaB2N",), selection="validation")
    plan = study.plan()
    follow = FollowUps(plan.searches, study.said.append).after
    jobs = [job for job in plan.jobs if job.config.model == "er"]
    for job in jobs:
        Engine(usual, []).start(job, lambda child, code: None)
    assert [follow(job) for job in jobs[:-1]] == [()] * 5
    following = follow(jobs[-1])
    values = [job.config for job in following]
    assert [(each.model, each.kappa, each.seed) for each in values] == [("er", 0.4, 0), ("er", 0.4, 1)]
    assert [each.validation for each in values] == [0.0, 0.0]
    assert follow(jobs[-1]) == ()


def test_of_equal_settings_the_first_one_of_the_plan_stands_in_the_table(tmp_path):
    study = Study(tmp_path, lambda values: 50, kappa=(1.0, 0.1, 0.4), selection="validation", search_seeds=(0,))
    study.launch()
    assert study.cell().setting == {"kappa": 1.0}


def failing(code, **where):
    """The usual outcomes but for runs with these values, which end with a code."""
    return lambda values: -code if all(values.get(name) == value for name, value in where.items()) else usual(values)


def test_a_setting_that_diverged_or_failed_does_not_keep_the_best_from_following(tmp_path):
    for code in (errors.DIVERGED, errors.MISTAKE):
        study = Study(tmp_path / str(code), failing(code, kappa=0.4), selection="validation")
        progress = study.launch()
        assert study.cell().setting == {"kappa": 1.0}
        assert progress.num_jobs == len(progress.outcomes) == 2 + 6 + 2


def test_without_a_complete_setting_nothing_follows_and_the_cell_says_why(tmp_path):
    study = Study(tmp_path, failing(errors.DIVERGED, nl="AdaB2N"), selection="validation")
    assert study.launch().num_jobs == 2 + 6
    assert study.cell().reason == "search: 0 of 6 runs complete, 6 diverged"
    assert [line for line in study.said if "none of 3 settings has a complete run" in line]


def test_a_failed_run_is_tried_again_and_may_change_the_choice(tmp_path):
    study = Study(tmp_path, failing(errors.MISTAKE, kappa=0.4, validation=0.1), selection="validation")
    study.launch()
    assert study.cell().setting == {"kappa": 1.0}
    assert decided(study.plan().searches) == {}
    study.outcome = usual
    study.launch()
    assert study.cell().setting == {"kappa": 0.4}


def test_what_is_decided_is_told_from_the_disk(tmp_path):
    study = Study(tmp_path, selection="validation", methods=("AdaB2N",))
    with pytest.raises(Killed):
        study.launch(dies_after=6)
    plan = study.plan()
    ((search, index),) = decided(plan.searches).items()
    assert search.settings[index] == "kappa 0.4"
    assert [job.state() for job in search.finals(index)] == ["not run", "not run"]


def test_a_result_of_the_search_that_cannot_be_read_is_waited_for(tmp_path):
    study = Study(tmp_path, selection="validation", methods=("AdaB2N",))
    with pytest.raises(Killed):
        study.launch(dies_after=6)
    plan = study.plan()
    assert len(decided(plan.searches)) == 1
    for content in ("{", '{"schema": 1, "numbers": {}}', '{"schema": 99}'):
        plan.jobs[0].record.result_path.write_text(content, encoding="utf-8")
        assert decided(plan.searches) == {}


PLUGIN = """
from backbone.norm.bn import BN
from utils.config.options import Option, ranged
from utils.config.registry import NORMS

@NORMS.register("Sharp")
class Sharp(BN):
    options = (Option("sharpness", ranged(float, 0), 1.0, "how sharp it is"),)

    def __init__(self, num_features, *, spatial_size=None, affine=True, sharpness=1.0):
        super().__init__(num_features, spatial_size=spatial_size, affine=affine)
        self.sharpness = sharpness

    def normalize_batch(self, x):
        return self.sharpness * super().normalize_batch(x)
"""


def by_learning_rate(values):
    """Every layer has its own best learning rate."""
    best = {"BN": 0.03, "AdaB2N": 0.1, "Sharp": 0.1}[values["nl"]]
    return 40 + 20 * (values["lr"] == best) + int(values.get("sharpness", 0)) + values["seed"]


def test_each_layer_searches_its_own_product_and_has_its_own_best(tmp_path):
    typed = {"searched": ("lr", "kappa"), "kappa": (0.1, 0.4), "selection": "validation", "search_seeds": (0,)}
    study = Study(tmp_path, by_learning_rate, "--lr 0.03 0.1", **typed)
    plan = study.plan()
    assert {search.stage[0][0].config.nl: len(search.settings) for search in plan.searches} == {"BN": 2, "AdaB2N": 4}
    study.launch()
    assert (study.cell("BN").setting, study.cell("BN").num_settings) == ({"lr": 0.03}, 2)
    assert (study.cell().setting, study.cell().num_settings) == ({"kappa": 0.1, "lr": 0.1}, 4)
    assert study.cell().values("class_il", "A_f") == {0: 60, 1: 61}


def test_the_option_of_a_plug_in_is_searched(tmp_path):
    plugin = tmp_path / "sharp.py"
    plugin.write_text(PLUGIN)
    typed = {"methods": ("BN", "Sharp"), "searched": ("sharpness",)}
    extras = f"--plugin {plugin} --sharpness 1 3 2 --lr 0.03"
    try:
        study = Study(tmp_path, by_learning_rate, extras, kappa=None, **typed)
        study.launch()
        cell = study.cell("Sharp")
    finally:
        NORMS._parts.pop("Sharp", None)
    assert (cell.setting, cell.num_settings, cell.selection) == ({"sharpness": 3.0}, 3, "oracle")
    assert study.cell("BN").num_settings == 1


def test_a_compared_axis_is_a_column_beside_which_settings_are_searched(tmp_path):
    study = Study(tmp_path, by_learning_rate, "--lr 0.03 0.1")
    study.launch()
    cells = dict(sorted(study.cells().items()))
    assert [column.compared_text for column in cells] == ["lr 0.03", "lr 0.1"]
    finals = [[norms[norm].values("class_il", "A_f")[0] for norm in ("BN", "AdaB2N")] for norms in cells.values()]
    assert finals == [[60, 40], [40, 60]]
    assert all((norms["AdaB2N"].num_settings, norms["BN"].num_settings) == (3, 1) for norms in cells.values())


def test_compared_values_that_make_no_difference_are_one_search(tmp_path):
    study = Study(tmp_path, models=("er_ace",), selection="validation", searched=("kappa",), ada_t0=(0, 1))
    (search,) = study.plan().searches
    assert (search.budget, search.num_following) == (6, 2)
    study.launch()
    assert len(study.starts) == 2 + 6 + 2
    assert len(Study(tmp_path, models=("er",), searched=("kappa",), ada_t0=(0, 1)).plan().searches) == 2


def test_nothing_searched_is_a_column_per_value_with_bn_beside_each(tmp_path):
    study = Study(tmp_path, searched=())
    study.launch()
    cells = study.cells()
    assert [column.compared_text for column in sorted(cells)] == ["kappa 0.1", "kappa 0.4", "kappa 1.0"]
    assert all(norms["BN"].values("class_il", "A_f") == {0: 55, 1: 55} for norms in cells.values())


def test_the_plan_that_was_made_last_defines_what_is_searched_and_strangers_are_told(tmp_path):
    Study(tmp_path).launch()
    Study(tmp_path, searched=()).launch()
    assert len(Study(tmp_path).cells()) == 3
    first = Report(tmp_path, "group").runs[0].folder
    shutil.copytree(first, first.with_name("stranger"))
    report = Report(tmp_path, "group")
    assert "not in the table: 1 record in none of this group's plans" in report.markdown
    cells = [cell for norms in report.cells.values() for cell in norms.values()]
    assert not any(run.folder.name == "stranger" for cell in cells for run in cell.runs.values())


@pytest.mark.slow
def test_real_runs_are_searched_on_held_out_data_and_end_with_the_table(tmp_path):
    words = ["--preset", "demo", "--models", "er", "--methods", "BN", "AdaB2N", "--kappa", "0.4", "1.0"]
    words += ["--num_seeds", "1", "--epochs", "1", "--selection", "validation", "--group", "study"]
    words += ["--results_dir", str(tmp_path), "--nowand", "1", "--jobs", "2", "-y"]
    shown = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "4 of 4 runs complete" in shown.stdout
    assert "on a held-out part of the training data" in (tmp_path / "study" / "table.md").read_text(encoding="utf-8")
    held_out = [run.values["validation"] for run in collect(tmp_path, "study") if run.values["nl"] == "AdaB2N"]
    assert sorted(held_out) == [0.0, 0.1, 0.1]


@pytest.mark.slow
def test_real_runs_search_the_option_of_a_plug_in_and_compare_learning_rates(tmp_path):
    (tmp_path / "sharp.py").write_text(PLUGIN)
    words = f"--preset demo --models er --methods BN Sharp --num_seeds 1 --epochs 1 --plugin {tmp_path / 'sharp.py'}"
    words += f" --lr 0.03 0.1 --sharpness 1 2 --search sharpness --group study --results_dir {tmp_path} --nowand 1 -y"
    command = [sys.executable, "run.py", *words.split()]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "6 of 6 runs complete" in shown.stdout
    table = (tmp_path / "study" / "table.md").read_text(encoding="utf-8")
    assert "seq-digits er 500 lr 0.03 Class-IL" in table.splitlines()[0]
    assert "seq-digits er 500 lr 0.1 Class-IL" in table.splitlines()[0]
    assert "Hyperparameters of Sharp selected by final Class-IL accuracy on the data the runs are tested on" in table
    assert re.search(r"\| Sharp \| 2 \|", table)
    assert "sharpness" in table
