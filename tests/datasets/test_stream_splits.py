"""Splits and pools of a stream, and images that stay on disk."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from datasets.arrays import Arrays
from datasets.stream import Stream, stay_on_disk
from datasets.streams.split import Split
from tests.datasets.small import small_arrays
from tests.golden import cases
from utils.data.class_order import class_order
from utils.data.exemplars import ExemplarMemory
from utils.data.pools import DiskPool, UnionPool
from utils.errors import UserError

ORDERS = cases("losses/orders.npz")
SHARES = {"validation": 0.2, "held_out": 0.25}


def make_stream(arrays=None, **more):
    arrays = arrays or small_arrays(num_train=80)
    return Stream(
        arrays,
        **{"arrangement": Split(n_tasks=2), "label_of_class": class_order("3,1,0,2", 4, 0)}
        | {"seed": 3, "device": "cpu"}
        | more,
    )


def keys(pool):
    """The images of a pool with their labels and tasks."""
    images, labels, tasks = pool.take(torch.arange(len(pool)))
    assert torch.equal(labels, pool.labels)
    assert torch.equal(tasks, pool.tasks)
    rows = zip(images, labels.tolist(), tasks.tolist(), strict=True)
    return Counter((image.numpy().tobytes(), label, task) for image, label, task in rows)


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("seed", range(5))
def test_held_out_images_are_the_recorded_ones(num_classes, seed):
    """Ten images per class, stored class by class, each image of a colour of its own."""
    case = ORDERS[f"offline_{num_classes}classes_{num_classes // 10 if num_classes > 10 else 1}tasks_seed{seed}"]
    numbers = np.arange(10 * num_classes)
    colours = np.stack([numbers % 256, numbers // 256, numbers * 0], axis=1).astype(np.uint8)
    images = np.broadcast_to(colours[:, None, None], (len(numbers), 1, 1, 3))
    labels, names = numbers // 10, tuple(map(str, range(num_classes)))
    arrays = Arrays(images, labels, images[::10], labels[::10], names, (0.5,) * 3, (0.5,) * 3)
    order = class_order("offline", num_classes, seed)
    stream = make_stream(arrays, arrangement=Split(n_tasks=5), label_of_class=order, held_out=0.1, seed=seed)
    held_out, trained = (
        torch.cat([stream.pool((task,), split).everything()[0] for task in range(5)])[:, :2, 0, 0].to(torch.int64)
        for split in ("validation", "train")
    )
    recorded = sorted(case["out_validation"].tolist())
    assert (held_out[:, 0] + 256 * held_out[:, 1]).sort().values.tolist() == recorded
    assert (trained[:, 0] + 256 * trained[:, 1]).sort().values.tolist() == sorted(set(numbers.tolist()) - set(recorded))


def test_splits_share_no_image_and_miss_none():
    whole, parted = make_stream(), make_stream(held_out=0.25)
    tasks = (0, 1)
    train, validation = (keys(parted.pool(tasks, split)) for split in ("train", "validation"))
    assert not train & validation
    assert train + validation == keys(whole.pool(tasks))
    assert Counter(label for _, label, _ in validation.elements()) == dict.fromkeys(range(4), 5)
    assert keys(parted.pool(tasks, "test")) == keys(whole.pool(tasks, "test"))


def test_share_that_replaces_the_test_set_is_drawn_first():
    both, alone = make_stream(**SHARES), make_stream(validation=SHARES["validation"])
    tasks = (0, 1)
    assert keys(both.pool(tasks, "test")) == keys(alone.pool(tasks, "test"))
    train, validation = (keys(both.pool(tasks, split)) for split in ("train", "validation"))
    assert train + validation == keys(alone.pool(tasks))
    assert Counter(label for _, label, _ in validation.elements()) == dict.fromkeys(range(4), 4)


def test_batches_are_of_the_training_split():
    stream = make_stream(held_out=0.25)
    images = stream.pool((1,)).take(stream.order((1,), 0))[0]
    trained = Counter(image.numpy().tobytes() for image in images)
    assert trained == Counter(image for image, _, _ in keys(stream.pool((1,))).elements())


def test_pool_of_tasks_comes_task_after_task_and_label_after_label():
    stream = make_stream(held_out=0.25)
    assert stream.pool((1,)).labels.tolist() == [2] * 15 + [3] * 15
    assert stream.pool((1, 0), "test").tasks.tolist() == [1] * 6 + [0] * 6


@pytest.mark.parametrize("tasks", [(0, 1, 2, 3), range(1, 3), (2, 3, 0), (1, 0, 3, 2), (2, 2), (0, 1, 1, 2)])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_pool_of_several_tasks_is_the_union_of_theirs(tasks, split):
    stream = make_stream(arrangement=Split(n_tasks=4), held_out=0.25)
    pool, union = stream.pool(tasks, split), UnionPool([stream.pool((task,), split) for task in tasks])
    rows = torch.randperm(len(union), generator=torch.Generator().manual_seed(0))
    assert len(pool) == len(union)
    assert torch.equal(pool.labels, union.labels)
    for ours, theirs in zip(pool.take(rows), union.take(rows), strict=True):
        assert torch.equal(ours, theirs)


def test_images_of_neighbouring_tasks_are_not_copied_and_are_gathered_at_once(stored):
    stream, mapped = make_stream(arrangement=Split(n_tasks=4)), make_stream(stored, arrangement=Split(n_tasks=4))
    first, joined = stream.pool((1,)), stream.pool((1, 2))
    assert joined.everything()[0].data_ptr() == first.everything()[0].data_ptr()
    assert len(joined) == 40
    assert isinstance(mapped.pool((1, 2)), DiskPool)
    assert isinstance(stream.pool((0, 2)), UnionPool)


def test_images_of_a_label_keep_the_order_of_the_data():
    arrays = small_arrays(num_train=80)
    images = make_stream(arrays).pool((0,)).everything()[0][:20]
    expected = arrays.train_x[arrays.train_y == 3]
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), expected)


def test_nothing_held_out_is_told():
    with pytest.raises(UserError, match="--val_fraction"):
        make_stream().pool((0,), "validation")


def test_small_shares_hold_out_an_image_of_each_class():
    stream = make_stream(validation=0.001, held_out=0.001)
    assert [len(stream.pool((task,), "validation")) for task in range(2)] == [2, 2]
    assert [len(stream.pool((task,), "test")) for task in range(2)] == [2, 2]
    assert [len(stream.pool((task,))) for task in range(2)] == [36, 36]


def test_a_share_that_can_hold_out_nothing_names_what_to_set():
    with pytest.raises(
        UserError, match=r"--val_fraction 0\.1 .* --val_fraction 0 with --best_epoch last.* --validation"
    ):
        make_stream(small_arrays(num_train=8), validation=0.5, held_out=0.1)


# -- images that stay on disk ----------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """The same arrays as the small ones, on disk."""
    arrays = small_arrays(num_train=80)
    for name in ("train_x", "test_x"):
        np.save(tmp_path / f"{name}.npy", getattr(arrays, name))
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("train_x", "test_x")}
    return dataclasses.replace(arrays, on_disk=True, **mapped)


@pytest.mark.parametrize("shares", [{}, {"held_out": 0.25}, SHARES])
def test_stream_from_disk_is_that_from_the_device(stored, shares):
    resident, mapped = make_stream(**shares), make_stream(stored, **shares)
    stored.release()
    orders = [stream.order((0, 1), 2) for stream in (mapped, resident)]
    pairs = [orders, [stream.pool((0, 1)).take(orders[0]) for stream in (mapped, resident)]]
    pairs += [
        (mapped.pool((task,), "test").everything(), resident.pool((task,), "test").everything()) for task in range(2)
    ]
    rows = torch.tensor([5, 0, 5])
    for split in ("train", "test", "validation")[: 3 if "held_out" in shares else 2]:
        pairs.append(tuple(stream.pool((1, 0), split).take(rows) for stream in (mapped, resident)))
    for ours, theirs in pairs:
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("on_disk", [False, True])
def test_exemplars_are_fetched_again_by_what_their_state_says(stored, on_disk):
    """From the order of a stream with held-out images, in which no class keeps its label."""
    parts = {"selection": "random", "quota": "floor", "reherd": True, "num_classes": 4, "device": "cpu", "seed": 0}
    chosen, fetched = ExemplarMemory(20, **parts), ExemplarMemory(20, **parts)
    stream, again = (make_stream(stored if on_disk else None, held_out=0.25) for _ in range(2))
    for task in range(2):
        chosen.update(None, stream.pool((task,)), 2 * (task + 1))
    fetched.load_state_dict(chosen.state_dict(), again.pool(range(2)))
    rows = torch.arange(20)
    for ours, theirs in zip(fetched.pool().take(rows), chosen.pool().take(rows), strict=True):
        assert torch.equal(ours, theirs)
    assert keys(chosen.pool()) <= keys(stream.pool((0, 1)))


def test_no_image_is_read_before_it_is_asked_for(stored):
    class Watched(np.ndarray):
        read = 0

        def __getitem__(self, place):
            Watched.read += len(place)
            return np.asarray(super().__getitem__(place))

    stream = make_stream(stored, held_out=0.25)
    pool = stream.pool((0,))
    pool._images = pool._images.view(Watched)
    pool.take(stream.order((0,), 0)[:7])
    assert Watched.read == 7


@pytest.mark.parametrize(
    ("device", "on_disk", "num_tested", "expected"),
    [
        ("cpu", False, None, True),  # mapped from a file, as all runs share it
        ("cuda", False, None, False),
        ("cuda", True, None, True),
        ("cuda", True, 12, False),  # the test images take a twentieth of this memory
        ("cuda", True, 13, True),
    ],
)
def test_mapped_images_are_shared_on_a_cpu_and_sent_to_a_gpu_once(
    monkeypatch, stored, device, on_disk, num_tested, expected
):
    monkeypatch.setattr("datasets.stream.device_memory", lambda device: 20 * 12 * 3 * 32 * 32)
    assert stay_on_disk(stored.test_x, on_disk, torch.device(device), num_tested) is expected
    assert not stay_on_disk(np.array(stored.test_x), False, torch.device(device), num_tested)
