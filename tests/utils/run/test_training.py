"""What the loop counts and when it measures, in whole runs."""

import json
import time

import pytest

from utils.main import main
from utils.run.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("shallow")

SETTING = "--dataset seq-arrays --n_tasks 3 --backbone resnet18 --nf 4 --epochs 2 --batch_size 8"
PLACE = ("kind", "step", "task", "epoch", "stage")
MORE = "--buffer_size 12 --eval_every 3 --threads 1 --device cpu --nowand"


@pytest.fixture
def run(small_root, tmp_path):
    """Starts a run of a method; gives its result and the lines of its losses."""

    def start(method, *words):
        folder = tmp_path / method
        second = ("--second_epochs", "1") if method in ("afc", "eeil", "podnet") else ()
        line = ["--model", method, *SETTING.split(), *second, *MORE.split(), *words, "--data_root", str(small_root)]
        assert main([*line, "--results_dir", str(folder)]) == 0
        (path,) = folder.rglob("result.json")
        lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        return json.loads(path.read_text()), [line for line in lines if line["kind"] == "train"]

    return start


def test_passes_that_train_nothing_are_no_steps(run):
    """AFC has PODNet's stages, and one more that measures the importance of channels."""
    (afc, losses), (podnet, _) = run("afc", "--log_every", "4"), run("podnet")
    assert afc["steps"] == podnet["steps"] == losses[-1]["step"]
    assert len(afc["anytime"]) == len(podnet["anytime"])
    assert afc["timings"]["measuring_seconds"] > 0
    assert "measuring_seconds" not in podnet["timings"]
    apart = [line for line in losses if "importance_nca" in line]
    assert [line["task"] for line in apart] == [0, 1, 2]
    assert not any("loss" in line for line in apart)
    assert all(line["lr"] > 0 for line in losses if "loss" in line)


def test_validation_loss_is_of_the_scores_as_the_loss_scales_them(run, monkeypatch):
    words = ("--best_epoch", "val_loss", "--val_fraction", "0.1")
    seen = []
    monkeypatch.setattr("models.podnet.PodNet.logits", lambda self, network, images: seen.append(1) or network(images))
    run("podnet", *words)
    assert len(seen) >= 2 + 3 + 3  # epochs of the stages, a batch or more each


@pytest.mark.parametrize(("method", "measured"), [("eeil", []), ("afc", ["importance"])])
def test_a_line_of_losses_is_of_one_stage_and_says_which(run, method, measured):
    _, losses = run(method, "--second_epochs", "2", "--log_every", "7")
    assert {line.get("stage") for line in losses if line["task"] == 0} == ({"main", *measured} if measured else {None})
    several = [line for line in losses if line["task"] > 0]
    names = [(line["task"], line["stage"]) for line in several]
    assert list(dict.fromkeys(names)) == [(task, name) for task in (1, 2) for name in ("main", "balance", *measured)]
    assert [line["epoch"] for line in several if line["stage"] == "balance"][-1] == 1
    for line in several:
        terms = [value for name, value in line.items() if name not in (*PLACE, "loss", "lr")]
        assert line.get("loss", sum(terms)) == pytest.approx(sum(terms), rel=1e-4)


@pytest.mark.parametrize("method", ["ft", "er"])
def test_timings_are_the_time_of_the_run(run, method):
    words = ("--epochs", "6", "--eval_every", "0")
    started = time.monotonic()
    result, _ = run(method, *(words if method == "ft" else (*words, "--lr", "0.03")))
    took = time.monotonic() - started
    kinds = {"start", "data", "training", "evaluation"} | ({"exemplars"} if method == "ft" else set())
    assert {name.removesuffix("_seconds") for name in result["timings"]} == kinds
    assert 0.9 * took <= sum(result["timings"].values()) <= took


def test_evaluations_inside_tasks_are_counted_apart_from_training(run, monkeypatch):
    def evaluate_slowly(*parts, **more):
        time.sleep(0.1)
        return evaluate(*parts, **more)

    monkeypatch.setattr("utils.run.evaluator.evaluate", evaluate_slowly)
    result, _ = run("er", "--lr", "0.03", "--eval_every", "1")
    num_points = len(result["points"]["step"])
    assert num_points > 20
    assert result["timings"]["evaluation_seconds"] > 0.1 * num_points


def test_a_run_knows_its_steps_before_it_begins(run, monkeypatch):
    told = []
    monkeypatch.setattr("utils.records.record.Record.write_progress", lambda record, progress: told.append(progress))
    for method, words in (("podnet", ()), ("ft", ("--debug_mode", "1")), ("lucir", ("--budget_steps", "20"))):
        told.clear()
        result, _ = run(method, *words)
        assert {each.total_steps for each in told} == {result["steps"]}
        assert told[-1].step == result["steps"]
        assert {each.num_tasks for each in told} == {3}
