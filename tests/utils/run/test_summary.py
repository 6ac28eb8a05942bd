"""What is said of a run before it begins."""

import shlex

import pytest

from utils.config.configuration import configure
from utils.main import main
from utils.run.summary import describe_batches, describe_epochs

pytestmark = pytest.mark.usefixtures("shallow")


def config(line):
    return configure(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "batches"),
    [
        ("--model ft --dataset seq-cifar100", "batches of 48 + 16 from the second task on, 2000 exemplars"),
        (
            "--model icarl --dataset seq-cifar100",
            "batches of 128 of the task's images and 2000 exemplars together",
        ),
        (
            "--model icarl --dataset seq-cifar100 --batching ratio",
            "batches of 96 + 32 from the second task on, 2000 exemplars",
        ),
        ("--model joint --dataset seq-cifar100 --protocol offline", "batches of 64"),
    ],
)
def test_batches_in_words(line, batches):
    assert describe_batches(config(line)) == batches


@pytest.mark.parametrize(
    ("line", "epochs"),
    [
        ("--model ft --dataset seq-cifar100", "160 epochs"),
        ("--model podnet --dataset seq-cifar100", "160 epochs, 20 in the second stage"),
        ("--model podnet --dataset seq-cifar100 --epochs 16", "16 epochs, 2 in the second stage"),
        ("--model eeil --dataset seq-arrays --n_tasks 1", "160 epochs"),
    ],
)
def test_epochs_in_words(line, epochs):
    assert describe_epochs(config(line)) == epochs


@pytest.fixture
def shown(small_root, tmp_path, capsys):
    """What a short run prints."""

    def run(line):
        words = f"--dataset seq-arrays --n_tasks 2 --backbone resnet18 --nf 4 --batch_size 8 --buffer_size 20 {line}"
        where = ["--data_root", str(small_root), "--results_dir", str(tmp_path), "--nowand", "--device", "cpu"]
        code = main([*words.split(), *where, "--debug_mode", "1"])
        return code, capsys.readouterr()

    return run


def test_epochs_in_proportion_and_what_they_were_made_for_are_told(shown):
    _, printed = shown("--model eeil --epochs 8")
    assert "8 epochs, 2 in the second stage" in printed.out
    assert "default, 40 after 160 epochs, in proportion: second_epochs 2" in printed.out
    _, printed = shown("--model podnet --epochs 8 --second_epochs 3")
    assert "8 epochs, 3 in the second stage" in printed.out
    assert ", in proportion" not in printed.out


def test_what_a_setting_gives_and_nothing_uses_is_not_told(shown):
    _, printed = shown("--model podnet --epochs 1 --batching union")
    assert "published, Douillard" in printed.out
    assert "ratio_cycle" not in printed.out


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        ("--model eeil --eeil_second_stage balanced --nl TBBN", "are one to TBBN"),
        ("--model icarl --best_epoch val_loss --val_fraction 0.1", "chosen by the classifier's loss"),
    ],
)
def test_remarks_are_told(shown, line, remark):
    _, printed = shown(f"{line} --epochs 1")
    assert remark in printed.out
    _, printed = shown(f"--model {line.split()[1]} --epochs 1")
    assert "note:" not in printed.out


def test_a_balanced_stage_that_cannot_fill_a_batch_is_told_before_training(shown):
    code, printed = shown("--model eeil --eeil_second_stage balanced --epochs 1 --buffer_size 6 --batch_size 20")
    assert code == 2
    assert "stage 2 of task 2: there are 12 images for the 20 rows" in printed.err


def test_values_that_follow_from_others_are_told_as_such(shown):
    _, printed = shown("--model er --lr 0.1 --stream blurry --blurry_minor 0 --dry_run")
    assert "--blurry_minor 0.0  (typed)" in printed.out
    assert "--blurry_disjoint 1.0  (by the others)" in printed.out
