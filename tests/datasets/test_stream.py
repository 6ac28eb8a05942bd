from collections import Counter

import numpy as np
import pytest
import torch

from datasets.arrays import Arrays
from datasets.stream import Stream
from datasets.streams.split import Split
from tests.datasets.small import small_arrays
from tests.golden import cases
from utils.data.class_order import class_order


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
    case = cases("losses/orders.npz")[f"offline_10classes_1tasks_seed{seed}"]
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
