"""The training steps of a stage, each in two halves: what the host decides, and what the device computes from it.

The host fills buffers that are made once for steps of one kind; the device's half reads these alone, waits for nothing,
and has fixed shapes. A CUDA graph can therefore hold it: after a few steps of a kind it is captured, and from then on
the host fills the buffers and replays the graph. Rare kinds, such as a short last batch, run as they are.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.config.checks import check_capture
from utils.config.configuration import Configuration
from utils.data.batch import Draft
from utils.data.staging import Staging, Values, send
from utils.errors import UserError, is_out_of_memory
from utils.passes import Passes

WARM_UP = 3  # steps of a kind before it is captured, in which kernels are chosen and what is kept is made

Losses = dict[str, Tensor]


class Plan(Protocol):
    """What the host has decided for a step.

    Attributes:
        values: everything that the device needs, by name, on the host.
        kind: what decides the work of the device beside the shapes of the values.
    """

    @property
    def values(self) -> Values: ...

    @property
    def kind(self) -> Hashable: ...


class Planner(Protocol):
    """A method as a step sees it (`models/base.py`)."""

    @property
    def network(self) -> Any:
        """Counts what goes through it as `passes` (`models/heads.py`)."""
        ...

    def plan(self, batch: Draft) -> Any:
        """The host's half, a `Plan`."""
        ...

    def step(self, plan: Any, sent: Values) -> Losses:
        """The device's half, from the values on the device."""
        ...


class Graph(Protocol):
    """Work of the device that can be repeated without the host launching it again."""

    def capture(self, work: Callable[[], Losses]) -> None: ...

    def replay(self) -> Losses:
        """Do the work; the results are overwritten by the next replay."""
        ...


class CudaGraph:
    """A CUDA graph.

    Args:
        pool: of memory, shared by the graphs of a run, of which one at a time is replayed.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._graph = torch.cuda.CUDAGraph()
        self._results: Losses = {}

    def capture(self, work: Callable[[], Losses]) -> None:
        failure: BaseException | None = None
        try:
            # PyTorch leaves its own stream the current one where a capture cannot be ended.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(self._graph, pool=self._pool):
                try:
                    self._results = work()
                except BaseException as error:
                    failure = error
                    raise
        except RuntimeError as error:
            raise (failure or error) from None  # ending a capture that has failed fails too, and hides why

    def replay(self) -> Losses:
        self._graph.replay()
        return self._results


class Capture:
    """Whether the steps of a run are captured.

    Args:
        make_graph: an empty graph; None: steps run as they are.
        is_required: whether it is an error if a step cannot be captured.
        say: called with a note if a step cannot be captured.
    """

    def __init__(
        self,
        make_graph: Callable[[], Graph] | None = None,
        is_required: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.make_graph = make_graph
        self._is_required = is_required
        self._say = say

    def give_up(self, error: RuntimeError) -> None:
        """A step could not be captured: from now on none is.

        Raises:
            RuntimeError: memory is full, which captures are not to blame for.
            UserError: it is required.
        """
        if is_out_of_memory(error):
            raise error
        reason = str(error).partition("\n")[0]
        if self._is_required:
            raise UserError(f"--cuda_graph on: a step cannot be captured ({reason}); use --cuda_graph auto") from error
        self.make_graph = None
        self._say(f"note: steps run without a CUDA graph, as one cannot be captured ({reason})")


class CudaGraphs:
    """Makes CUDA graphs that share their memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._anchor = CudaGraph(self._pool)  # PyTorch gives up a pool with the last graph in it, such as a stage's
        self._anchor.capture(lambda: {"nothing": torch.zeros(1, device="cuda")})

    def __call__(self) -> CudaGraph:
        return CudaGraph(self._pool)


def make_capture(
    config: Configuration, uncapturable: str | None, device: torch.device, say: Callable[[str], None]
) -> Capture:
    """Whether training steps are captured as CUDA graphs.

    Args:
        config: the options in force.
        uncapturable: why the method's steps cannot be; None if they can.
        device: of the run.
        say: called with a note if a step cannot be captured after all.

    Raises:
        UserError: `--cuda_graph on` is given, and they cannot be captured.
    """
    reason = check_capture(config.cuda_graph, uncapturable, device.type)
    if config.cuda_graph == "off" or reason:
        return Capture()
    capture = Capture(is_required=config.cuda_graph == "on", say=say)
    try:
        capture.make_graph = CudaGraphs()
    except RuntimeError as error:
        capture.give_up(error)
    return capture


class Steps:
    """Makes the steps of one stage.

    Args:
        method: plans and makes them.
        device: of the run.
        capture: whether they are captured.

    Attributes:
        passes: the rows that the last step has put through the method's network.
    """

    def __init__(self, method: Planner, device: torch.device, capture: Capture) -> None:
        self._method = method
        self._device = device
        self._capture = capture
        self.passes = method.network.passes
        self._kinds: dict[Hashable, _Kind] = {}

    def __call__(self, batch: Draft) -> Losses:
        """One step; the loss terms stay on the device, and are written over by a later one."""
        plan: Plan = self._method.plan(batch)
        values = plan.values
        self.passes.become(Passes())
        if self._capture.make_graph is None:
            return self._method.step(plan, send(values, self._device))
        shapes = tuple((name, value.shape, value.dtype) for name, value in values.items())
        kind = self._kinds.get((shapes, plan.kind))
        if kind is None:
            kind = self._kinds[shapes, plan.kind] = _Kind(values, self._device)
        kind.staging.fill(values)
        kind.num_steps += 1
        if kind.num_steps <= WARM_UP:
            losses = self._method.step(plan, kind.staging.sent)
            kind.passes.become(self.passes)
            return losses
        graph = kind.graph or self._captured(plan, kind)
        self.passes.become(Passes())  # nothing has gone through the network while a step was captured
        if graph is None:
            return self._method.step(plan, kind.staging.sent)
        losses = graph.replay()
        self.passes.become(kind.passes)
        return losses

    def _captured(self, plan: Plan, kind: "_Kind") -> Graph | None:
        """The graph of steps of this kind; None if they cannot be captured."""
        assert self._capture.make_graph is not None  # asked where steps are captured alone
        graph = self._capture.make_graph()
        try:
            graph.capture(lambda: self._method.step(plan, kind.staging.sent))
        except RuntimeError as error:
            self._capture.give_up(error)
            return None
        kind.graph = graph
        return graph


class _Kind:
    """Steps of the same shapes.

    Attributes:
        staging: of their values.
        num_steps: so far.
        graph: of the device's half, once it is captured.
        passes: the rows that each of them puts through the network.
    """

    def __init__(self, values: Values, device: torch.device) -> None:
        self.staging = Staging(values, device)
        self.num_steps = 0
        self.graph: Graph | None = None
        self.passes = Passes()
