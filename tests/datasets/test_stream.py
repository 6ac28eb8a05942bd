from collections import Counter

import numpy as np
import pytest
import torch

from datasets.arrays import Arrays
from datasets.stream import Stream, class_order
from datasets.streams.split import Split
from tests.datasets.small import small_arrays
from tests.golden import cases
from utils.data.held_out import hold_out
from utils.errors import UserError

ORDERS = cases("losses/orders.npz")


# -- class order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ORDERS if name.startswith("online")])
def test_online_order_is_the_recorded_one(name):
    recorded = ORDERS[name]["out_new_label"]
    ours = class_order("online", len(recorded), ORDERS[name]["params"]["seed"])
    np.testing.assert_array_equal(ours, recorded)
    assert ours.dtype == np.int64


@pytest.mark.parametrize("rule", ["offline", "seeded"])
@pytest.mark.parametrize("name", [name for name in ORDERS if name.startswith("offline")])
def test_offline_order_is_the_recorded_one(name, rule):
    class_at_position = ORDERS[name]["out_class_at_position"]
    label_of_class = class_order(rule, len(class_at_position), ORDERS[name]["params"]["seed"])
    np.testing.assert_array_equal(label_of_class[class_at_position], np.arange(len(class_at_position)))
    assert label_of_class.dtype == np.int64


@pytest.mark.parametrize("name", [name for name in ORDERS if name.startswith("offline")])
def test_held_out_images_are_the_recorded_ones(name):
    """Recorded on ten items per class, stored class by class."""
    case = ORDERS[name]
    num_classes, seed = len(case["out_class_at_position"]), case["params"]["seed"]
    label_of_class = class_order("offline", num_classes, seed)
    is_held_out = hold_out(label_of_class[np.repeat(np.arange(num_classes), 10)], 0.1, seed)
    assert sorted(np.flatnonzero(is_held_out)) == sorted(case["out_validation"])


def test_classes_keep_their_labels_by_identity():
    np.testing.assert_array_equal(class_order("identity", 7, seed=3), np.arange(7))


def test_typed_list_gives_the_class_at_each_position():
    np.testing.assert_array_equal(class_order("3,1, 0,2", 4, seed=0), [2, 1, 3, 0])


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("icarl", [87, 0, 52, 58, 44, 91, 68, 97, 51, 15], 39), ("imagenet100", [68, 56, 78, 8, 23, 84, 90, 65], 33)],
)
def test_named_order_is_a_permutation_of_a_hundred_classes(name, first, last):
    label_of_class = class_order(name, 100, seed=5)
    assert sorted(label_of_class) == list(range(100))
    class_at_position = np.argsort(label_of_class)
    assert class_at_position[: len(first)].tolist() == first
    assert class_at_position[-1] == last
    with pytest.raises(UserError, match=f"--class_order {name} is an order of 100 classes"):
        class_order(name, 10, seed=0)


def test_imagenet_order_is_the_shuffle_that_it_was_made_by():
    """Of the legacy generator with seed 1993, as in the studies that share it."""
    order = list(range(100))
    np.random.RandomState(1993).shuffle(order)
    np.testing.assert_array_equal(np.argsort(class_order("imagenet100", 100, seed=0)), order)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("icral", "unknown --class_order 'icral'.*icarl"),
        ("", "unknown --class_order"),
        ("1,,2", "unknown --class_order"),
        ("0,1,2,4", "names class 4; the classes are 0 to 3"),
        ("0,1,2,-1", "names class -1"),
        ("0,1,2", "lacks class 3"),
        ("0,1,2,2", "names class 2 more than once"),
        ("0,1,2,3,0", "names class 0 more than once"),
    ],
)
def test_bad_order_is_refused(rule, words):
    with pytest.raises(UserError, match=words) as caught:
        class_order(rule, 4, seed=0)
    assert "--class_order" in str(caught.value)


# -- stream ----------------------------------------------------------------------------------------------------------


def make_stream(*, seed=0, validation=0.0, rule="3,1,0,2", num_tasks=2, arrays=None):
    arrays = arrays or small_arrays(num_train=44)
    return Stream(
        arrays,
        arrangement=Split(n_tasks=num_tasks),
        label_of_class=class_order(rule, 4, seed),
        validation=validation,
        seed=seed,
        device="cpu",
    )


def keys(images, labels):
    """Images with their labels, comparable between a stream [N, C, H, W] and arrays [N, H, W, C]."""
    return Counter((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def keys_of_arrays(images, labels, stream_labels, wanted):
    new = np.asarray(stream_labels)[labels]
    rows = np.isin(new, list(wanted))
    channels_first = np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
    return keys(torch.from_numpy(channels_first), new[rows])


def epoch_of(stream, tasks, epoch=0):
    """Images, labels and tasks in the order of an epoch."""
    return stream.pool(tasks).take(stream.order(tasks, epoch))


def test_shapes_and_tasks():
    stream = make_stream()
    assert (stream.num_tasks, stream.num_classes, stream.image_shape) == (2, 4, (3, 32, 32))
    assert [stream.classes_of_task(task) for task in range(2)] == [range(0, 2), range(2, 4)]
    assert stream.task_of_class.tolist() == [0, 0, 1, 1]
    assert stream.task_of_class.dtype == torch.int64


def test_classes_that_do_not_split_evenly_make_unequal_tasks():
    stream = make_stream(num_tasks=3)
    assert stream.task_sizes == (2, 1, 1)
    assert [stream.classes_of_task(task) for task in range(3)] == [range(0, 2), range(2, 3), range(3, 4)]
    assert stream.task_of_class.tolist() == [0, 0, 1, 2]
    for task in range(3):
        for split in ("train", "test"):
            assert set(stream.pool((task,), split).labels.tolist()) == set(stream.classes_of_task(task))


@pytest.mark.parametrize("tasks", [(0,), (1,), (0, 1)])
def test_every_training_image_comes_once_per_epoch(tasks):
    arrays, stream = small_arrays(num_train=44), make_stream()
    images, labels, row_tasks = epoch_of(stream, tasks)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.dtype == row_tasks.dtype == torch.int64
    assert torch.equal(row_tasks, stream.task_of_class[labels])
    wanted = {label for task in tasks for label in stream.classes_of_task(task)}
    assert keys(images, labels) == keys_of_arrays(arrays.train_x, arrays.train_y, [2, 1, 3, 0], wanted)


def test_order_depends_on_seed_tasks_and_epoch_and_on_nothing_else():
    def order(seed=0, tasks=(0,), epoch=0):
        stream = make_stream(seed=seed, rule="identity")
        return epoch_of(stream, tasks, epoch)[0]

    first = order()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(order(), first)
    for other in (order(seed=1), order(epoch=1), order(tasks=(1,))):
        assert not torch.equal(other, first)


def test_tasks_are_shuffled_each_in_its_own_way():
    stream = make_stream()
    patterns = [epoch_of(stream, (task,))[1] - stream.classes_of_task(task).start for task in range(2)]
    assert len(patterns[0]) == len(patterns[1])
    assert not torch.equal(*patterns)


def test_training_order_mixes_the_classes():
    labels = epoch_of(make_stream(), (0, 1))[1]
    assert not torch.equal(labels, labels.sort().values)


def test_test_split_holds_the_test_images_of_the_task():
    arrays, stream = small_arrays(num_train=44), make_stream()
    for task in range(2):
        images, labels = stream.pool((task,), "test").everything()
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        wanted = stream.classes_of_task(task)
        assert keys(images, labels) == keys_of_arrays(arrays.test_x, arrays.test_y, [2, 1, 3, 0], wanted)


def test_held_out_part_replaces_the_test_set_and_is_never_trained_on():
    arrays, stream = small_arrays(num_train=44), make_stream(validation=0.2, seed=3)
    trained = keys(*epoch_of(stream, (0, 1))[:2])
    evaluated = sum((keys(*stream.pool((task,), "test").everything()) for task in range(2)), Counter())
    assert not trained & evaluated
    assert trained + evaluated == keys_of_arrays(arrays.train_x, arrays.train_y, [2, 1, 3, 0], range(4))
    assert Counter(label for _, label in evaluated.elements()) == dict.fromkeys(range(4), 2)


@pytest.mark.parametrize("seed", range(5))
def test_stream_holds_out_the_recorded_images(seed):
    """Ten images per class, stored class by class, each image of one colour: its own number."""
    case = ORDERS[f"offline_10classes_1tasks_seed{seed}"]
    numbers = np.arange(100)
    images = np.broadcast_to(numbers[:, None, None, None], (100, 2, 2, 3)).astype(np.uint8)
    labels, names = numbers // 10, tuple("0123456789")
    arrays = Arrays(images, labels, images, labels, names, (0.5,) * 3, (0.5,) * 3)
    order = class_order("offline", 10, seed)
    stream = Stream(arrays, arrangement=Split(n_tasks=5), label_of_class=order, validation=0.1, seed=seed, device="cpu")
    held_out = torch.cat([stream.pool((task,), "test").everything()[0][:, 0, 0, 0] for task in range(5)])
    assert held_out.sort().values.tolist() == sorted(case["out_validation"].tolist())


def test_stream_owns_its_images():
    arrays = small_arrays(num_train=44)
    stream = make_stream(arrays=arrays)
    before = epoch_of(stream, (0, 1))[0]
    arrays.train_x[:] = 0
    arrays.release()
    assert torch.equal(epoch_of(stream, (0, 1))[0], before)


def test_data_of_many_chunks_stays_in_order(monkeypatch):
    whole = make_stream()
    monkeypatch.setattr("datasets.arrays._CHUNK_BYTES", 3 * 32 * 32 * 3)
    chunked = make_stream()
    for ours, theirs in ((chunked.pool((1,), "test").everything(), whole.pool((1,), "test").everything()),):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    pairs = zip(epoch_of(chunked, (0, 1)), epoch_of(whole, (0, 1)), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
