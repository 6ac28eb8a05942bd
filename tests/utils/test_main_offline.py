"""Whole runs of the offline methods on the digits, in this process."""

import json

import numpy as np
import pytest

from utils.config.registry import METHODS
from utils.main import main

OFFLINE = [name for name in METHODS.names() if METHODS.get(name).protocol == "offline"]
SETTING = "--dataset seq-digits --backbone resnet18 --nf 8 --epochs 6 --batch_size 32 --threads 1 --device cpu --nowand"


def result(results, method, norm, *words):
    line = ["--model", method, "--nl", norm, *SETTING.split(), *words, "--results_dir", str(results)]
    assert main(line) == 0
    (path,) = results.rglob("result.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def final_of_sgd(tmp_path_factory):
    found = result(tmp_path_factory.mktemp("sgd"), "sgd", "BN", "--protocol", "offline")
    return found["metrics"]["class_il"]["A_f"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "norm"), [*((method, "BN") for method in OFFLINE), ("eeil", "TBBN"), ("lucir", "TBBN")]
)
def test_exemplars_beat_fine_tuning_without_by_far(tmp_path, final_of_sgd, method, norm):
    second = any(option.name == "second_epochs" for option in METHODS.get(method).options)
    words = ["--buffer_size", "60", *(["--second_epochs", "3"] if second else [])]
    if method == "afc":  # runs that differ by rounding part within ten steps, and one in eight does not learn
        words += ["--seed", "3"]
    assert result(tmp_path, method, norm, *words)["metrics"]["class_il"]["A_f"] > final_of_sgd + 20


def test_cumulative_joint_training_is_measured_after_every_task(tmp_path):
    found = result(tmp_path, "joint", "BN", "--protocol", "offline", "--epochs", "1")
    measured = [[value is not None for value in row] for row in found["counts"]["total"]]
    assert measured == [[column <= row for column in range(5)] for row in range(5)]


def test_held_out_images_are_not_trained_on(tmp_path):
    steps = []
    for share in ("0.1", "0.5"):
        found = result(tmp_path / share, "sgd", "BN", "--protocol", "offline", "--epochs", "1", "--val_fraction", share)
        steps.append(found["steps"])
    assert steps[1] < steps[0]


@pytest.mark.slow
def test_the_kept_epoch_is_the_one_of_the_lowest_loss(tmp_path):
    kept = {}
    for choice in ("last", "val_loss"):
        words = ["--protocol", "offline", "--epochs", "4", "--lr", "0.3", "--best_epoch", choice]
        kept[choice] = result(tmp_path / choice, "sgd", "BN", *words)["weights_sha256"]
    lines = [json.loads(line) for line in next((tmp_path / "val_loss").rglob("metrics.jsonl")).read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "validation" and line["task"] == 4]
    assert len(losses) == 4
    assert (kept["last"] == kept["val_loss"]) == (losses.index(min(losses)) == 3 and _always_last(lines))


def test_icarl_is_measured_by_its_classifier_inside_a_task(tmp_path):
    words = ["--buffer_size", "60", "--epochs", "1", "--eval_every", "5"]
    found = result(tmp_path, "icarl", "BN", *words)
    assert len(found["anytime"]) > 5
    assert all(0 <= value <= 100 for value in found["anytime"])
    assert found["points"]["images"][-1] == found["cost"]["images"] <= sum(found["classes"]["trained"])


@pytest.mark.parametrize("method", ["sgd", "joint", "ft", "icarl"])
def test_a_first_task_of_too_few_images_is_told_before_training(tmp_path, capsys, method):
    line = ["--model", method, "--protocol", "offline", "--nl", "BN", *SETTING.split(), "--batch_size", "512"]
    assert main([*line, "--results_dir", str(tmp_path)]) == 2
    assert "images for the 512 rows of a batch: give a smaller --batch_size" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.json"))


def test_a_later_task_of_too_few_images_is_told_before_training(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        labels = np.repeat(np.arange(4), [20, 20, 2, 2])
        np.save(tmp_path / "data" / f"{split}_y.npy", labels)
        np.save(tmp_path / "data" / f"{split}_x.npy", rng.integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8))
    words = f"--dataset seq-arrays --n_tasks 2 --data_root {tmp_path / 'data'} --class_order identity --batch_size 16"
    line = ["--model", "sgd", "--protocol", "offline", "--val_fraction", "0", "--best_epoch", "last", *words.split()]
    assert main([*line, "--nowand", "--device", "cpu", "--results_dir", str(tmp_path / "results")]) == 2
    assert "task 2: there are 4 images for the 16 rows of a batch" in capsys.readouterr().err


def test_online_the_short_batches_of_unions_are_trained_on(tmp_path):
    words = ["--protocol", "online", "--lr", "0.1", "--buffer_size", "60", "--epochs", "1", "--batch_size", "512"]
    found = result(tmp_path, "icarl", "BN", *words)
    assert found["steps"] == 5


def test_memory_rows_are_counted_as_the_quota_rounds_them(tmp_path):
    words = ["--buffer_size", "15", "--batch_size", "64", "--epochs", "1"]
    assert result(tmp_path, "ft", "BN", *words)["steps"] > 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quota", "floor", "--buffer_size", "12", "--batch_size", "48"], "exemplars for the 12 memory rows"),
        (["--quota", "fixed", "--buffer_size", "39", "--batch_size", "32"], "exemplars for the 8 memory rows"),
        (["--buffer_size", "200", "--batch_size", "512"], "images for the 512 rows of a batch"),
    ],
)
def test_a_batch_that_some_task_cannot_fill_is_told_before_training(tmp_path, capsys, words, message):
    line = ["--model", "ft", "--nl", "BN", *SETTING.split(), *words, "--results_dir", str(tmp_path)]
    assert main(line) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.jsonl"))


def _always_last(lines):
    """Whether in every task the last epoch was the best one."""
    by_task = {}
    for line in lines:
        if line["kind"] == "validation":
            by_task.setdefault(line["task"], []).append(line["loss"])
    return all(losses.index(min(losses)) == len(losses) - 1 for losses in by_task.values())
