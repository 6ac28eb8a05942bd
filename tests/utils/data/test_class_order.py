import numpy as np
import pytest

from tests.golden import cases
from utils.data.class_order import class_order
from utils.data.held_out import hold_out
from utils.errors import UserError

ORDERS = cases("losses/orders.npz")


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
        ("foo", "unknown --class_order 'foo'. Known: protocol, identity, "),
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
