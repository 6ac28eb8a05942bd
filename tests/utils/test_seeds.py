import torch

from utils.seeds import derive_seed, generator


def test_purposes_are_independent_of_each_other():
    seeds = [derive_seed(seed, *purpose) for seed in range(50) for purpose in (("a",), ("b",), ("a", 1), ("a", 1, 2))]
    assert len(set(seeds)) == len(seeds)


def test_seed_is_the_same_on_every_machine():
    assert derive_seed(0, "weights") == 133441691874178746


def test_generator_repeats():
    first, second = (torch.rand(5, generator=generator(3, "stream", 1)) for _ in range(2))
    assert torch.equal(first, second)
