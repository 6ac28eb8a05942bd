import contextlib

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from backbone.branch import Branch


def test_without_a_capture_the_work_is_done_in_its_turn():
    branch, x = Branch(torch.device("cpu"), "test"), torch.ones(3)
    branch.fork(x)
    with branch.on():
        y = x + 1
    branch.join()
    assert not branch.is_taken
    assert y.tolist() == [2, 2, 2]


class Stream:
    """Knows for whom it has waited."""

    device = torch.device("cuda", 0)

    def __init__(self):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


def test_a_branch_waits_at_its_fork_is_waited_for_where_it_joins_and_keeps_what_it_reads(monkeypatch):
    own, main = Stream(), Stream()
    used = []
    monkeypatch.setattr("backbone.branch._stream", lambda device, name: own)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext(used.append(stream)))
    branch, factor = Branch(torch.device("cuda", 0), "test"), torch.ones(3) + 1
    x = torch.ones(3, requires_grad=True) * factor
    memory, history = StorageWeakRef(x.untyped_storage()), StorageWeakRef(factor.untyped_storage())
    branch.fork(x)
    del x, factor
    assert (own.waited_for, main.waited_for) == ([main], [])
    assert not memory.expired()
    assert history.expired()  # it might lead back to the branch
    with branch.on():
        assert used == [own]
    for _ in range(2):
        branch.join()
        assert (own.waited_for, main.waited_for) == ([main], [own])
        assert memory.expired()


@pytest.mark.usefixtures("gpu")
def test_a_cuda_graph_has_both_sides_of_a_branch():
    x = torch.zeros(1 << 20, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        branch = Branch(x.device, "test")
        first = x + 1
        branch.fork(first)
        with branch.on():
            second = first.cumsum(0)
        third = first * 2
        branch.join()
        result = second + third
    for value in (0.0, 1.0):
        x.fill_(value)
        graph.replay()
        assert result[-1].item() == pytest.approx((value + 1) * (2**20 + 2))
