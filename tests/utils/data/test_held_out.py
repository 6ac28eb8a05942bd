import numpy as np
import pytest

from utils.data.held_out import hold_out, num_held_out
from utils.errors import UserError


def test_share_is_taken_of_each_class_and_rounded():
    labels = np.repeat([0, 1, 2], [10, 24, 36])
    is_held_out = hold_out(labels, 0.1, seed=1)
    assert np.bincount(labels[is_held_out]).tolist() == [1, 2, 4]
    assert not np.array_equal(is_held_out, hold_out(labels, 0.1, seed=2))


@pytest.mark.parametrize(
    ("num_images", "share", "number"),
    [
        (10, 0.1, 1),
        (24, 0.1, 2),
        (4, 0.1, 1),
        (2, 0.001, 1),
        (2, 0.5, 1),
        (4, 0.9, 3),
        (1, 0.5, 0),
        (0, 0.5, 0),
        (9, 0.0, 0),
    ],
)
def test_both_parts_of_a_class_get_an_image_where_there_are_two(num_images, share, number):
    assert num_held_out(num_images, share) == number


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--validation", "leave out --validation$"),
        ("--val_fraction", "give --val_fraction 0 with --best_epoch last, or leave out --validation"),
    ],
)
def test_a_class_of_one_image_is_refused_with_what_to_set(option, words):
    with pytest.raises(UserError, match=f"^{option} 0.1 .* single image.*{words}"):
        hold_out(np.repeat([0, 1], [100, 1]), 0.1, 0, option)
