"""Every epoch has the published pairs, each row as often as the plan says, and goes on anywhere bit for bit."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from tests.golden import cases
from tests.utils.data.augment_rig import Noise, Unchanged
from utils.config.configuration import configure
from utils.config.registry import METHODS
from utils.data.exemplars import ExemplarMemory
from utils.data.loaders import CYCLES, Loaders, Paired, Shuffled
from utils.data.plan import Pairs, Plain, Rows, StreamSizes, TaskStream, count_stages
from utils.data.pools import TensorPool, UnionPool
from utils.errors import UserError

PLANS = cases("losses/memory.npz", "batch_plan_")


def pool_of(ids, task=0):
    """Rows whose label is their id and whose image shows it in two base-256 digits."""
    ids = torch.as_tensor(ids)
    digits = torch.stack([ids // 256, ids % 256], dim=1)
    return TensorPool(digits.to(torch.uint8).view(-1, 2, 1, 1), ids, torch.full((len(ids),), task))


def shuffled(num_rows=23, batch_size=5, seed=0, purpose=("a",), drop_last=False):
    return Shuffled(pool_of(range(num_rows)), batch_size, Noise(), seed=seed, purpose=purpose, drop_last=drop_last)


def paired(num_current=40, num_memory=9, parts=(6, 2), seed=0, purpose=("a",), cycle="replay", drop_last=False):
    current, memory = pool_of(range(num_current), task=3), pool_of(range(1000, 1000 + num_memory), task=1)
    return Paired(current, memory, *parts, Noise(), seed=seed, purpose=purpose, cycle=cycle, drop_last=drop_last)


KINDS = {
    "shuffled": shuffled,
    "drop_last": lambda **more: shuffled(drop_last=True, **more),
    "replay": paired,
    "replay, short current": lambda **more: paired(13, 20, **more),
    "reshuffle": lambda **more: paired(cycle="reshuffle", **more),
    "reshuffle, short current": lambda **more: paired(13, 20, cycle="reshuffle", **more),
    "full batches": lambda **more: paired(13, 20, drop_last=True, **more),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def ids(batches):
    return [batch.labels.tolist() for batch in batches]


def assert_same(batches, others):
    for ours, theirs in zip(batches, others, strict=True):
        for name in ("images", "labels", "raw", "tasks"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert ours.num_current == theirs.num_current


# -- all kinds ---------------------------------------------------------------------------------------------------------


@every_kind
def test_the_number_of_batches_is_what_comes(make):
    assert make().num_batches == len(list(make().batches(0)))
    assert make().num_batches > 2


@every_kind
def test_an_epoch_goes_on_at_any_batch(make):
    whole = list(make().batches(2))
    for start in range(len(whole) + 1):
        assert_same(make().batches(2, start=start), whole[start:])


@every_kind
def test_an_epoch_is_the_same_whatever_came_before(make):
    loader = make()
    whole = list(loader.batches(1))
    assert_same(loader.batches(1), whole)
    alternating = list(itertools.chain(*zip(loader.batches(0), loader.batches(1), strict=True)))
    assert_same(alternating[1::2], whole)
    assert_same(alternating[::2], make().batches(0))


@every_kind
def test_epochs_seeds_and_purposes_have_their_own_order_and_augmentation(make):
    epochs = [
        list(loader.batches(epoch))
        for loader, epoch in (
            (make(), 0),
            (make(), 1),
            (make(seed=1), 0),
            (make(purpose=("b",)), 0),
            (make(purpose=("a", 0)), 0),
        )
    ]
    assert len({str(ids(epoch)) for epoch in epochs}) == len(epochs)
    draws = {(batch.images - batch.raw)[0, 0].item() for epoch in epochs for batch in epoch[:1]}
    assert len(draws) == len(epochs)


@every_kind
def test_the_parts_of_a_row_stay_together(make):
    for batch in make().batches(0):
        assert torch.equal(batch.raw[:, 0, 0, 0].long() * 256 + batch.raw[:, 1, 0, 0], batch.labels)
        assert torch.equal(batch.images.floor().to(torch.uint8), batch.raw)
        expected = 0 if batch.num_current is None else torch.where(batch.labels < 1000, 3, 1)
        assert (batch.tasks == expected).all()
        assert not batch.extras


@every_kind
def test_rows_of_an_epoch_are_augmented_independently(make):
    """Unless a batch comes again."""
    draws = {}
    for batch in make().batches(0):
        for label, image, raw in zip(batch.labels.tolist(), batch.images, batch.raw, strict=True):
            draws.setdefault(label, (image - raw).sum().item())
    assert len(set(draws.values())) == len(draws)


# -- one pool ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("num_rows", [5, 19, 20])
def test_every_row_comes_once_in_random_order(num_rows, drop_last):
    batches = ids(shuffled(num_rows, drop_last=drop_last).batches(0))
    rows = list(itertools.chain(*batches))
    assert [len(batch) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    assert len(rows) == len(set(rows)) == (num_rows // 5 * 5 if drop_last else num_rows)
    assert rows != sorted(rows)
    assert set(rows) <= set(range(num_rows))


def test_the_rows_left_out_differ_from_epoch_to_epoch():
    loader = shuffled(19, drop_last=True)
    assert set().union(*(set(itertools.chain(*ids(loader.batches(epoch)))) for epoch in range(10))) == set(range(19))


def test_all_rows_of_one_pool_are_current():
    assert all(batch.num_current is None for batch in shuffled().batches(0))


# -- two pools ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLANS.values(), ids=PLANS)
def test_pairs_are_the_published_ones(case):
    """Up to the order within a pass: each recorded row stands for one row of the shuffled pass, and always for it."""
    parts = (case["params"]["current_part"], case["params"]["memory_part"])
    loader = paired(len(case["in_current_ids"]), len(case["in_memory_ids"]), parts)
    batches, recorded = ids(loader.batches(0)), case["out_batches"].tolist()
    assert loader.num_batches == len(batches) == len(recorded)
    pairs = {pair for ours, theirs in zip(batches, recorded, strict=True) for pair in zip(ours, theirs, strict=True)}
    assert len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs}) == len(pairs)
    assert all((ours < 1000) == (theirs < 1000) for ours, theirs in pairs)


def test_the_current_rows_come_first():
    for batch in paired().batches(0):
        assert batch.num_current == 6
        assert (batch.labels < 1000).tolist() == [True] * 6 + [False] * 2


# Exemplars after each task of Split CIFAR-100 or ImageNet-100, 10 classes per task. Of their images 4500 or 11700 per
# task are trained on.
MEMORY_SIZES = (2000, 2000, 2010, 2000, 2000, 2040, 2030, 2000, 2070)


@pytest.mark.parametrize(
    ("num_current", "copies", "drop_last", "num_steps"),
    [
        (4500, 0, False, [124, 124, 124, 124, 124, 126, 125, 124, 128]),
        (4500, 1, False, [135, 135, 134, 135, 135, 135, 135, 135, 135]),
        (4500, 1, True, [135, 135, 135, 135, 135, 136, 136, 135, 136]),
        (4500, 2, True, [177, 177, 177, 177, 177, 178, 178, 177, 180]),
        (11700, 0, False, [243, 243, 242, 243, 243, 242, 242, 243, 242]),
        (11700, 1, False, [285, 285, 283, 285, 285, 284, 284, 285, 284]),
        (11700, 1, True, [285, 285, 285, 285, 285, 286, 286, 285, 286]),
        (11700, 2, True, [327, 327, 327, 327, 327, 328, 328, 327, 330]),
    ],
)
def test_steps_per_epoch_are_those_of_the_offline_study(num_current, copies, drop_last, num_steps):
    """FT and SS-IL, LUCIR, both stages of EEIL; `copies`: how many times the exemplars are among the current rows."""
    loaders = [paired(num_current + copies * size, size, (48, 16), drop_last=drop_last) for size in MEMORY_SIZES]
    assert [loader.num_batches for loader in loaders] == num_steps


def passes(batches, is_current, num_batches):
    """The batches of one part, cut into its passes."""
    part = [
        [
            each
            for each in zip(batch.labels.tolist(), batch.images.flatten(1).tolist(), strict=True)
            if (each[0] < 1000) == is_current
        ]
        for batch in batches
    ]
    return [part[first : first + num_batches] for first in range(0, len(part), num_batches)]


@pytest.mark.parametrize(("sizes", "is_current"), [((48, 4), False), ((12, 16), True)])
def test_a_replayed_pass_repeats_rows_and_augmentation(sizes, is_current):
    epoch = list(paired(*sizes).batches(0))
    assert len(epoch) == 8
    first, *others = passes(epoch, is_current, 2)
    assert len(others) == 3
    assert all(other == first for other in others)
    assert passes(paired(*sizes).batches(1), is_current, 2)[0] != first


@pytest.mark.parametrize(("sizes", "is_current"), [((48, 4), False), ((12, 16), True)])
def test_a_reshuffled_pass_has_an_order_and_augmentation_of_its_own(sizes, is_current):
    found = passes(paired(*sizes, cycle="reshuffle").batches(0), is_current, 2)
    rows = [[label for batch in each for label, _ in batch] for each in found]
    assert all(sorted(each) == sorted(rows[0]) for each in rows)
    assert len({str(each) for each in rows}) == 4
    images = [str(image) for each in found for batch in each for _, image in batch]
    assert len(set(images)) == len(images)


def test_both_cycles_begin_with_the_same_pass():
    replay, reshuffle = (list(paired(48, 4, cycle=cycle).batches(0)) for cycle in CYCLES)
    assert_same(replay[:2], reshuffle[:2])


def test_parts_of_the_same_pool_have_draws_of_their_own():
    pool = pool_of(range(24))
    epoch = list(Paired(pool, pool, 4, 4, Noise(), seed=0, purpose=(), cycle="replay").batches(0))
    assert len(epoch) == 6
    for batch in epoch:
        assert batch.labels[:4].tolist() != batch.labels[4:].tolist()
        assert not torch.equal((batch.images - batch.raw)[:4], (batch.images - batch.raw)[4:])


def test_memory_rows_among_the_current_ones_keep_their_task():
    task, memory = pool_of(range(24), task=3), pool_of(range(1000, 1012), task=1)
    union = UnionPool([memory, task, memory])
    loader = Paired(union, memory, 6, 2, Noise(), seed=0, purpose=(), cycle="replay")
    parts = [torch.stack((batch.labels, batch.tasks), dim=1)[:6].tolist() for batch in loader.batches(0)]
    current = [tuple(pair) for part in parts for pair in part]
    assert sorted(current) == sorted([(row, 3) for row in range(24)] + 2 * [(row, 1) for row in range(1000, 1012)])


@pytest.mark.parametrize("cycle", CYCLES)
def test_only_full_pairs_come(cycle):
    for sizes in itertools.product((6, 7, 13, 20), (2, 3, 9, 20)):
        for drop_last in (False, True):
            loader = paired(*sizes, cycle=cycle, drop_last=drop_last)
            epoch = list(loader.batches(0))
            assert len(epoch) == loader.num_batches >= 1
            assert all(len(set(batch.labels.tolist())) == len(batch) == 8 for batch in epoch)


def test_an_unknown_cycle_is_refused():
    with pytest.raises(UserError, match="--ratio_cycle 'again'"):
        paired(cycle="again")


# -- loaders of stages -------------------------------------------------------------------------------------------------

SIZE = 20  # images of a task


def numbered(start, number, task, **more):
    raw = torch.arange(start, start + number, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return TensorPool(raw, torch.full((number,), task), torch.full((number,), task), **more)


def union(pools):
    return pools[0] if len(pools) == 1 else UnionPool(pools)


class Stream:
    def pool(self, tasks, split="train"):
        return union([numbered(SIZE * task, SIZE, task) for task in tasks])

    def order(self, tasks, epoch):
        return torch.arange(SIZE * len(tasks))


def loaders(batch_size=8, num_exemplars=6):
    memory = SimpleNamespace(pool=lambda: numbered(200, num_exemplars, 0, is_memory=True))
    return Loaders(Stream(), memory, Unchanged(), batch_size, seed=3)


def images_of(loader, epoch=0):
    return [batch.raw[:, 0, 0, 0].tolist() for batch in loader.batches(epoch)]


def flattened(batches):
    return [row for rows in batches for row in rows]


@pytest.mark.parametrize(
    ("data", "num_images"),
    [
        (TaskStream((1,)), SIZE),
        (Plain(Rows((1,), exemplars=1), drop_last=False), SIZE),
        (Plain(Rows((1,), exemplars=1, balanced=True), drop_last=False), 6),
        (Plain(Rows(exemplars=1), drop_last=False), 0),
        (Pairs(Rows((1,)), Rows(exemplars=1), ratio=3), SIZE - 2),  # in full parts of 6
    ],
)
def test_exemplars_do_not_count_as_images_of_the_stream(data, num_images):
    assert sum(draft.num_images for draft in loaders().of(data, (1, 0)).drafts(0)) == num_images


def test_exemplars_among_the_current_rows_do_not_count_as_images_of_the_stream():
    loader = loaders(num_exemplars=4).of(Pairs(Rows((1,), exemplars=2), Rows(exemplars=1), ratio=1), (1, 0))
    assert sum(draft.num_images for draft in loader.drafts(0)) == SIZE
    assert sum(draft.num_current for draft in loader.drafts(0)) == SIZE + 2 * 4


def test_the_stream_keeps_its_short_last_batch():
    loader = loaders().of(TaskStream((1,)), (1, 0))
    assert [len(rows) for rows in images_of(loader)] == [8, 8, 4]
    assert loader.num_batches == 3


def test_an_epoch_of_the_stream_that_is_cut_short_leaves_out_batches_evenly():
    loader = loaders(batch_size=3).of(TaskStream((1,)), (1, 0))
    whole = images_of(loader)
    for number, places in ((7, range(7)), (6, range(6)), (4, (0, 1, 3, 5)), (2, (0, 3)), (1, (0,))):
        cut = [draft.batch().raw[:, 0, 0, 0].tolist() for draft in loader.drafts(0, number=number)]
        assert cut == [whole[place] for place in places]
    again = [draft.batch().raw[:, 0, 0, 0].tolist() for draft in loader.drafts(0, start=2, number=4)]
    assert again == [whole[3], whole[5]]


def test_a_shuffled_epoch_that_is_cut_short_has_its_first_batches():
    loader = loaders().of(Plain(Rows((1,), exemplars=1)), (1, 0))
    assert [len(draft) for draft in loader.drafts(0, number=2)] == [8, 8]


def test_plain_batches_are_full_and_take_each_row_at_most_once():
    loader = loaders().of(Plain(Rows((1,), exemplars=1)), (1, 0))
    rows = images_of(loader)
    assert [len(each) for each in rows] == [8, 8, 8]
    found = flattened(rows)
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
    found = flattened(images_of(loader))
    assert len(found) == 32
    assert all(found.count(row) == 2 for row in range(200, 206))


def test_balanced_takes_as_many_of_the_task_as_there_are_exemplars():
    loader = loaders(batch_size=4).of(Plain(Rows((1,), exemplars=1, balanced=True)), (1, 1))
    epochs = [flattened(images_of(loader, epoch)) for epoch in range(2)]
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
    alone = Loaders(Stream(), None, Unchanged(), 8, seed=3)
    assert alone.of(Plain(Rows((0, 1))), (1, 0)).num_batches == 5


# -- every method ------------------------------------------------------------------------------------------------------

_REQUIRED = {
    "der": "--alpha 0.1",
    "derpp": "--alpha 0.1 --beta 0.1",
    "podnet": "--second_epochs 2 --second_lr 0.1 --podnet_lambda_f 1 --podnet_lambda_c 1",
    "afc": "--second_epochs 2 --second_lr 0.1 --afc_lambda 1",
}


@pytest.mark.parametrize("batch_size", [4, 8, 20])
@pytest.mark.parametrize("name", METHODS.names())
def test_batches_of_every_stage_are_those_that_were_counted(name, batch_size):
    method = METHODS.get(name)
    words = f"--model {name} --dataset seq-digits --lr 0.1 --batch_size {batch_size} {_REQUIRED.get(name, '')}"
    config = configure([*words.split(), *(["--buffer_size", "33"] if method.uses_memory else [])])
    sizes = StreamSizes((30, 25, 31, 7, 28, 27, 30), (range(2), range(2, 3), range(3, 7)))
    quota = config.values.get("quota", "ceil")
    memory = ExemplarMemory(33, selection="random", quota=quota, reherd=True, num_classes=7, device="cpu", seed=0)
    made, num_chosen = Loaders(SizedStream(sizes), memory, Unchanged(), batch_size, seed=0), 0
    for task, stages in enumerate(count_stages(config, sizes)):
        for number, counted in enumerate(stages):
            num_choices = task + counted.stage.chooses_exemplars
            while num_choices > num_chosen:  # tasks whose exemplars are in memory
                memory.update(None, made.stream.pool((num_chosen,)), sizes.classes_of_task(num_chosen).stop)
                num_chosen += 1
            if num_choices == num_chosen:  # AFC's last stage goes back to the exemplars of its first
                batches = list(made.of(counted.stage.data, (task, number)).batches(0))
                assert (len(batches), len(batches[-1])) == (counted.num_batches, counted.last_batch)


class SizedStream:
    """Images without pixels, as many as the sizes say."""

    def __init__(self, sizes):
        self.sizes = sizes

    def pool(self, tasks, split="train"):
        return union([self._task(task) for task in tasks])

    def _task(self, task):
        classes = self.sizes.classes_of_task(task)
        numbers = torch.tensor([self.sizes.class_sizes[label] for label in classes])
        labels = torch.arange(classes.start, classes.stop).repeat_interleave(numbers)
        return TensorPool(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels, torch.full_like(labels, task))

    def order(self, tasks, epoch):
        return torch.arange(len(self.pool(tasks)))
