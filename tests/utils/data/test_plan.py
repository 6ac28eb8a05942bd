from types import SimpleNamespace

import pytest

from tests.utils.data.test_loaders import SIZE, loaders
from utils.config.configuration import configure
from utils.config.registry import METHODS
from utils.data.plan import (
    Pairs,
    Plain,
    Rows,
    StreamSizes,
    TaskStream,
    check_ratio,
    count_batches,
    count_stages,
    mixes_memory,
    part_sizes,
)
from utils.errors import UserError

UNEQUAL = StreamSizes((30, 25, 31, 30, 28), (range(2), range(2, 3), range(3, 5)))


@pytest.mark.parametrize(
    ("batch_size", "ratio", "sizes"), [(64, 3, (48, 16)), (128, 3, (96, 32)), (10, 3, (7, 2)), (9, 2, (6, 3))]
)
def test_part_sizes(batch_size, ratio, sizes):
    assert part_sizes(batch_size, ratio) == sizes


PLANS = [
    Plain(Rows((1,))),
    Plain(Rows((0, 1, 2))),
    Plain(Rows((1,), exemplars=1)),
    Plain(Rows((1,), exemplars=1, balanced=True)),
    Plain(Rows(exemplars=1), drop_last=False),
    Pairs(Rows((1,)), Rows(exemplars=1), 3),
    Pairs(Rows((1,), exemplars=2), Rows(exemplars=1), 1),
    Pairs(Rows((1,)), Rows(exemplars=1), 3, cycle="reshuffle", drop_last=True),
    TaskStream((1,)),
    TaskStream((0, 2)),
]


@pytest.mark.parametrize("data", PLANS)
@pytest.mark.parametrize("num_exemplars", [1, 3, 6, 30])
@pytest.mark.parametrize("batch_size", [4, 8, 20, 24, 28, 48, 64, 84])
def test_batches_are_counted_as_they_come(data, num_exemplars, batch_size):
    num_rows = [rows.count(SIZE * len(rows.tasks), num_exemplars) for rows in data.parts]
    try:
        counted = count_batches(data, num_rows, batch_size)
    except UserError as error:
        with pytest.raises(UserError, match=str(error)):
            loaders(batch_size, num_exemplars).of(data, (1, 0))
        return
    loader = loaders(batch_size, num_exemplars).of(data, (1, 0))
    assert counted == loader.num_batches == len(list(loader.batches(0)))


def test_what_is_missing_and_what_to_change_are_told():
    pairs, union = Pairs(Rows((1,)), Rows(exemplars=1), 3), Plain(Rows((1,), exemplars=1))
    for data, num_rows, batch_size, message in (
        (pairs, (20, 2), 32, "there are 20 images for the 24 rows of a batch: give a smaller --batch_size"),
        (pairs, (20, 2), 16, "there are 2 exemplars for the 4 memory rows of a batch: give a larger --buffer_size"),
        (union, (20,), 32, "there are 20 images for the 32 rows of a batch: give a larger --buffer_size or"),
        (Plain(Rows((1,))), (4,), 5, "there are 4 images for the 5 rows of a batch: give a smaller --batch_size"),
        (TaskStream((1,)), (0,), 5, "there are no images"),
    ):
        with pytest.raises(UserError, match=message):
            count_batches(data, num_rows, batch_size)


@pytest.mark.parametrize("ratio", [1, 2, 3, 7])
def test_parts_that_are_accepted_are_the_whole_batch(ratio):
    for batch_size in range(1, 40):
        is_whole = batch_size > ratio and sum(part_sizes(batch_size, ratio)) == batch_size
        try:
            check_ratio(batch_size, ratio)
        except UserError:
            assert not is_whole
        else:
            assert is_whole


def test_images_and_exemplars_together():
    assert mixes_memory(Pairs(Rows((1,)), Rows(exemplars=1), 3))
    assert mixes_memory(Plain(Rows((1,), exemplars=1)))
    assert not any(map(mixes_memory, (TaskStream((1,)), Plain(Rows((1,))), Plain(Rows(exemplars=1)))))


def test_tasks_may_be_of_unequal_size():
    assert (UNEQUAL.num_tasks, UNEQUAL.num_classes, UNEQUAL.images_of((0, 2))) == (3, 5, 113)
    config = configured("ft", "--batch_size 8 --buffer_size 20 --best_epoch last --val_fraction 0")
    counted = count_stages(config, UNEQUAL)
    assert [[stage.num_batches for stage in stages] for stages in counted] == [[6], [9], [9]]


# -- stages ------------------------------------------------------------------------------------------------------------


def configured(model, more=""):
    words = f"--model {model} --dataset seq-digits --lr 0.1 --epochs 3 {more}"
    return configure(words.split())


class Plugin(METHODS.get("sgd")):
    """As a plug-in would be."""

    name = "mine"


def with_method(method):
    config = configured("sgd", "--batch_size 8")
    return SimpleNamespace(**config.values, parts=SimpleNamespace(method=method, head="linear"))


def test_a_method_with_a_state_of_its_own_is_counted():
    class Begun(Plugin):
        def __init__(self, *parts):
            raise AssertionError("not made for counting")

    counted = count_stages(with_method(Begun), UNEQUAL)
    assert [(stage.num_batches, stage.last_batch, stage.num_steps) for (stage,) in counted] == [
        (7, 7, 21),
        (4, 7, 12),
        (8, 2, 24),
    ]


def test_stages_that_fail_are_told_in_one_line():
    class Failing(Plugin):
        @classmethod
        def stages(cls, config, sizes, task):
            return [cls.stage(config, (task,))] if task == 0 else config.nothing_such

    with pytest.raises(UserError, match=r"^--model mine: its `stages` fails for task 2 with AttributeError: .*line"):
        count_stages(with_method(Failing), UNEQUAL)


def test_stages_of_an_object_are_refused():
    class Old(Plugin):
        def stages(self, task):
            return []

    with pytest.raises(UserError, match=r"--model mine: make it `@classmethod def stages\(cls, config, sizes, task\)`"):
        count_stages(with_method(Old), UNEQUAL)


def test_what_is_no_stage_is_refused():
    class Odd(Plugin):
        @classmethod
        def stages(cls, config, sizes, task):
            return [TaskStream((task,))]

    with pytest.raises(UserError, match=r"--model mine: its `stages` gives TaskStream"):
        count_stages(with_method(Odd), UNEQUAL)
