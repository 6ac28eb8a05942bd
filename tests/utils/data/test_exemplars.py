"""Exemplars are those of the published programs, as many per class as the quota says, and stay with their labels."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.golden import cases
from tests.utils.data.exemplar_rig import (
    assert_same,
    contents,
    features,
    images_of,
    label_of_image,
    memory_of,
    of_class,
    other_features,
    pool_of,
    ranked,
    update_after_tasks,
)
from utils.data.exemplars import EXEMPLAR_OPTIONS, herd_as_icarl, herd_greedily
from utils.data.pools import TensorPool
from utils.errors import Diverged, UserError

GREEDY_CASES = cases("losses/memory.npz", "herding_greedy")
ICARL_CASES = cases("losses/memory.npz", "herding_icarl")
QUOTA_CASES = cases("losses/memory.npz", "quota")
SELECTIONS = ("herding", "icarl", "random")


# -- rankings ----------------------------------------------------------------------------------------------------------


def rank_each_class(case):
    """Positions in the stream, class by class."""
    order = case.get("in_stream_order", np.arange(len(case["in_labels"])))
    stream, labels = torch.from_numpy(case["in_features"][order]), case["in_labels"][order]
    number = case["out_selected"].shape[1]
    for label in range(case["params"]["classes"]):
        rows = np.flatnonzero(labels == label)
        yield rows[herd_greedily(stream[rows], number).numpy()]


@pytest.mark.parametrize("case", GREEDY_CASES.values(), ids=GREEDY_CASES)
def test_greedy_herding_is_the_published_one(case):
    np.testing.assert_array_equal(list(rank_each_class(case)), case["out_selected"])


@pytest.mark.parametrize("case", ICARL_CASES.values(), ids=ICARL_CASES)
def test_original_herding_is_the_published_one(case):
    selected = case["out_selected"]
    found = [herd_as_icarl(torch.from_numpy(each), selected.shape[1]).tolist() for each in case["in_features"]]
    np.testing.assert_array_equal(found, selected)


def test_greedy_herding_takes_the_best_of_all_next_images():
    drawn = torch.randn(15, 4, generator=torch.Generator().manual_seed(1))
    directions = normalize(drawn.double(), dim=1)
    chosen = []
    for place in range(1, 16):
        left = [index for index in range(15) if index not in chosen]
        means = {index: directions[[*chosen, index]].sum(0) / place for index in left}
        chosen.append(min(left, key=lambda index: torch.dist(directions.mean(0), means[index]).item()))
    assert herd_greedily(drawn, 15).tolist() == chosen


@pytest.mark.parametrize("herd", [herd_greedily, herd_as_icarl])
def test_length_of_a_feature_does_not_count(herd):
    random = torch.Generator().manual_seed(2)
    drawn, lengths = torch.randn(20, 6, generator=random), 2.0 ** torch.randint(-3, 4, (20, 1), generator=random)
    assert torch.equal(herd(drawn, 20), herd(drawn * lengths, 20))


@pytest.mark.parametrize("herd", [herd_greedily, herd_as_icarl])
def test_of_equal_images_the_first_is_taken(herd):
    """Three copies of 37 images, in blocks: no copy is taken before those of the blocks in front of it."""
    drawn = torch.randn(37, 19, generator=torch.Generator().manual_seed(3)).repeat(3, 1)
    order = herd(drawn, 111).tolist()
    assert sorted(order) == list(range(111))
    places = {index: place for place, index in enumerate(order)}
    assert all(places[index] < places[index + 37] < places[index + 74] for index in range(37))


@pytest.mark.parametrize("herd", [herd_greedily, herd_as_icarl])
@pytest.mark.parametrize("number", [1, 7, 8])
def test_a_ranking_is_as_long_as_asked_for_or_as_there_are_images(herd, number):
    drawn = torch.randn(7, 3, generator=torch.Generator().manual_seed(4))
    assert sorted(herd(drawn, number).tolist())[: min(number, 7)] == sorted(set(herd(drawn, number).tolist()))
    assert len(herd(drawn, number)) == min(number, 7)
    assert herd(drawn, number).tolist() == herd(drawn, 7).tolist()[:number]


@pytest.mark.parametrize("herd", [herd_greedily, herd_as_icarl])
def test_features_of_zero_are_ranked_too(herd):
    """In the original form the first image wins every round, until the rounds end."""
    assert herd(torch.zeros(4, 3), 4).tolist() == [0, 1, 2, 3]


# -- quotas ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for name, case in QUOTA_CASES.items() if "ceil" in name])
def test_quotas_are_the_published_ones(case):
    ceil, floor = (memory_of(case["params"]["total"], quota=quota) for quota in ("ceil", "floor"))
    seen = case["in_classes_seen"].tolist()
    assert [ceil.num_per_class(each) for each in seen] == case["out_per_class"].tolist()
    assert [floor.num_per_class(each) for each in seen] == case["out_per_class_floor"].tolist()
    assert [ceil.num_per_class(each) * each for each in seen] == case["out_stored"].tolist()


def test_quota_of_a_growing_memory_is_podnets():
    case = QUOTA_CASES["quota_podnet_growing"]
    memory = memory_of(case["params"]["total"], quota="floor")
    assert [memory.num_per_class(each) for each in case["in_classes_seen"].tolist()] == case["out_per_class"].tolist()


def test_fixed_quota_is_podnets_whatever_was_seen():
    case = QUOTA_CASES["quota_podnet_fixed"]
    memory = memory_of(case["params"]["total"], quota="fixed", num_classes=100)
    assert [memory.num_per_class(each) for each in case["in_classes_seen"].tolist()] == case["out_per_class"].tolist()


def test_fixed_quota_is_rounded_down():
    assert memory_of(23, quota="fixed", num_classes=6).num_per_class(2) == 3


def test_fixed_quota_less_than_one_image_per_class_of_the_stream_is_refused():
    assert memory_of(9, quota="fixed", num_classes=9).num_per_class(1) == 1
    with pytest.raises(UserError, match=r"--buffer_size 9 .* give at least 10"):
        memory_of(9, quota="fixed", num_classes=10).num_per_class(1)


@pytest.mark.parametrize("quota", ["ceil", "floor"])
def test_less_than_one_image_per_class_is_refused(quota):
    memory = memory_of(9, quota=quota)
    assert memory.num_per_class(9) == 1
    with pytest.raises(UserError, match=r"--buffer_size 9 .* give at least 10"):
        memory.num_per_class(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "--buffer_size 0"),
        ({"selection": "hearding"}, "--exemplar_selection 'hearding'"),
        ({"quota": "round"}, "--quota 'round'"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        memory_of(**options)


# -- the memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("reherd", [True, False])
@pytest.mark.parametrize("quota", ["ceil", "floor", "fixed"])
def test_every_class_has_its_quota_with_its_label_and_task(selection, reherd, quota):
    memory = memory_of(20, selection, quota, reherd)
    stored = {"ceil": [20, 20, 24], "floor": [20, 20, 18], "fixed": [6, 12, 18]}[quota]
    originals = {}
    for task in range(3):
        pool = pool_of((2 * task, 2 * task + 1), task=task, seed=task)
        originals |= label_of_image(pool)
        memory.update(features, pool, 2 * task + 2)
        raw, labels, tasks, host_labels = contents(memory)
        assert len(memory) == len(memory.pool()) == len(raw) == stored[task]
        assert torch.equal(labels.cpu(), host_labels)
        assert labels.tolist() == sorted(labels.tolist())
        assert labels.bincount().tolist() == [memory.num_per_class(2 * task + 2)] * (2 * task + 2)
        assert torch.equal(tasks, host_labels // 2)
        assert list(label_of_image(memory.pool()).values()) == labels.tolist()
        assert label_of_image(memory.pool()).items() <= originals.items()


@pytest.mark.parametrize(("selection", "herd"), [("herding", herd_greedily), ("icarl", herd_as_icarl)])
def test_new_classes_are_ranked_among_the_images_of_the_task(selection, herd):
    memory, pool = memory_of(20, selection), pool_of((0, 1))
    memory.update(features, pool, 2)
    for label in (0, 1):
        assert torch.equal(of_class(memory, label), ranked(pool, label, 10, herd=herd))


def test_old_classes_are_ranked_anew_among_the_survivors():
    memory = memory_of(20)
    memory.update(features, pool_of((0, 1)), 2)
    before = memory.pool()
    memory.update(other_features, pool_of((2, 3), task=1), 4)
    for label in (0, 1):
        assert torch.equal(of_class(memory, label), ranked(before, label, 5, other_features))
        assert not torch.equal(
            of_class(memory, label), before.take((before.labels == label).nonzero().flatten())[0][:5]
        )


@pytest.mark.parametrize("selection", SELECTIONS)
def test_old_classes_keep_the_first_of_their_first_ranking(selection):
    memory = memory_of(20, selection, reherd=False)
    memory.update(features, pool_of((0, 1)), 2)
    first = [of_class(memory, label) for label in (0, 1)]
    memory.update(other_features, pool_of((2, 3), task=1), 4)
    for label in (0, 1):
        assert torch.equal(of_class(memory, label), first[label][:5])


def test_features_see_each_image_of_the_task_once_and_no_gradients():
    counted = []

    def counting(raw):
        assert raw.dtype == torch.uint8
        assert not torch.is_grad_enabled()
        counted.append(len(raw))
        return features(raw)

    memory_of(20).update(counting, pool_of((0, 1), per_class=300), 2)
    assert sum(counted) == 600
    assert max(counted) <= 128


def test_random_selection_is_uniform_and_needs_no_features():
    pool = pool_of((0,), per_class=8)
    row_of = {image: row for row, image in enumerate(label_of_image(pool))}
    counts = torch.zeros(8)
    for seed in range(400):
        memory = memory_of(3, "random", seed=seed)
        memory.update(None, pool, 1)
        counts[[row_of[image.numpy().tobytes()] for image in of_class(memory, 0)]] += 1
    assert counts.sum() == 1200
    assert (counts - 150).abs().max() < 40  # more than four standard deviations


def test_random_selection_repeats_and_differs_between_classes_seeds_and_tasks():
    images = images_of(torch.zeros(30)).repeat(3, 1, 1, 1)
    labels, tasks = torch.arange(3).repeat_interleave(30), torch.zeros(90, dtype=torch.int64)
    both = TensorPool(images[:60], labels[:60], tasks[:60])
    memories = [memory_of(20, "random", seed=seed) for seed in (0, 0, 1)]
    for memory in memories:
        memory.update(features, both, 2)
    first, same, other = memories
    assert_same(first, same)
    assert not torch.equal(of_class(first, 0), of_class(other, 0))
    assert not torch.equal(of_class(first, 0), of_class(first, 1))
    later = memory_of(30, "random")
    later.update(features, TensorPool(images, labels, tasks), 3)
    assert not torch.equal(of_class(first, 0), of_class(later, 0))


def test_a_class_of_fewer_images_keeps_them_all():
    memory = memory_of(200)
    memory.update(features, pool_of((0, 1), per_class=7), 2)
    assert len(memory) == 14


def test_what_is_held_is_known_by_class():
    memory = memory_of(20)
    assert len(memory) == 0
    assert len(memory.pool()) == 0
    assert not memory.holds(0)
    update_after_tasks(memory, 2)
    assert [memory.holds(label) for label in range(5)] == [True] * 4 + [False]
    assert torch.equal(torch.cat([of_class(memory, label) for label in range(4)]), contents(memory)[0])
    assert len(of_class(memory, 4)) == 0


def test_a_pool_stays_what_it_was_and_is_not_copied():
    memory = memory_of(20)
    update_after_tasks(memory, 1)
    pool = memory.pool()
    before = pool.take(torch.arange(20))[0]
    assert memory.pool().everything()[0].data_ptr() == pool.everything()[0].data_ptr()
    memory.update(other_features, pool_of((2, 3), task=1), 4)
    assert torch.equal(pool.take(torch.arange(20))[0], before)


def test_one_task_again_changes_nothing():
    """Its classes are chosen among its images, whatever was kept of them."""
    memory, twice = memory_of(20, reherd=False), memory_of(20, reherd=False)
    for each in (memory, twice, twice):
        each.update(features, pool_of((0, 1)), 2)
    assert_same(memory, twice)


def test_classes_without_images_or_unseen_are_refused():
    with pytest.raises(ValueError, match="no image of class 2"):
        memory_of(20).update(features, pool_of((0, 1)), 3)
    with pytest.raises(ValueError, match="has class 1"):
        memory_of(20).update(features, pool_of((0, 1)), 1)
    with pytest.raises(UserError, match="--buffer_size 1 "):
        memory_of(1).update(features, pool_of((0, 1)), 2)


@pytest.mark.parametrize("selection", ["herding", "icarl"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_network_that_diverged_chooses_nothing(selection, value):
    memory = memory_of(20, selection)
    update_after_tasks(memory, 1)
    before = contents(memory)
    with pytest.raises(Diverged, match="class 0"):
        memory.update(lambda raw: torch.full((len(raw), 3), value), pool_of((2, 3), task=1), 4)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(contents(memory), before, strict=True))


def test_options_name_what_the_memory_takes():
    named = {option.name: option for option in EXEMPLAR_OPTIONS}
    assert named["reherd"].type("0") is False
    kinds = itertools.product(named["exemplar_selection"].choices, named["quota"].choices)
    for selection, quota in kinds:
        memory_of(selection=selection, quota=quota)
    chosen = memory_of(selection=named["exemplar_selection"].default, quota=named["quota"].default)
    update_after_tasks(chosen)
    assert len(chosen) == 24
