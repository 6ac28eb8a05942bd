"""Batches that are made together."""

import pytest
import torch

from utils.data.batch import Draft, Fetch, make_batches

CPU = torch.device("cpu")


class Times:
    """Multiplies each image by a number of its own."""

    def __init__(self, name):
        self.name = name
        self.num_calls = 0

    def apply(self, raw, changes):
        self.num_calls += 1
        return raw * changes[self.name][:, None, None, None]


def draft_of(number, times, first=1):
    images = torch.arange(first, first + number).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    fetch = Fetch({"images": images}, lambda sent: {"raw": sent["images"]})
    rows = torch.arange(number)
    return Draft((fetch,), rows, rows + 10, {times.name: rows + 2}, times.apply, CPU, number)


@pytest.mark.parametrize(("others", "num_calls"), [("factors", 1), ("other", 1)])
def test_images_are_changed_together_where_they_are_changed_alike(others, num_calls):
    first = Times("factors")
    second = first if others == "factors" else Times(others)
    drafts = [draft_of(3, first), draft_of(2, second, first=5)]
    made = make_batches(drafts, [draft.values for draft in drafts])
    assert [batch.images[:, 0, 0, 0].tolist() for batch in made] == [[2, 6, 12], [10, 18]]
    assert [batch.labels.tolist() for batch in made] == [[10, 11, 12], [10, 11]]
    assert [batch.raw[:, 0, 0, 0].tolist() for batch in made] == [[1, 2, 3], [5, 6]]
    assert first.num_calls == second.num_calls == num_calls


def test_labels_of_a_batch_are_its_own():
    draft = draft_of(2, Times("factors"))
    draft.batch().labels.add_(5)
    assert draft.labels.tolist() == [10, 11]
