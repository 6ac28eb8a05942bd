import copy

import torch

from utils.passes import Passes


def test_what_keeps_no_gradients_does_not_go_back():
    passes = Passes()
    passes.count(5)
    with torch.no_grad():
        passes.count(3)
    assert passes == Passes(forward=8, backward=5)


def test_a_copy_counts_with_what_it_was_copied_from():
    passes = Passes()
    copy.deepcopy(passes).count(4)
    assert passes.forward == 4
