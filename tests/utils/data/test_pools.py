import numpy as np
import pytest
import torch

from utils.data.pools import DiskPool, SubsetPool, TensorPool, UnionPool

NUM_STORED = 9
STORED = np.random.default_rng(0).integers(0, 256, (NUM_STORED, 4, 5, 3), dtype=np.uint8)
LABELS = torch.arange(NUM_STORED) * 10
TASKS = torch.arange(NUM_STORED) // 3


def on_device(rows):
    chosen = torch.tensor(rows)
    images = torch.from_numpy(STORED[rows]).permute(0, 3, 1, 2).contiguous()
    return TensorPool(images, LABELS[chosen], TASKS[chosen])


def on_disk(rows, stored=STORED):
    chosen = torch.tensor(rows)
    return DiskPool(stored, np.array(rows), LABELS[chosen], TASKS[chosen], "cpu")


# Each pool, and the stored images that its rows are.
POOLS = {
    "tensor": (on_device([3, 1, 4, 8]), [3, 1, 4, 8]),
    "disk": (on_disk([3, 1, 4, 8]), [3, 1, 4, 8]),
    "subset": (SubsetPool(on_disk([3, 1, 4, 8]), torch.tensor([2, 0, 2])), [4, 3, 4]),
    "union": (UnionPool([on_device([7, 2]), on_disk([0]), on_device([5, 6, 1])]), [7, 2, 0, 5, 6, 1]),
}
_TWICE = on_device([4, 5])
POOLS["union with one pool twice"] = (UnionPool([_TWICE, on_disk([8]), _TWICE]), [4, 5, 8, 4, 5])
POOLS["union of one"] = (UnionPool([on_disk([6, 2])]), [6, 2])
_NESTED = UnionPool([SubsetPool(_TWICE, torch.tensor([1])), UnionPool([on_disk([3]), on_device([0])])])
POOLS["union of unions"] = (_NESTED, [5, 3, 0])


def check(taken, stored_rows):
    images, labels, tasks = taken
    expected = torch.from_numpy(STORED[stored_rows]).permute(0, 3, 1, 2)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert torch.equal(images, expected)
    assert torch.equal(labels, LABELS[stored_rows])
    assert torch.equal(tasks, TASKS[stored_rows])


@pytest.mark.parametrize("name", POOLS)
def test_every_row_is_the_stored_image_in_whatever_order_it_is_asked_for(name):
    pool, stored = POOLS[name]
    assert len(pool) == len(stored)
    assert torch.equal(pool.labels, LABELS[stored])
    assert torch.equal(pool.tasks, TASKS[stored])
    draws = torch.Generator().manual_seed(1)
    for rows in (torch.arange(len(pool)), torch.randint(len(pool), (20,), generator=draws)):
        check(pool.take(rows), [stored[row] for row in rows])


@pytest.mark.parametrize("name", POOLS)
def test_no_row_is_an_empty_batch(name):
    check(POOLS[name][0].take(torch.zeros(0, dtype=torch.int64)), [])


@pytest.mark.parametrize("make", [on_device, on_disk])
def test_neighbouring_rows_are_a_pool_of_their_own(make):
    section = make([3, 1, 4, 8, 0]).section(slice(1, 4))
    assert len(section) == 3
    assert section.labels.tolist() == [10, 40, 80]
    check(section.take(torch.tensor([2, 0])), [8, 1])
    images, labels = section.everything()
    check((images, labels, section.tasks), [1, 4, 8])


def test_resident_images_are_not_copied():
    pool = on_device([3, 1, 4, 8])
    assert pool.section(slice(1, 3)).everything()[0].data_ptr() == pool.images[1].data_ptr()


def test_only_rows_that_are_asked_for_are_read(tmp_path):
    read = []

    class Watched:
        shape = STORED.shape

        def __getitem__(self, place):
            read.extend(place.tolist())
            return STORED[place]

    pool = on_disk([3, 1, 4, 8], Watched())
    check(pool.take(torch.tensor([2, 0])), [4, 3])
    assert sorted(read) == [3, 4]


def test_rows_read_from_disk_can_be_changed_without_changing_the_file(tmp_path):
    np.save(tmp_path / "stored.npy", STORED)
    pool = on_disk([3, 1], np.load(tmp_path / "stored.npy", mmap_mode="r"))
    for rows in (torch.tensor([0]), torch.tensor([0, 1])):
        images, labels, _ = pool.take(rows)
        images.zero_()
        labels.zero_()
    check(pool.take(torch.tensor([0, 1])), [3, 1])
