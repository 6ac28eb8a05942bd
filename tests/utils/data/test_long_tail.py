import numpy as np
import pytest

from utils.data.long_tail import LongTail
from utils.errors import UserError


def test_sizes_fall_in_proportion_to_the_ratio():
    sizes = LongTail(100.0, "head_first", 0).sizes([500] * 100)
    assert sizes == [int(500 * 0.01 ** (rank / 99) + 1e-6) for rank in range(100)]
    assert (sizes[0], sizes[-1]) == (500, 5)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_order_has_the_same_sizes_for_other_classes(seed):
    first, shuffled = (LongTail(50.0, order, seed).sizes([500] * 10) for order in ("head_first", "random"))
    assert sorted(shuffled, reverse=True) == first != shuffled
    assert LongTail(50.0, "random", seed + 1).sizes([500] * 10) != shuffled


def test_a_class_never_has_more_images_than_there_are():
    assert LongTail(10.0, "head_first", 0).sizes([100, 20, 100]) == [100, 20, 10]
    assert LongTail(10.0, "head_first", 0).sizes([7]) == [7]


def test_kept_images_are_drawn_from_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 40))
    tail = LongTail(8.0, "head_first", 0)
    kept = tail.keep(labels)
    assert np.bincount(labels[kept]).tolist() == tail.sizes([40] * 4) == [40, 20, 10, 5]
    np.testing.assert_array_equal(tail.keep(labels), kept)
    other = LongTail(8.0, "head_first", 1).keep(labels)
    assert (other != kept).any()


def test_a_class_without_images_is_refused():
    with pytest.raises(UserError, match=r"--imbalance_ratio 100 leaves a class without images.* at most 40"):
        LongTail(100.0, "random", 0).sizes([40] * 10)
