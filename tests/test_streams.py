"""Every registered stream, as a whole run and as a grid: identity, resuming, held-out images, launcher and report."""

import itertools
import json
from pathlib import Path

import pytest

from models.base import MemoryMethod
from tests.utils.records.wandb_rig import install_fake
from utils.config.configuration import configure
from utils.config.registry import DATASETS, METHODS, STREAMS, load_plugins
from utils.data.budget import costs_of
from utils.data.plan import StreamSizes, count_stages
from utils.launch.cli import main as launch
from utils.main import main

pytestmark = pytest.mark.usefixtures("shallow")

# Options that make each of the streams another one than it is by default.
OPTIONS = {
    "split": "--first_task_classes 3 --n_tasks 3",
    "blurry": "--n_tasks 3 --blurry_minor 0.3",
    "si-blurry": "--n_tasks 3 --blurry_minor 0.5",
    "gaussian": "--n_tasks 3",
}
SETTING = "--dataset seq-arrays --nf 4 --lr 0.05 --batch_size 8 --class_order seeded"
MEMORY = "--buffer_size 20"
MACHINE = "--threads 1 --device cpu --nowand --log_every 3"


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does: nothing of the suite catches it."""


@pytest.fixture
def start(small_root, tmp_path):
    """Starts a run of a line; gives the exit code, and what it found if it was complete."""

    def run(line, results="results"):
        where = f"--data_root {small_root} --results_dir {tmp_path / results}"
        memory = "" if "--model sgd" in line or "--model joint" in line else MEMORY
        return main(f"{line} {memory} {SETTING} {MACHINE} {where}".split())

    return run


@pytest.fixture
def found(tmp_path):
    """What the only run in a folder of results found, but for its times."""

    def read(results="results"):
        (path,) = (tmp_path / results).rglob("result.json")
        result = json.loads(path.read_text())
        lines = path.with_name("metrics.jsonl").read_text()
        return {name: each for name, each in result.items() if name not in ("timings", "peak_memory")}, lines

    return read


def line_of(stream, more=""):
    return f"--stream {stream} {OPTIONS[stream]} --model er_ace --nl AdaB2N {more}"


def learnable(method):
    """A line of a method on tasks of unequal sizes."""
    words = f"--model {method} --nl TBBN --n_tasks 3 --first_task_classes 3"
    words += " --alpha 0.5" if method in ("der", "derpp") else ""
    words += " --beta 0.5" if method == "derpp" else ""
    if METHODS.get(method).protocol == "offline":
        words += " --epochs 2 --backbone resnet18"
    if any(option.name == "second_epochs" for option in METHODS.get(method).options):
        words += " --second_epochs 1"
    return words


def planned_rows(line):
    """The rows that go through the network and back, as a budget has them."""
    config = configure(f"{line} {MEMORY if 'sgd' not in line and 'joint' not in line else ''} {SETTING}".split())
    held_out = round(20 * config.val_fraction)
    sizes = StreamSizes((20 - held_out,) * 6, (range(3), range(3, 5), range(5, 6)))
    return sum(cost.rows_of(each.num_steps) for each, cost in costs_of(config, count_stages(config, sizes)))


def test_each_stream_is_tested():
    assert OPTIONS.keys() == set(STREAMS.names())


@pytest.mark.parametrize("stream", STREAMS.names())
def test_options_at_their_defaults_leave_the_identity_as_it_was(stream):
    plain, typed, other = (
        configure(f"--model er_ace {MEMORY} {SETTING} {words}".split()).identity("")
        for words in ("", "--stream split --n_tasks 5", f"--stream {stream} {OPTIONS[stream]}")
    )
    assert plain == typed != other


@pytest.fixture
def check_killed(start, found, monkeypatch):
    """Kills a run of a line three times, and checks that it ends as one that was not killed."""

    def check(line):
        assert start(line, "whole") == 0
        update, num_killed = MemoryMethod.update, 0
        for calls in (2, 5, 4):  # a later one may find nothing left to do
            counter = itertools.count(1)

            def update_or_die(self, loss, counter=counter, calls=calls):
                if next(counter) == calls:
                    raise Killed
                return update(self, loss)

            with monkeypatch.context() as patch:
                patch.setattr(MemoryMethod, "update", update_or_die)
                try:
                    start(f"{line} --checkpoint_every 0", "killed")
                except Killed:
                    num_killed += 1
        assert num_killed == 3
        assert start(line, "killed") == 0
        assert found("killed") == found("whole")

    return check


def memories():
    """Every memory with every stream; the quick ones take each of both at least once."""
    for row, stream in enumerate(STREAMS.names()):
        for column, memory in enumerate(("reservoir_balanced", "class_balanced", "reservoir")):
            yield pytest.param(stream, memory, marks=() if column == row % 3 else pytest.mark.slow)


@pytest.mark.parametrize(("stream", "memory"), list(memories()))
def test_killed_anywhere_it_ends_as_if_it_had_not_been(check_killed, stream, memory):
    check_killed(line_of(stream, f"--buffer_mode {memory} --eval_every 2 --eval_images 4"))


@pytest.mark.parametrize("stream", STREAMS.names())
def test_a_budget_ends_a_run_whose_stream_is_still_whole(check_killed, found, stream):
    check_killed(line_of(stream, "--budget_steps 20"))
    result, _ = found("whole")
    assert 20 * 8 - 2 * 8 < result["cost"]["backward_rows"] <= 20 * 8
    assert result["budget"]["rows"] == 20 * 8
    assert result["cost"]["images"] == pytest.approx(result["budget"]["share"] * 120, abs=8)
    assert sum(result["counts"]["total"][-1]) == 6 * 8
    assert all(sum(filter(None, row)) for row in result["counts"]["total"])


@pytest.mark.parametrize("stream", STREAMS.names())
def test_evaluations_inside_tasks_change_nothing_in_training(start, found, stream):
    assert start(line_of(stream), "without") == 0
    for name, inside, num_images in (
        ("all", "--eval_every 1", 6 * 8),
        ("few", "--eval_every 2 --eval_images 4", 3 * 4),
    ):
        assert start(line_of(stream, inside), name) == 0
        check_inside(found("without")[0], found(name)[0], stream, num_images)


def check_inside(plain, measured, stream, num_images):
    """That a run with evaluations on so many images inside its tasks is otherwise one without."""
    assert measured["weights_sha256"] == plain["weights_sha256"]
    assert measured["counts"] == plain["counts"]
    assert measured["classes"] == plain["classes"]
    assert "points" not in plain
    points, metrics = measured["points"], measured["metrics"]["class_il"]
    assert len(points["step"]) == len(set(points["step"])) == len(measured["anytime"])
    assert points["images"][-1] == sum(plain["classes"]["trained"])
    assert len(points["total"][-1]) == (1 if stream == "gaussian" else 3)
    assert sum(points["total"][-1]) == num_images
    assert 0 <= metrics["A_AUC"] <= 100
    for name in ("min-ACC", "WC-ACC", "stability_gap"):
        assert (metrics[name] is None) == (stream == "gaussian")


@pytest.mark.parametrize("stream", STREAMS.names())
def test_held_out_images_are_tested_on_and_not_trained_on(start, found, stream):
    assert start(line_of(stream)) == 0
    assert start(line_of(stream, "--validation 0.25"), "validated") == 0
    whole, validated = found()[0], found("validated")[0]
    assert sum(whole["counts"]["total"][-1]) == 6 * 8
    assert sum(validated["counts"]["total"][-1]) == 6 * 5
    assert validated["steps"] < whole["steps"]


@pytest.mark.slow
def test_a_grid_counts_the_steps_before_it_runs_and_ends_with_a_report(small_root, tmp_path, capsys):
    streams = " ".join(STREAMS.names())
    words = f"--datasets seq-arrays --models er_ace --methods BN TBBN --seeds 0 --stream {streams} --nowandb "
    words += f"--buffer_size 20 --lr 0.05 --nf 4 --batch_size 8 --n_tasks 3 --data_root {small_root} --group g "
    words += f"--results_dir {tmp_path}"
    assert launch([*words.split(), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert launch([*words.split(), "-y", "--jobs", "1"]) == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "g").glob("*/result.json")]
    assert planned["training_steps"] == sum(result["steps"] for result in results)
    assert len(results) == 2 * len(STREAMS.names())
    table = (tmp_path / "g" / "table.md").read_text()
    assert all(stream in table for stream in STREAMS.names())
    assert (tmp_path / "g" / "report.html").exists()


@pytest.mark.parametrize("stream", STREAMS.names())
def test_weights_and_biases_is_told_the_stream_and_the_accuracies_after_each_task(
    small_root, tmp_path, monkeypatch, stream
):
    note = "open(os.environ['FAKE_FOLDER'] + '/{0}', 'a').write(json.dumps({1}, default=dict) + '\\n')"
    made = note.format("made", "settings")
    logged = note.format("logged", "{name: each for name, each in values.items() if isinstance(each, float)}")
    folder = install_fake(tmp_path / "packages", monkeypatch, init=made, log=logged)
    line = f"{line_of(stream)} {MEMORY} {SETTING} {MACHINE.replace('--nowand', '--wandb_mode offline')}"
    assert main(f"{line} --data_root {small_root} --results_dir {tmp_path}".split()) == 0
    (settings,) = map(json.loads, (folder / "made").read_text().splitlines())
    values = [json.loads(each) for each in (folder / "logged").read_text().splitlines()]
    assert settings["config"]["stream"] == stream
    assert stream == "split" or f"stream={stream}" in settings["group"]
    (path,) = tmp_path.rglob("result.json")
    accuracies = json.loads(path.read_text())["metrics"]["class_il"]["A"]
    assert [each["class_il/mean"] for each in values if "class_il/mean" in each] == accuracies


# -- Costs and budgets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_learns_tasks_of_unequal_sizes_in_as_many_rows_as_planned(start, found, method):
    """Which a budget is planned by; those that memory lacks while it is being filled are counted as if it had them."""
    assert start(learnable(method)) == 0
    result = found()[0]
    assert result["counts"]["total"][-1] == [24, 16, 8]
    cost = result["cost"]
    planned = planned_rows(learnable(method))
    lacking = 2 * 8 if METHODS.get(method).protocol == "online" else 0
    assert planned - lacking <= cost["backward_rows"] <= planned
    assert cost["backward_rows"] <= cost["forward_rows"] <= 2 * cost["backward_rows"]


# -- Any split --------------------------------------------------------------------------------------------------------


def test_a_plugin_may_have_tasks_of_its_own_sizes(small_root, tmp_path, capsys):
    """`seq-uneven` of six classes."""
    file = tmp_path / "seq_uneven.py"
    file.write_text(
        "from datasets.seq_arrays import SeqArrays\nfrom utils.config.registry import DATASETS\n\n\n"
        "@DATASETS.register('seq-uneven')\nclass SeqUneven(SeqArrays):\n    task_sizes = (3, 2, 1)\n\n"
        "    def __init__(self, **options):\n        super().__init__(**options)\n        self.num_tasks = 3\n"
    )
    line = f"--plugin {file} --model ft --nl TBBN --dataset seq-uneven --backbone resnet18 --nf 4 --epochs 1 "
    line += f"--batch_size 8 --buffer_size 12 {MACHINE} --data_root {small_root} --results_dir {tmp_path}"
    try:
        load_plugins([str(file)])
        assert main(line.split()) == 0
        assert "3 tasks of 3, 2, 1 classes" in capsys.readouterr().out
        (path,) = Path(tmp_path).rglob("result.json")
        assert json.loads(path.read_text())["counts"]["total"][-1] == [24, 16, 8]
    finally:
        DATASETS._parts.pop("seq-uneven")


# -- Long tails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", STREAMS.names())
def test_a_long_tail_goes_with_any_stream_and_leaves_the_test_images(start, found, stream):
    assert start(line_of(stream, "--imbalance exp --imbalance_ratio 10")) == 0
    result = found()[0]
    trained = result["classes"]["trained"]
    assert sorted(trained, reverse=True) == [20, 12, 7, 5, 3, 2]
    assert trained != sorted(trained, reverse=True)
    assert result["classes"]["total"] == [8] * 6
    correct = result["classes"]["correct"]
    few = [100 * right / 8 for size, right in zip(trained, correct, strict=True) if size < 20]
    assert result["metrics"]["class_il"]["A_few"] == pytest.approx(sum(few) / len(few))
    assert result["metrics"]["class_il"]["A_many"] is None


# -- Blurred boundaries -----------------------------------------------------------------------------------------------

BLURRED = [name for name in STREAMS.names() if STREAMS.get(name).boundaries != "sharp"]


@pytest.mark.parametrize("stream", BLURRED)
def test_all_classes_seen_so_far_are_tested(start, found, stream):
    assert start(line_of(stream)) == 0
    result = found()[0]
    total = result["counts"]["total"]
    assert sum(total[-1]) == 6 * 8
    assert sum(filter(None, total[0])) % 8 == 0
    assert [sum(filter(None, row)) for row in total] == sorted(sum(filter(None, row)) for row in total)
    seen = [
        100 * sum(filter(None, right)) / sum(filter(None, of))
        for right, of in zip(result["counts"]["class_il"], total, strict=True)
    ]
    assert result["anytime"] == result["metrics"]["class_il"]["A"] == pytest.approx(seen)
    lines = [json.loads(line) for line in found()[1].splitlines()]
    lines = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["mean"]["class_il"] for line in lines] == pytest.approx(seen)
    assert [[of is None for of in row] for row in total] == [
        [value is None for value in line["class_il"]] + [True] * (3 - len(line["class_il"])) for line in lines
    ]


@pytest.mark.parametrize("stream", BLURRED)
def test_points_inside_a_segment_count_the_classes_that_came_by_then(start, found, monkeypatch, stream):
    came, update = [set()], MemoryMethod.note_rows

    def note(self, batch):
        update(self, batch)
        came.append(came[-1] | set(batch.labels[: batch.num_current].tolist()))

    monkeypatch.setattr(MemoryMethod, "note_rows", note)
    assert start(line_of(stream, "--eval_every 1")) == 0
    points = found()[0]["points"]
    tested = [sum(filter(None, total)) for total in points["total"]]
    assert tested == [8 * len(came[step]) for step in points["step"]]
    assert len(came[1]) < len(came[-1]) == 6


def unbounded():
    """Every method that needs no boundaries on every stream without them; each meets both layers that need tasks."""
    methods = [name for name in METHODS.names() if not METHODS.get(name).needs_boundaries]
    for row, stream in enumerate(BLURRED):
        for column, method in enumerate(methods):
            yield stream, method, ("TBBN", "AdaB2N")[(row + column) % 2]


@pytest.mark.parametrize(("stream", "method", "norm"), list(unbounded()))
def test_methods_without_a_need_for_boundaries_learn(start, found, stream, method, norm):
    weights = {"der": " --alpha 0.5", "derpp": " --alpha 0.5 --beta 0.5"}.get(method, "")
    assert start(f"--stream {stream} --n_tasks 3 --model {method} --nl {norm}{weights}") == 0
    assert 0 <= found()[0]["metrics"]["class_il"]["A_f"] <= 100


@pytest.mark.parametrize("method", [name for name in METHODS.names() if METHODS.get(name).needs_boundaries])
@pytest.mark.parametrize("stream", BLURRED)
def test_a_method_that_needs_boundaries_is_refused_by_its_name(start, capsys, stream, method):
    assert start(f"--stream {stream} --model {method} --backbone resnet18") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --model {method} needs tasks that share no class, and --stream {stream} has none")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model joint --stream gaussian --n_tasks 1", "which --model joint is to shuffle"),
        ("--stream gaussian --epochs 2", "--stream gaussian comes once"),
        ("--stream blurry --ignore_other_metrics 0", "forward transfer has no meaning"),
        ("--stream si-blurry --retune_norms 1", "--retune_norms"),
        ("--stream blurry --blurry_minor 1.5", "--blurry_minor"),
        ("--stream blurry --blurry_disjoint -0.1", "--blurry_disjoint"),
        ("--stream blurry --first_task_classes 3", "it belongs to stream split"),
        ("--blurry_minor 0.2", "it belongs to stream blurry"),
        ("--stream blurred", "unknown stream 'blurred'"),
        ("--n_tasks 7", "--n_tasks leaves a task without classes"),
        ("--stream gaussian --n_tasks 7", "--n_tasks leaves a task without classes"),
        ("--first_task_classes 6", "--first_task_classes 6 leaves no class"),
        ("--imbalance exp --imbalance_ratio 100", "--imbalance_ratio 100 leaves a class without images"),
        ("--imbalance exp --imbalance_ratio 0.5", "--imbalance_ratio"),
        ("--stream gaussian --eval_every 2 --eval_images 1", "--eval_images 1 leaves out all test images of some"),
        ("--eval_every 1000", "--eval_every 1000 evaluates nowhere inside a task"),
        ("--stream blurry --blurry_disjoint 1 --blurry_minor 0.3", "it needs --blurry_disjoint below 1"),
        ("--stream si-blurry --n_tasks 1 --blurry_disjoint 0.3", "it needs at least 2 tasks"),
        (
            "--stream gaussian --gaussian_width 100 --imbalance exp --imbalance_ratio 20 --n_tasks 6",
            "choose fewer tasks",
        ),
        ("--eval_every 2 --eval_images 16", "--eval_images 16 leaves out no image"),
        ("--imbalance_ratio 5", "it belongs to --imbalance exp"),
    ],
)
def test_mistakes_are_one_line_before_training(start, tmp_path, capsys, words, message):
    assert start(f"--model er {words}") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.rglob("config.json"))


def test_without_boundaries_norm_layers_count_the_groups_of_classes_that_came(start, monkeypatch):
    """Nothing is told at the beginning of a segment, and the count goes up by what came."""
    told, rows = [], []
    plan = MemoryMethod.note_rows

    def note(self, batch):
        plan(self, batch)
        rows.append(batch.tasks)
        told.append((self.norm_task, [int(each.task) for each in self.network.modules() if hasattr(each, "cur_tasks")]))

    monkeypatch.setattr(MemoryMethod, "note_rows", note)
    assert start("--stream gaussian --n_tasks 3 --model er_ace --nl TBBN") == 0
    newest = 0
    for batch, (task, layers) in zip(rows, told, strict=True):
        newest = max(newest, int(batch.max()))
        assert task == newest
        assert set(layers) == {newest}
    assert newest == 2
