from types import SimpleNamespace

import pytest
import torch

from utils.data.plan import Loaders, Pairs, Plain, Rows, Sizes, TaskStream, check_filled, check_ratio, part_sizes
from utils.data.pools import TensorPool, UnionPool
from utils.errors import UserError

SIZE = 20  # images of a task


def pool(start, number, task):
    raw = torch.arange(start, start + number, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return TensorPool(raw, torch.full((number,), task), torch.full((number,), task))


def union(pools):
    return pools[0] if len(pools) == 1 else UnionPool(pools)


class Stream:
    def pool(self, tasks, split="train"):
        return union([pool(SIZE * task, SIZE, task) for task in tasks])

    def num_batches(self, tasks, batch_size):
        return -(-SIZE * len(tasks) // batch_size)

    def batches(self, tasks, epoch, batch_size, start=0):
        for first in range(start * batch_size, SIZE * len(tasks), batch_size):
            yield self.pool(tasks).take(torch.arange(first, min(first + batch_size, SIZE * len(tasks))))


def loaders(batch_size=8, num_exemplars=6):
    augmentation = SimpleNamespace(of_stream=lambda raw: raw.float(), transform=lambda raw, random: raw.float())
    memory = SimpleNamespace(pool=lambda: pool(200, num_exemplars, 0))
    return Loaders(Stream(), memory, augmentation, batch_size, seed=3)


def images_of(loader, epoch=0):
    return [batch.raw[:, 0, 0, 0].tolist() for batch in loader.batches(epoch)]


def flat(batches):
    return [row for rows in batches for row in rows]


@pytest.mark.parametrize(
    ("batch_size", "ratio", "sizes"), [(64, 3, (48, 16)), (128, 3, (96, 32)), (10, 3, (7, 2)), (9, 2, (6, 3))]
)
def test_part_sizes(batch_size, ratio, sizes):
    assert part_sizes(batch_size, ratio) == sizes


def test_the_stream_keeps_its_short_last_batch():
    loader = loaders().of(TaskStream((1,)), (1, 0))
    assert [len(rows) for rows in images_of(loader)] == [8, 8, 4]
    assert loader.num_batches == 3


def test_plain_batches_are_full_and_take_each_row_at_most_once():
    loader = loaders().of(Plain(Rows((1,), exemplars=1)), (1, 0))
    rows = images_of(loader)
    assert [len(each) for each in rows] == [8, 8, 8]
    found = flat(rows)
    assert len(set(found)) == len(found)
    assert set(found) <= {*range(20, 40), *range(200, 206)}
    assert all(batch.num_current is None for batch in loader.batches(0))


def test_pairs_hold_current_rows_first():
    loader = loaders().of(Pairs(Rows((1,)), Rows(exemplars=1), ratio=3), (1, 0))
    for batch in loader.batches(0):
        rows = batch.raw[:, 0, 0, 0].tolist()
        assert batch.num_current == 6
        assert all(20 <= row < 40 for row in rows[:6])
        assert all(row >= 200 for row in rows[6:])


def test_exemplars_may_come_twice():
    loader = loaders(batch_size=4).of(Plain(Rows((1,), exemplars=2)), (1, 0))
    found = flat(images_of(loader))
    assert len(found) == 32
    assert all(found.count(row) == 2 for row in range(200, 206))


def test_balanced_takes_as_many_of_the_task_as_there_are_exemplars():
    loader = loaders(batch_size=4).of(Plain(Rows((1,), exemplars=1, balanced=True)), (1, 1))
    epochs = [flat(images_of(loader, epoch)) for epoch in range(2)]
    assert [sum(row < 200 for row in rows) for rows in epochs] == [6, 6]
    assert set(epochs[0]) == set(epochs[1])


def test_stages_and_epochs_have_orders_of_their_own():
    data = Plain(Rows((1,)))
    orders = [images_of(loaders().of(data, purpose), epoch) for purpose in ((1, 0), (1, 1)) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4
    assert images_of(loaders().of(data, (1, 0)), 0) == orders[0]


def test_too_little_memory_for_a_pair_names_the_options():
    with pytest.raises(UserError, match="--buffer_size"):
        loaders(num_exemplars=1).of(Pairs(Rows((1,)), Rows(exemplars=1), ratio=3), (1, 0))


def test_without_memory_only_the_tasks_are_used():
    alone = Loaders(Stream(), None, loaders().augmentation, 8, seed=3)
    assert alone.of(Plain(Rows((0, 1))), (1, 0)).num_batches == 5


PLANS = [
    Plain(Rows((1,))),
    Plain(Rows((0, 1, 2))),
    Plain(Rows((1,), exemplars=1)),
    Plain(Rows((1,), exemplars=1, balanced=True)),
    Plain(Rows(exemplars=1), drop_last=False),
    Pairs(Rows((1,)), Rows(exemplars=1), 3),
    Pairs(Rows((1,), exemplars=2), Rows(exemplars=1), 1),
    TaskStream((1,)),
]


@pytest.mark.parametrize("data", PLANS)
@pytest.mark.parametrize("num_exemplars", [1, 3, 6, 30])
@pytest.mark.parametrize("batch_size", [4, 8, 20, 24, 28, 48, 64, 84])
def test_what_cannot_be_formed_is_told_from_the_sizes_as_from_the_images(data, num_exemplars, batch_size):
    is_told = refuses(check_filled, data, Sizes([SIZE] * 3, num_exemplars), batch_size, "task 2")
    assert is_told == refuses(loaders(batch_size, num_exemplars).of, data, (1, 0))


def refuses(call, *parts):
    try:
        call(*parts)
    except UserError:
        return True
    return False


def test_what_is_missing_and_what_to_change_are_told():
    pairs, sizes = Pairs(Rows((1,)), Rows(exemplars=1), 3), Sizes([SIZE] * 3, 2)
    with pytest.raises(UserError, match=r"^task 2 has 20 images for the 24 rows of a batch: give a smaller"):
        check_filled(pairs, sizes, 32, "task 2")
    with pytest.raises(UserError, match=r"^task 2 has 2 exemplars for the 4 memory rows .* a larger --buffer_size"):
        check_filled(pairs, sizes, 16, "task 2")


@pytest.mark.parametrize("ratio", [1, 2, 3, 7])
def test_parts_that_are_accepted_are_the_whole_batch(ratio):
    for batch_size in range(1, 40):
        is_whole = batch_size > ratio and sum(part_sizes(batch_size, ratio)) == batch_size
        assert refuses(check_ratio, batch_size, ratio) != is_whole
