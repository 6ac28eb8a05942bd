"""The device's half of a step needs nothing but the values that it is sent, and never waits."""

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from utils.config.registry import METHODS, NORMS
from utils.errors import UserError
from utils.main import main
from utils.passes import Passes
from utils.run import steps
from utils.run.steps import WARM_UP, Capture

pytestmark = pytest.mark.usefixtures("shallow")

LINE = "--dataset seq-arrays --n_tasks 3 --backbone resnet18 --nf 4 --epochs 2 --batch_size 8 --threads 1 --device cpu"
MEMORY = ("--buffer_size", "40")
OPTIONS = {
    "der": "--alpha 0.3",
    "derpp": "--alpha 0.3 --beta 0.5",
    "podnet": "--second_epochs 2 --second_lr 0.01 --podnet_lambda_f 1 --podnet_lambda_c 1 --podnet_rows old",
    "afc": "--second_epochs 2 --second_lr 0.01 --afc_lambda 1",
    "eeil": "--second_epochs 2",
}
PAIRS = [(method, NORMS.names()[number % len(NORMS.names())]) for number, method in enumerate(METHODS.names())]


class Waits(TorchDispatchMode):
    """Raises where a GPU would be waited for, or something new of the host would be sent there."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "lift_fresh", "_pin_memory")

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.__name__.partition(".")[0]
        masks = [each for each in arguments[1] if each is not None] if name in ("index", "index_put_") else []
        if any(waiting in name for waiting in self.WAITING) or any(mask.dtype == torch.bool for mask in masks):
            raise AssertionError(f"{function} waits for the device")
        return function(*arguments, **(named or {}))


class CalledAgain:
    """Takes the place of a CUDA graph: the work of the first step is done again for every later one."""

    num_replays = 0

    def capture(self, work):
        self.work = work

    def replay(self):
        CalledAgain.num_replays += 1
        with Waits():
            return self.work()


@pytest.fixture
def run(small_root, tmp_path, monkeypatch):
    """Starts a run with a GPU's optimizer, its steps captured or not; gives its weights and losses."""
    monkeypatch.setattr("utils.optimizer.is_fused", lambda parameter: True)

    def start(method, norm, capture=None, more=""):
        folder = tmp_path / f"{'plain' if capture is None else 'captured'}{more}"
        memory = MEMORY if METHODS.get(method).uses_memory else ()
        memory += ("--adjust_groups",) if norm in ("GN", "CN") else ()
        words = [
            "--model",
            method,
            "--nl",
            norm,
            *LINE.split(),
            *memory,
            *OPTIONS.get(method, "").split(),
            *more.split(),
        ]
        with monkeypatch.context() as patch:
            if capture is not None:
                patch.setattr("utils.run.steps.make_capture", lambda *parts: capture)
            words += ["--lr", "0.05", "--log_every", "1", "--data_root", str(small_root), "--nowand"]
            assert main([*words, "--results_dir", str(folder)]) == 0
        (path,) = folder.rglob("result.json")
        result = json.loads(path.read_text())
        return result["weights_sha256"], result["cost"], (path.parent / "metrics.jsonl").read_text()

    return start


def check(run, method, norm, more=""):
    CalledAgain.num_replays = 0
    assert run(method, norm, Capture(CalledAgain, is_required=True), more) == run(method, norm, more=more)
    assert CalledAgain.num_replays > 10


@pytest.mark.parametrize(("method", "norm"), [("er_ace", "AdaB2N"), ("derpp", "TBBN"), ("ft", "TBBN"), ("sgd", "BN")])
def test_captured_steps_are_those_that_run_as_they_are(run, method, norm):
    check(run, method, norm)


OTHERWISE = pytest.mark.parametrize(
    "more",
    [
        "--optimizer adam --optim_wd 0 --lr_schedule cosine",
        "--optimizer adamw --optim_wd 0.1 --decay_norms 0",
        "--buffer_mode class_balanced",
        "--buffer_mode reservoir_balanced --optim_mom 0.9",
    ],
)


@OTHERWISE
def test_captured_steps_have_every_optimizer_schedule_and_memory(run, more):
    check(run, "er_ace", "FRN", more)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "norm"), PAIRS)
def test_steps_of_every_method_and_layer_can_be_captured(run, method, norm):
    check(run, method, norm)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("method", "norm"), PAIRS)
def test_cuda_graphs_hold_the_steps_of_every_method_and_layer(run, method, norm):
    captured, plain = (run(method, norm, more=f" --device cuda --cuda_graph {word}") for word in ("on", "off"))
    assert captured == plain


@pytest.mark.usefixtures("gpu")
@OTHERWISE
def test_cuda_graphs_hold_every_optimizer_schedule_and_memory(run, more):
    captured, plain = (run("er_ace", "FRN", more=f"{more} --device cuda --cuda_graph {word}") for word in ("on", "off"))
    assert captured == plain


@pytest.mark.parametrize("is_required", [False, True])
def test_a_step_that_cannot_be_captured_is_made_as_it_is_or_told(run, is_required):
    class Refused:
        def capture(self, work):
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    said = []
    capture = Capture(Refused, is_required, said.append)
    if is_required:
        with pytest.raises(AssertionError):
            run("sgd", "BN", capture)
        with pytest.raises(UserError, match=r"--cuda_graph on: a step cannot be captured \(operation not permitted"):
            capture.give_up(RuntimeError("operation not permitted when stream is capturing"))
        return
    assert run("sgd", "BN", capture) == run("sgd", "BN")
    assert len(said) == 1
    assert "(operation not permitted when stream is capturing)" in said[0]


class FailingCuda:
    """What of `torch.cuda` a capture needs, whose end fails as after an operation that cannot be captured."""

    CUDAGraph = object

    def __init__(self, current):
        self.current = current

    def current_stream(self):
        return self.current

    @contextlib.contextmanager
    def stream(self, stream):
        former, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = former

    @contextlib.contextmanager
    def graph(self, graph, pool):
        self.current = "the stream of the capture"
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize("reason", [RuntimeError("not permitted"), RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_failed_capture_says_why_and_leaves_the_stream_as_it_was(monkeypatch, reason):
    def work():
        try:
            raise LookupError
        except LookupError:
            raise reason  # noqa: B904, as of an operation that has tried something else before

    cuda = FailingCuda("the usual stream")
    monkeypatch.setattr(torch, "cuda", cuda)
    with pytest.raises(type(reason)) as caught:
        steps.CudaGraph("pool").capture(work)
    assert caught.value is reason
    assert cuda.current == "the usual stream"


@pytest.mark.parametrize("word", ["auto", "on"])
def test_where_nothing_can_be_captured_steps_run_as_they_are_or_it_is_told(monkeypatch, word):
    def refuse():
        raise RuntimeError("operation not supported")

    monkeypatch.setattr(steps, "CudaGraphs", refuse)
    said, parts = [], (SimpleNamespace(cuda_graph=word), None, torch.device("cuda"))
    if word == "on":
        with pytest.raises(UserError, match=r"a step cannot be captured \(operation not supported\)"):
            steps.make_capture(*parts, said.append)
        return
    assert steps.make_capture(*parts, said.append).make_graph is None
    assert said == ["note: steps run without a CUDA graph, as one cannot be captured (operation not supported)"]


def test_memory_that_is_full_is_not_held_against_captures():
    capture = Capture(CalledAgain)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        capture.give_up(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert capture.make_graph is CalledAgain


def test_a_rare_kind_of_step_runs_as_it_is():
    made = []

    class Method:
        network = SimpleNamespace(passes=Passes())

        def plan(self, batch):
            return batch

        def step(self, plan, sent):
            return {"loss": sent["x"].sum()}

    class Batch:
        kind = ()

        def __init__(self, *values):
            self.values = {"x": torch.tensor(values)}

    class Graph(CalledAgain):
        def __init__(self):
            made.append(self)

    make = steps.Steps(Method(), torch.device("cpu"), Capture(Graph))
    for number in range(10):
        assert make(Batch(number, 2)) == {"loss": number + 2}
        assert make(Batch(number, 1, 1)) == {"loss": number + 2} if number < WARM_UP else True
    assert len(made) == 1


def test_a_gpu_is_needed_where_graphs_are_asked_for(small_root, tmp_path, capsys):
    words = f"--model sgd {LINE} --lr 0.1 --nowand --cuda_graph on --data_root {small_root}"
    assert main([*words.split(), "--results_dir", str(tmp_path)]) == 2
    assert "--cuda_graph on cannot be: --device cpu is no GPU" in capsys.readouterr().err
