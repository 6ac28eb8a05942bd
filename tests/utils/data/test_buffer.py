"""Memories keep their exact laws, whatever the batches, and continue exactly."""

import io
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tests.golden import cases
from tests.utils.data.augment_rig import Noise, Unchanged
from utils.data.batch import Batch
from utils.data.buffer import BUFFER_MODES, draw_without_replacement, make_memory
from utils.errors import UserError

MODES = tuple(BUFFER_MODES)
BALANCED_MODES = ("reservoir_balanced", "class_balanced")
RING_CASES = cases("losses/memory.npz", "ring_")
RESERVOIR_CASES = cases("losses/memory.npz", "reservoir_")


def as_float(raw):
    return raw.float() / 255


def memory_of(mode, capacity, num_tasks=1, seed=0, augmentation=None):
    augmentation = augmentation or Unchanged(as_float)
    return make_memory(mode, capacity, num_tasks=num_tasks, device="cpu", augmentation=augmentation, seed=seed)


def image_of(items):
    """A different image for every item: its number in three base-256 digits."""
    digits = torch.stack([items // 256**place % 256 for place in range(3)], dim=1)
    return digits.to(torch.uint8).view(-1, 3, 1, 1).expand(-1, 3, 2, 2).contiguous()


def batch_of(items, tasks, labels=None, device="cpu"):
    """Items as rows of the stream, each its own label unless others are given."""
    labels = items if labels is None else labels
    raw = image_of(items).to(device)
    return Batch(raw, labels.to(device), raw, tasks, host_labels=labels)


def offer(memory, items, task=0, **extras):
    """Insert items, each its own label."""
    items = torch.as_tensor(items)
    memory.insert(batch_of(items, torch.as_tensor(task).expand(len(items))), **extras)


def labels_by_slot(memory):
    """The stored labels, -1 where nothing is stored."""
    state = memory.state_dict()
    return torch.where(state["tasks"] >= 0, state["labels"], -1).tolist()


def stored_labels(memory):
    return sorted(label for label in labels_by_slot(memory) if label >= 0)


def assert_uniform(counts, level=1e-3):
    assert chisquare(counts).pvalue > level


# -- the interface of all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_rows_stay_together(mode):
    """Rows of two tasks in every batch, some of them discarded or overwritten within the batch."""
    memory = memory_of(mode, 20, num_tasks=2)
    for start in range(0, 120, 24):
        items = torch.arange(start, start + 24)
        offer(memory, items, task=items // 3 % 2, logits=items[:, None] * torch.tensor([1.0, -1.0]), row=items)
    batch = memory.draw(20)
    assert len(batch) == 20
    assert len(set(batch.labels.tolist())) == 20
    assert torch.equal(batch.raw, image_of(batch.labels))
    assert torch.equal(batch.images, as_float(batch.raw))
    assert torch.equal(batch.tasks, batch.labels // 3 % 2)
    assert torch.equal(batch.extras["logits"], batch.labels[:, None] * torch.tensor([1.0, -1.0]))
    assert torch.equal(batch.extras["row"], batch.labels)


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_memory_gives_nothing_and_a_small_one_all_it_has(mode):
    memory = memory_of(mode, 10)
    assert memory.draw(4) is None
    assert len(memory) == 0
    offer(memory, range(3))
    assert (len(memory), memory.num_seen) == (3, 3)
    assert sorted(memory.draw(7).labels.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_copied_in_and_out_without_their_graph(mode):
    memory = memory_of(mode, 5)
    logits = torch.zeros(5, 2, requires_grad=True)
    offer(memory, range(5), logits=logits * 2)
    with torch.no_grad():
        logits.fill_(9)
    memory.draw(5).raw.zero_()
    batch = memory.draw(5)
    assert torch.equal(batch.raw, image_of(batch.labels))
    assert not batch.extras["logits"].requires_grad
    assert batch.extras["logits"].abs().max() == 0


def test_every_draw_is_augmented_anew():
    memory = memory_of("reservoir", 1, augmentation=Noise())
    offer(memory, [7])
    first, second = memory.draw(1), memory.draw(1)
    assert not torch.equal(first.images, second.images)
    assert torch.equal(first.raw, second.raw)


@pytest.mark.parametrize("mode", MODES)
def test_images_take_one_byte_per_value(mode):
    memory = memory_of(mode, 40, num_tasks=2)
    assert memory.state_dict()["rows"] == {}, "nothing is allocated before the shape of the images is known"
    raw, zero = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0])
    memory.insert(replace(batch_of(zero, zero), raw=raw))
    assert memory.state_dict()["rows"]["raw"].untyped_storage().nbytes() == (40 + 1) * 3 * 8 * 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("capacity", [0, -3])
def test_no_room_is_the_users_mistake(mode, capacity):
    with pytest.raises(UserError, match="--buffer_size"):
        memory_of(mode, capacity)


def test_a_ring_needs_a_slot_per_task():
    with pytest.raises(UserError, match=r"--buffer_size 4 .* at least 5"):
        memory_of("ring", 4, num_tasks=5)
    assert memory_of("ring", 5, num_tasks=5).capacity == 5
    assert memory_of("reservoir", 4, num_tasks=5).capacity == 4


def test_an_unknown_mode_is_named():
    with pytest.raises(UserError, match="--buffer_mode 'queue'"):
        memory_of("queue", 4)


def test_rows_that_do_not_fit_are_refused():
    memory = memory_of("ring", 4, num_tasks=2)
    batch = batch_of(torch.arange(2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="uint8"):
        memory.insert(replace(batch, raw=batch.raw.float()))
    with pytest.raises(ValueError, match="different numbers"):
        memory.insert(replace(batch, tasks=batch.tasks[:1]))
    for name in ("tasks", "host_labels"):
        with pytest.raises(ValueError, match="host"):
            memory.insert(replace(batch, **{name: getattr(batch, name).to("meta")}))
    for task in (-1, 2):
        with pytest.raises(ValueError, match="ring of 2 tasks"):
            offer(memory, [0, 1], task=task)
    offer(memory, [0, 1], logits=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="logits"):
        offer(memory, [2, 3])
    assert memory.num_seen == 2


@pytest.mark.parametrize("mode", MODES)
def test_nothing_waits_for_the_device(mode):
    """Tensors on the meta device have no values, so that reading one fails."""
    memory = make_memory(mode, 6, num_tasks=2, device="meta", augmentation=Unchanged(as_float), seed=0)
    for task in (0, 0, 0, 1, 1):
        tasks = torch.full((4,), task)
        memory.insert(batch_of(torch.arange(4), tasks, tasks, device="meta"), logits=torch.zeros(4, 2, device="meta"))
    batch = memory.draw(6)
    assert {each.device.type for each in (batch.images, batch.raw, batch.labels, batch.extras["logits"])} == {"meta"}
    assert batch.tasks.device.type == "cpu"
    assert set(batch.tasks.tolist()) == {0, 1}


@pytest.mark.parametrize("mode", MODES)
def test_the_hosts_half_and_the_devices_are_a_draw_and_an_insertion(mode):
    """What the device does is the same for every batch, and needs nothing but the values that it is sent."""
    whole, halves = (memory_of(mode, 7, num_tasks=2, seed=5, augmentation=Noise()) for _ in range(2))
    first = None
    for start in range(0, 60, 6):
        items, tasks = torch.arange(start, start + 6), torch.full((6,), start // 30)
        draw, draft = whole.draw(4), halves.choose(4)
        if draft is not None:
            first = first or draft
            made = (first if len(first) == len(draft) else draft).make(draft.values)
            assert torch.equal(made.images, draw.images)
            assert torch.equal(made.labels, draw.labels)
            assert torch.equal(draft.tasks, draw.tasks)
        whole.insert(batch_of(items, tasks))
        places = halves.offer(tasks, items)
        assert places.shape == (6,)
        assert len(set(places.tolist())) == 6
        halves.write(places, raw=image_of(items))
        assert labels_by_slot(whole) == labels_by_slot(halves)
        assert torch.equal(whole.state_dict()["rows"]["raw"], halves.state_dict()["rows"]["raw"])


# -- batches and single rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(1,), (10,), (3, 1, 7), (64,), (0, 5)], ids=str)
def test_a_batch_is_the_same_as_its_rows_one_by_one(mode, sizes):
    """Collisions within a batch included: the capacity is smaller than some batches."""
    whole, single = (memory_of(mode, 7, num_tasks=3, seed=5) for _ in range(2))
    start = 0
    for task, size in itertools.product(range(3), list(sizes) * 6):
        items = torch.arange(start, start + size)
        offer(whole, items, task=task)
        for item in items.tolist():
            offer(single, [item], task=task)
        start += size
        assert labels_by_slot(whole) == labels_by_slot(single)
    # The order in which slots were filled and the generator agree too, so that the draws do.
    assert torch.equal(whole.draw(4).labels, single.draw(4).labels)


def test_rows_of_several_tasks_in_one_batch():
    memory = memory_of("ring", 4, num_tasks=2)
    offer(memory, range(6), task=torch.tensor([1, 0, 1, 0, 1, 1]))
    assert labels_by_slot(memory) == [-1, 3, 4, 5]


# -- continuing --------------------------------------------------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_before", [0, 3, 40])
def test_a_restored_memory_continues_exactly(mode, num_before):
    original, restored = memory_of(mode, 8, num_tasks=2, seed=1), memory_of(mode, 8, num_tasks=2, seed=2)
    if num_before:
        offer(original, range(num_before), logits=torch.rand(num_before, 4))
        original.draw(3)
    restored.load_state_dict(through_a_file(original.state_dict()))
    assert (len(restored), restored.num_seen) == (len(original), original.num_seen)
    for start in range(num_before, num_before + 30, 5):
        logits = torch.rand(5, 4)
        for memory in (original, restored):
            offer(memory, range(start, start + 5), task=1, logits=logits)
        first, second = original.draw(4), restored.draw(4)
        assert torch.equal(first.labels, second.labels)
        assert torch.equal(first.tasks, second.tasks)
        assert torch.equal(first.raw, second.raw)
        assert torch.equal(first.extras["logits"], second.extras["logits"])


def test_a_restored_memory_is_a_copy():
    original, restored = memory_of("reservoir", 4), memory_of("reservoir", 4)
    offer(original, range(4))
    restored.load_state_dict(original.state_dict())
    offer(original, range(4, 30), task=1)
    assert labels_by_slot(restored) == [0, 1, 2, 3]
    assert restored.num_seen == 4
    assert restored.draw(4).tasks.tolist() == [0, 0, 0, 0]


def test_a_state_of_another_capacity_is_refused():
    with pytest.raises(ValueError, match="5 slots does not fit 4"):
        memory_of("reservoir", 4).load_state_dict(memory_of("reservoir", 5).state_dict())


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_alone_decides(mode):
    def labels(seed):
        memory = memory_of(mode, 10, seed=seed)
        offer(memory, range(100))
        return memory.draw(10).labels.tolist()

    torch.manual_seed(0)
    first = labels(3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert labels(3) == first
    assert labels(4) != first
    assert torch.equal(torch.get_rng_state(), state)


# -- the law of the reservoir ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESERVOIR_CASES)
def test_reservoir_matches_the_published_program_where_chance_has_no_part(name):
    case = RESERVOIR_CASES[name]
    params = case["params"]
    memory = memory_of("reservoir", params["capacity"])
    for start in range(0, params["n"], params["batch"]):
        offer(memory, range(start, min(start + params["batch"], params["n"])))
        filling = min(memory.num_seen, params["capacity"])
        assert len(memory) == filling
        if memory.num_seen <= params["capacity"]:
            assert labels_by_slot(memory)[:filling] == list(range(filling))
            assert case["out_slot_of_item"][:filling].tolist() == list(range(filling))
    assert memory.num_seen == case["out_num_seen"]
    assert len(memory) == case["out_len"]
    if params["n"] <= params["capacity"]:
        assert labels_by_slot(memory)[: len(memory)] == case["out_labels"][: len(memory)].tolist()


def kept_by_reservoir(capacity, num_items, batch_size, seed):
    memory = memory_of("reservoir", capacity, seed=seed)
    for start in range(0, num_items, batch_size):
        offer(memory, range(start, min(start + batch_size, num_items)))
    return memory


def test_every_row_of_the_stream_is_kept_with_equal_probability():
    capacity, num_items, num_runs = 5, 40, 2000
    kept, drawn = Counter(), Counter()
    for seed in range(num_runs):
        memory = kept_by_reservoir(capacity, num_items, 8, seed)
        kept.update(stored_labels(memory))
        drawn.update(memory.draw(1).labels.tolist())
    share = capacity / num_items
    deviations = [abs(kept[item] - num_runs * share) for item in range(num_items)]
    assert max(deviations) < 4 * (num_runs * share * (1 - share)) ** 0.5
    assert_uniform([drawn[item] for item in range(num_items)])


def test_every_subset_of_the_stream_is_kept_with_equal_probability():
    subsets = Counter(tuple(stored_labels(kept_by_reservoir(2, 6, 4, seed))) for seed in range(3000))
    assert set(subsets) == set(itertools.combinations(range(6), 2))
    assert_uniform(list(subsets.values()))


def test_a_row_of_a_full_reservoir_goes_to_any_slot_or_none():
    capacity, num_items, num_runs = 4, 12, 3000
    slots = Counter()
    for seed in range(num_runs):
        labels = labels_by_slot(kept_by_reservoir(capacity, num_items, num_items, seed))
        slots[labels.index(num_items - 1) if num_items - 1 in labels else "none"] += 1
    observed = [slots[slot] for slot in (0, 1, 2, 3, "none")]
    assert chisquare(observed, [num_runs / num_items * weight for weight in (1, 1, 1, 1, 8)]).pvalue > 1e-3


# -- the balance of classes --------------------------------------------------------------------------------------------


def offer_classes(memory, labels, batch_size=10, first=0):
    """Insert rows of these classes, whose numbers in the stream their images show; gives the next number."""
    labels = torch.as_tensor(labels)
    items = torch.arange(first, first + len(labels))
    for some, classes in zip(items.split(batch_size), labels.split(batch_size), strict=True):
        memory.insert(batch_of(some, torch.zeros_like(some), classes))
    return first + len(labels)


def contents(memory):
    """The number in the stream and the class of the row in each filled slot."""
    state = memory.state_dict()
    items = (state["rows"]["raw"][:, :, 0, 0].long() * torch.tensor([1, 256, 256**2])).sum(1)
    return list(zip(items.tolist(), state["labels"].tolist(), strict=True))[: len(memory)]


def sizes(memory):
    return Counter(label for _, label in contents(memory))


def by_the_rule(mode, capacity, labels, random):
    """The memory after a stream, row by row as the papers have it."""
    kept = []
    for row, label in enumerate(labels):
        if len(kept) < capacity:
            kept.append((row, label))
            continue
        counts = Counter(each for _, each in kept)
        largest = [each for each, count in counts.items() if count == max(counts.values())]
        is_small = counts[label] < np.median(list(counts.values()))
        if mode == "class_balanced" and label in largest:
            continue
        if mode == "reservoir_balanced" and not is_small and random.integers(row + 1) >= capacity:
            continue
        replaced = random.choice(largest)
        victims = [place for place, (_, each) in enumerate(kept) if each == replaced]
        kept[victims[random.integers(len(victims))]] = (row, label)
    return kept


STREAM = [0] * 5 + [1, 0, 1, 2, 0, 2, 2, 1, 0, 3, 3, 2, 1, 0, 0]


@pytest.mark.parametrize("mode", BALANCED_MODES)
def test_contents_are_those_of_the_papers_rule(mode):
    """Each row of a stream is in memory as often as by a loop of its own, and so is each combination of sizes."""
    num_runs, random, capacity = 2000, np.random.default_rng(0), 6
    ours, theirs = Counter(), Counter()
    for seed in range(num_runs):
        memory = memory_of(mode, capacity, seed=seed)
        offer_classes(memory, STREAM, batch_size=len(STREAM))
        for counts, kept in ((ours, contents(memory)), (theirs, by_the_rule(mode, capacity, STREAM, random))):
            counts.update(row for row, _ in kept)
            counts[tuple(sorted(Counter(label for _, label in kept).items()))] += 1
    for what in ours.keys() | theirs.keys():
        share = (ours[what] + theirs[what]) / (2 * num_runs)
        assert abs(ours[what] - theirs[what]) <= 4 * (2 * num_runs * share * (1 - share)) ** 0.5, what


@pytest.mark.parametrize("mode", BALANCED_MODES)
def test_a_row_of_the_largest_class_gives_way_each_with_equal_probability(mode):
    """Of two classes that are the largest, while a third stays whole."""
    gone, num_runs = Counter(), 0
    for seed in range(2000):
        memory = memory_of(mode, 7, seed=seed)
        offer_classes(memory, [0, 1, 0, 1, 0, 1, 2, 3])
        left = {row for row, _ in contents(memory)}
        num_runs += 7 in left
        gone.update(set(range(7)) - left if 7 in left else ())
    assert set(gone) == set(range(6))
    assert_uniform([gone[row] for row in range(6)])
    assert num_runs == 2000, "a class of which there is nothing yet is kept"


@pytest.mark.parametrize("order", ["class after class", "shuffled", "tail last"])
@pytest.mark.parametrize("capacity", [50, 53])
def test_a_class_balanced_memory_is_as_balanced_as_can_be(order, capacity):
    labels = torch.arange(10).repeat_interleave(60)
    if order == "shuffled":
        labels = labels[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    memory = memory_of("class_balanced", capacity)
    first = offer_classes(memory, labels)
    assert set(sizes(memory).values()) <= {capacity // 10, -(-capacity // 10)}
    if order == "tail last":
        offer_classes(memory, [10, 10], first=first)
        assert sizes(memory)[10] == 2, "a rare class is kept whole"
        assert max(sizes(memory).values()) - min(sizes(memory)[label] for label in range(10)) <= 1


@pytest.mark.parametrize(("label", "share"), [(0, 4 / 12), (1, 4 / 12), (2, 1)])
def test_a_balanced_reservoir_takes_a_row_as_often_as_a_reservoir_but_for_small_classes(label, share):
    """Of classes that are not below the median, as 0 and 1 are not; there is nothing of 2."""
    kept, num_runs = 0, 2000
    for seed in range(num_runs):
        memory = memory_of("reservoir_balanced", 4, seed=seed)
        offer_classes(memory, [0, 0, 1, 1])
        memory.num_seen = 11
        offer_classes(memory, [label], first=11, batch_size=1)
        kept += 11 in dict(contents(memory))
    assert abs(kept - num_runs * share) <= 4 * (num_runs * share * (1 - share)) ** 0.5


def test_a_balanced_reservoir_is_uniform_within_a_class_of_which_rows_come_alike():
    kept, num_runs = Counter(), 2000
    for seed in range(num_runs):
        memory = memory_of("reservoir_balanced", 5, seed=seed)
        offer_classes(memory, [0] * 20, batch_size=20)
        kept.update(row for row, _ in contents(memory))
    assert max(abs(kept[row] - num_runs / 4) for row in range(20)) < 4 * (num_runs * 3 / 16) ** 0.5


@pytest.mark.parametrize("mode", BALANCED_MODES)
def test_a_restored_balance_continues_exactly(mode):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (400,), generator=random) ** 2
    original, restored = memory_of(mode, 30, seed=1), memory_of(mode, 30, seed=2)
    first = offer_classes(original, labels[:200])
    restored.load_state_dict(through_a_file(original.state_dict()))
    for memory in (original, restored):
        offer_classes(memory, labels[200:], first=first)
    assert contents(original) == contents(restored)


@pytest.mark.parametrize("mode", BALANCED_MODES)
def test_a_memory_smaller_than_the_number_of_classes(mode):
    memory = memory_of(mode, 2)
    offer_classes(memory, list(range(9)) * 3, batch_size=4)
    assert len(memory) == len(sizes(memory)) == 2


# -- the ring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RING_CASES)
@pytest.mark.parametrize("batch_size", [None, 1])
def test_ring_has_the_published_contents(name, batch_size):
    case = RING_CASES[name]
    params = case["params"]
    memory = memory_of("ring", params["capacity"], num_tasks=params["n_tasks"])
    populated = []
    for task in range(params["n_tasks"]):
        end = (task + 1) * params["per_task"]
        for start in range(task * params["per_task"], end, batch_size or params["batch"]):
            offer(memory, range(start, min(start + (batch_size or params["batch"]), end)), task=task)
            populated.append(len(memory))
        assert labels_by_slot(memory) == case["out_labels_after_task"][task].tolist()
    if batch_size is None:
        assert populated == case["out_populated"].tolist()


@pytest.mark.parametrize("lengths", [(3, 20, 1, 9), (20, 1, 1, 1), (5, 5, 5, 5)], ids=str)
def test_ring_keeps_the_last_rows_of_each_task_however_long_it_is(lengths):
    memory, portion = memory_of("ring", 23, num_tasks=4), 5
    kept, start = [], 0
    for task, length in enumerate(lengths):
        offer(memory, range(start, start + length), task=task)
        start += length
        kept += range(max(start - portion, start - length), start)
        assert len(memory) == len(kept)
        assert sorted(memory.draw(23).labels.tolist()) == kept


def test_a_ring_with_gaps_draws_its_filled_slots_uniformly():
    memory = memory_of("ring", 30, num_tasks=3)
    for task in range(3):
        offer(memory, range(7 * task, 7 * task + 7), task=task)
    drawn = Counter(itertools.chain.from_iterable(memory.draw(4).labels.tolist() for _ in range(4000)))
    assert set(drawn) == set(range(21))
    assert_uniform([drawn[item] for item in range(21)])


# -- drawing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_draws_are_uniform_over_ordered_pairs(mode):
    memory = memory_of(mode, 6)
    offer(memory, range(6))
    pairs = Counter(tuple(memory.draw(2).labels.tolist()) for _ in range(6000))
    assert set(pairs) == set(itertools.permutations(range(6), 2))
    assert_uniform(list(pairs.values()))


def test_every_choice_of_integers_gives_another_draw():
    """All 5·4·3 remainders give all ordered choices of 3 of 5: the law is exact, not merely close."""
    draws = {tuple(draw_without_replacement(5, choice)) for choice in itertools.product(range(5), range(4), range(3))}
    assert draws == set(itertools.permutations(range(5), 3))


def test_successive_draws_are_independent():
    memory = memory_of("reservoir", 5)
    offer(memory, range(5))
    pairs = Counter((memory.draw(1).labels.item(), memory.draw(1).labels.item()) for _ in range(5000))
    assert len(pairs) == 25
    assert_uniform(list(pairs.values()))


@pytest.mark.parametrize("mode", ["reservoir", *BALANCED_MODES])
def test_generator_is_consumed_as_documented(mode):
    """One integer per row offered to a full memory and one per drawn row, none otherwise."""
    memory = memory_of(mode, 4)
    before = memory.state_dict()["generator"]
    offer(memory, range(4))
    assert torch.equal(memory.state_dict()["generator"], before)
    offer(memory, range(4, 9))
    memory.draw(3)
    reference = torch.Generator()
    reference.set_state(before)
    torch.empty(8, dtype=torch.int64).random_(generator=reference)
    assert torch.equal(memory.state_dict()["generator"], reference.get_state())
