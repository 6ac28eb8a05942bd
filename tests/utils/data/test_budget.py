"""A budget cuts all stages to one share of their rows."""

from itertools import chain

import pytest

from utils.config.configuration import configure
from utils.data.budget import plan_stages
from utils.data.plan import StreamSizes, count_stages
from utils.errors import UserError

SIZES = StreamSizes((40,) * 6, (range(2), range(2, 4), range(4, 6)))  # 8 batches of 10 a task
UNEQUAL = StreamSizes((200, 200, 40, 10), (range(2), range(2, 3), range(3, 4)))
MEMORY = "--buffer_size 30 --lr 0.1"
RATIO = "--backbone resnet18 --buffer_size 30 --batch_ratio 4 --val_fraction 0"
OFFLINE = f"{RATIO} --epochs 10 --milestones 5,8 --lr_decay 0.1 --lr 0.1"


def config(line, budget=0):
    more = "" if "--epochs" not in line else " --best_epoch last"
    words = f"--dataset seq-arrays --n_tasks 3 --batch_size 10 {line}{more}"
    return configure([*words.split(), "--budget_steps", str(budget)])


def steps(line, budget, sizes=SIZES):
    return [[each.num_steps for each in stages] for stages in plan_stages(config(line, budget), sizes).by_task]


@pytest.mark.parametrize(
    ("line", "budget", "expected"),
    [
        ("--model sgd --lr 0.1", 24, [[8], [8], [8]]),
        ("--model sgd --lr 0.1", 12, [[4], [4], [4]]),
        ("--model sgd --lr 0.1", 13, [[4], [4], [5]]),  # what rounding leaves is the next task's
        (f"--model er {MEMORY}", 24, [[4], [4], [4]]),
        (f"--model er --minibatch_size 30 {MEMORY}", 24, [[2], [2], [2]]),
        (f"--model derpp --alpha 1 --beta 1 {MEMORY}", 24, [[2], [3], [3]]),
        (f"--model er_ace {MEMORY}", 20, [[4], [4], [4]]),  # no replay in the first task
        (f"--model er_ace --stream gaussian {MEMORY}", 24, [[4], [4], [4]]),  # but without boundaries
        ("--model joint --lr 0.1", 6, [[], [], [6]]),
        ("--model sgd --epochs 3 --lr 0.1", 30, [[10], [10], [10]]),
    ],
)
def test_every_run_ends_after_equally_many_rows(line, budget, expected):
    assert steps(line, budget) == expected


@pytest.mark.parametrize("line", ["--model er --nl TBBN", "--model er --nl BN --forward separate"])
def test_joint_and_separate_compositions_take_equally_many_steps(line):
    assert steps(f"{line} {MEMORY}", 20) == [[3], [3], [4]]


def test_unequal_tasks_keep_their_shares():
    assert steps("--model sgd --lr 0.1", 23, UNEQUAL) == [[20], [2], [1]]
    assert plan_stages(config("--model sgd --lr 0.1", 23), UNEQUAL).share == pytest.approx(230 / 450)


def test_stages_of_a_task_share_it_and_schedules_shrink_in_proportion():
    line = f"--model eeil --second_epochs 4 {OFFLINE}"
    whole, cut = count_stages(config(line), SIZES), plan_stages(config(line, 100), SIZES)
    for before, after in zip(chain(*whole), chain(*cut.by_task), strict=True):
        assert after.num_steps == pytest.approx(cut.share * before.num_steps, abs=1.5)
        assert after.stage.epochs == -(-after.num_steps // after.num_batches)
    half = plan_stages(config(f"--model ft {OFFLINE}", 195), SIZES).by_task[0][0].stage
    assert (half.epochs, half.milestones) == (5, (3, 4))


def test_a_cosine_ends_with_the_budget():
    (stage,) = plan_stages(config("--model sgd --epochs 3 --lr 0.1 --lr_schedule cosine", 30), SIZES).by_task[0]
    assert stage.stage.lr_at(0, 5 / 8) == pytest.approx(0.05)
    assert stage.stage.lr_at(1, 2 / 8) == pytest.approx(0)


def test_the_last_epoch_is_the_one_that_is_cut():
    (stage,) = plan_stages(config("--model sgd --epochs 3 --lr 0.1", 30), SIZES).by_task[0]
    assert [stage.stage.batches_of(epoch, 8) for epoch in range(stage.stage.epochs)] == [8, 2]


def test_passes_that_train_nothing_are_not_cut():
    line = f"--model afc --second_epochs 2 --epochs 4 {RATIO}"
    cut = plan_stages(config(line, 60), SIZES)
    assert [stages[-1].stage.length for stages in cut.by_task] == [None] * 3
    assert all(each.stage.length for stages in cut.by_task for each in stages[:-1])


@pytest.mark.parametrize(
    ("line", "budget", "message"),
    [
        ("--model sgd --lr 0.1", 25, "--budget_steps 25 is more than the run takes, which is 24 times the 10 rows"),
        ("--model sgd --lr 0.1", 2, "--budget_steps 2 leaves task 1 without a step: give at least 3"),
    ],
)
def test_a_budget_that_does_not_fit_is_a_mistake(line, budget, message):
    with pytest.raises(UserError, match=message):
        plan_stages(config(line, budget), SIZES)


def test_the_least_budget_that_is_named_is_enough():
    with pytest.raises(UserError, match="--budget_steps 4 leaves task 2 without a step: give at least 45"):
        steps("--model sgd --lr 0.1", 4, UNEQUAL)
    assert steps("--model sgd --lr 0.1", 45, UNEQUAL) == [[40], [4], [1]]
