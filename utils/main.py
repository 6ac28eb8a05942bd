"""One run, end to end: `python utils/main.py --model er_ace --dataset seq-cifar10 --buffer_size 500 --nl AdaB2N …`.

This file alone imports all packages. What is heavy is imported inside the functions, so that `--help` and a user's
mistake answer at once and a signal during the imports ends the run quietly.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if __name__ == "__main__":
    # The interpreter puts this file's folder first; the root comes first, also before installed `utils` and `datasets`.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from utils.interruption import interrupt_quietly, leave

    interrupt_quietly()

from utils.config.checks import check_capture
from utils.config.configuration import Configuration, cell_name, configure, data_root, readable_name, restore
from utils.config.registry import as_user_errors
from utils.errors import (
    COMPLETE,
    MISTAKE,
    NO_DEVICE,
    OUT_OF_MEMORY,
    DiskError,
    Diverged,
    RunError,
    Stopped,
    UserError,
    explain_missing,
    is_device_busy,
    is_disk_error,
    is_out_of_memory,
)
from utils.machine import default_threads, prepare_streams
from utils.records.content import DamagedRecord, RecordedConfig
from utils.records.record import FORMER, Record
from utils.run.stopping import StopRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from backbone.norm import Norm
    from datasets.arrangement import Arrangement
    from datasets.arrays import Arrays
    from datasets.stream import Stream
    from models.base import Method
    from models.heads import Head, Network
    from utils.config.parts import DatasetPart
    from utils.data.augment import Augmentation, Transform
    from utils.data.budget import PlannedStages
    from utils.data.buffer import Memory
    from utils.data.exemplars import ExemplarMemory
    from utils.data.plan import StreamSizes
    from utils.run.progress import Screen
    from utils.run.training import Sinks, Training


def main(arguments: list[str] | None = None) -> int:
    """Run one configuration; the exit code says how it ended (`utils/errors.py`)."""
    prepare_streams()
    with StopRequest() as stop:
        try:
            return run(sys.argv[1:] if arguments is None else arguments, stop)
        except (RunError, Stopped) as error:
            return _fail(str(error), error.exit_code)
        except ModuleNotFoundError as error:
            if not (reason := explain_missing(error)):
                raise
            return _fail(reason, MISTAKE)
        except OSError as error:
            if not is_disk_error(error):
                raise
            return _fail(f"{error.filename or 'the disk'}: {error.strerror}", DiskError.exit_code)
        except (MemoryError, RuntimeError) as error:
            if is_device_busy(error):
                return _fail("the GPU takes no further process: another one has it for itself", NO_DEVICE)
            if not is_out_of_memory(error):
                raise
            return _fail("out of memory; try a smaller --batch_size, --buffer_size or --nf", OUT_OF_MEMORY)


def _fail(message: str, exit_code: int) -> int:
    with contextlib.suppress(BrokenPipeError):  # the reader of both streams may be gone, such as `head`
        print(f"error: {message}" if exit_code < 128 else message, file=sys.stderr, flush=True)
    return exit_code


@dataclass(frozen=True)
class Start:
    """One start of a run, which may resume an earlier one.

    Attributes:
        arguments: the command line after `utils/main.py`.
        config: the options in force.
        dataset: reads the images, and says how they are augmented.
        arrays: the images.
        fingerprint: of images and labels (`datasets/arrays.py`).
        identity: of the run (`Configuration.identity`).
        record: the folder of the run.
        screen: says what happens.
        stop: whether the run is to stop.
        began: when, by the monotonic clock.
    """

    arguments: list[str]
    config: Configuration
    dataset: DatasetPart
    arrays: Arrays
    fingerprint: str
    identity: str
    record: Record
    screen: Screen
    stop: StopRequest
    began: float


def run(arguments: list[str], stop: StopRequest) -> int:
    """Find or start the record of this configuration and bring it to its end."""
    began = time.monotonic()
    config = configure(arguments)
    from utils.run.progress import Screen
    from utils.run.summary import note_what_is_not_kept, show_result

    screen = Screen(verbose=not config.non_verbose)
    warnings.showwarning = lambda message, *where: screen.say(f"note: {message}")
    dataset = config.parts.dataset(**config.chosen(config.parts.dataset.options))
    try:
        arrays = dataset.load(data_root(config.data_root))
    except UserError as error:
        if not config.dry_run:
            raise
        show_dry_run_without_data(config, str(error), screen)
        return COMPLETE
    fingerprint = arrays.fingerprint()
    group = f"{config.group}/debug" if config.debug_mode else config.group
    identity = config.identity(fingerprint)
    record = Record.of_run(Path(config.results_dir), group, readable_name(config), identity)
    start = Start(arguments, config, dataset, arrays, fingerprint, identity, record, screen, stop, began)
    if config.dry_run:
        show_dry_run(start)
        return COMPLETE
    if config.rerun and record.folder.exists():
        check_start(start)
        with contextlib.closing(record.open(is_locked=not config.no_lock)):
            screen.say(f"set aside: {record.set_aside(FORMER).name}")
    if not complete(start):
        screen.say(f"already complete: {record.folder} (--rerun sets it aside and starts over)")
        note_what_is_not_kept(config, record, screen)
        show_result(config, record, screen)
    return COMPLETE


def complete(start: Start) -> bool:
    """Hold the record, train the run to its end and show its result; False if it was complete before.

    Raises:
        Busy: another process holds the record.
        Diverged: the run has diverged, now or in an earlier start.
    """
    from utils.run.summary import show_result

    config, record = start.config, start.record
    if record.complete:
        return False
    if config.no_lock:
        warnings.warn(
            "without a lock (--no_lock), another process at the same run would corrupt its record", stacklevel=1
        )
    with contextlib.closing(record.open(is_locked=not config.no_lock)):
        if record.complete:  # by another process, before this one held the record
            return False
        record.remove_progress()
        failure = record.read_failure()
        if failure is not None:
            raise Diverged(f"{failure.message} (in an earlier start; --rerun tries again)")
        train(start)
        show_result(config, record, start.screen)
    return True


def without_rerun(arguments: list[str]) -> list[str]:
    """The words without `--rerun` and its value, which resume the same run when it is started again."""
    words, kept = iter(arguments), []
    for word in words:
        if word.partition("=")[0] != "--rerun":
            kept.append(word)
        elif "=" not in word:
            kept += [following for following in islice(words, 1) if following.startswith("--")]
    return kept


def train(start: Start) -> None:
    """Build the run, train it from its checkpoint on, and write its result."""
    from backbone.kernels import choose_norm_kernels, word_for_start
    from utils.data.loaders import Loaders
    from utils.run.environment import (
        check_multiprocessors,
        choose_device,
        describe,
        limit_multiprocessors,
        set_arithmetic,
    )
    from utils.run.steps import make_capture
    from utils.run.training import Training

    config, record, arrays = start.config, start.record, start.arrays
    former = read_former_start(config, record, start.screen) or RecordedConfig({})
    limit_multiprocessors(config.mps_percent, former.environment, start.screen.say)
    device = choose_device(config.device)
    check_multiprocessors(device, config.mps_percent, former.environment, start.screen.say)
    threads = former.environment.get("threads") or config.threads or default_threads()
    set_arithmetic(device, config.precision, config.fast, threads)
    norm, say = cast("type[Norm]", config.parts.norm), start.screen.say
    wanted_kernels = word_for_start(config.fused_norms, former.environments, device, say)
    norm_compiler = choose_norm_kernels(wanted_kernels, norm, config.precision, device, say)
    augmentation = make_augmentation(config, start.dataset, arrays, device)
    stream = make_stream(config, arrays, device)
    arrays.release()
    planned = plan_run(config, stream)
    method = make_method(config, stream, augmentation, device)
    method.check_batches(planned.by_task)
    capture = make_capture(config, method.uncapturable(), device, start.screen.say)
    write_start(start, former, describe(device, threads, augmentation.memory_format, norm_compiler))
    sinks = make_sinks(start, planned, device)
    loaders = Loaders(stream, method.memory, augmentation, config.batch_size, config.seed)
    training = Training(method, stream, planned, loaders, augmentation, config, sinks, start.stop, capture)
    result = train_to_end(start, training, device, threads)
    if config.keep_model:
        keep_model(record, stream, method.network, augmentation.transform)
    record.write_result(result)
    sinks.tracker.finish(result)
    if not config.keep_checkpoint:
        record.checkpoint_path.unlink(missing_ok=True)


def write_start(start: Start, former: RecordedConfig, environment: dict[str, Any]) -> None:
    """Write `config.json`.

    Args:
        start: whose configuration it holds.
        former: what it held before.
        environment: versions, hardware and threads of this start.
    """
    config = start.config
    command = ["python", "utils/main.py", *without_rerun(start.arguments)]
    if config.threads is None:  # where the command is repeated, the environment may say another number
        command += ["--threads", str(environment["threads"])]
    if config.mps_percent is None and environment.get("mps_percent") is not None:
        command += ["--mps_percent", f"{environment['mps_percent']:g}"]
    others = [each for each in former.environments if each != environment]
    start.record.write_config(
        {
            "identity": start.identity,
            "data": start.fingerprint,
            "command": command,
            "values": config.values,
            "origins": config.origins,
            "plugins": config.parts.unreleased_code,
            "environment": environment,
            "environments": [*others, environment],
        }
    )


def make_sinks(start: Start, planned: PlannedStages, device: torch.device) -> Sinks:
    """Where the run writes and shows what happens: its record, its tracker, the screen."""
    from utils.records.trackers import make_tracker
    from utils.run.environment import peak_memory
    from utils.run.progress import ProgressReport
    from utils.run.training import Sinks

    config, record, screen = start.config, start.record, start.screen
    tracker = make_tracker(
        config.wandb_mode,
        entity=config.wandb_entity,
        project=config.wandb_project or config.dataset,
        name=config.wandb_name or f"{cell_name(config)} s{config.seed}",
        group=cell_name(config),
        notes=config.notes or None,
        tags=[config.group],
        run_id=start.identity[:16],
        config=config.values,
        folder=record.folder,
        say=screen.say,
    )
    num_steps = planned.task_ends(config)[-1]
    progress = ProgressReport(record, screen, planned.sizes.num_tasks, num_steps, lambda: peak_memory(device))
    return Sinks(record, tracker, screen, progress, start.identity)


def train_to_end(start: Start, training: Training, device: torch.device, threads: int) -> dict[str, Any]:
    """Train from the checkpoint on; gives what `result.json` will hold.

    A run that fails or is stopped closes its tracker; that it diverged is written down.
    """
    from utils.run.summary import show_plan

    record, screen = start.record, start.screen
    try:
        training.restore()
        screen.log = record.append_log
        for conversion in start.arrays.conversions:
            screen.say(f"note: {conversion}")
        show_plan(start.config, training.planned, record, screen, device, threads)
        training.measured.add_seconds("start", time.monotonic() - start.began)
        training.run()
        return make_result(start, training, device)
    except (RunError, Stopped) as error:
        if isinstance(error, Diverged):
            record.write_failure({"kind": "diverged", "message": str(error), "step": training.position.step})
        training.sinks.tracker.close(error.exit_code)
        raise


def read_former_start(config: Configuration, record: Record, screen: Screen) -> RecordedConfig | None:
    """The recorded configuration of the start that a run resumes, None for a new run.

    A run resumes with the same number of threads, so that sums are taken in the same order. Where that number is lost,
    the checkpoint is set aside, and the run starts over.
    """
    if not record.started:
        return None
    try:
        former = record.read_config()
    except DamagedRecord:
        name = record.set_checkpoint_aside().name
        screen.say(f"note: config.json is damaged: {name} is set aside, and the run starts over")
        return None
    threads = former.environment.get("threads") if former else None
    if threads is not None and config.threads not in (None, threads):
        screen.say(f"note: --threads {config.threads} is ignored: the run resumes with {threads}, as it started")
    return former


def make_stream(config: Configuration, arrays: Arrays, device: torch.device) -> Stream:
    """The tasks of the data in this run's class order."""
    from datasets.stream import Stream
    from utils.data.class_order import class_order_of
    from utils.data.long_tail import make_long_tail

    return Stream(
        arrays,
        arrangement=cast("Arrangement", config.arrangement),
        label_of_class=class_order_of(config, len(arrays.class_names)),
        validation=config.validation,
        long_tail=make_long_tail(config),
        held_out=config.val_fraction,
        seed=config.seed,
        device=device,
    )


def make_augmentation(
    config: Configuration, dataset: DatasetPart, arrays: Arrays, device: torch.device
) -> Augmentation:
    """The dataset's transform for the method or the protocol, with a generator each for stream and memory rows, and
    the memory format that suits the device."""
    from utils.data.augment import Augmentation
    from utils.run.environment import choose_memory_format
    from utils.seeds import generator

    return Augmentation(
        dataset.transform(config.parts.transforms(config.protocol), arrays),
        {purpose: generator(config.seed, "augmentation", purpose) for purpose in ("stream", "memory")},
        choose_memory_format(device, config.precision),
    )


def make_method(config: Configuration, stream: Stream, augmentation: Augmentation, device: torch.device) -> Method:
    """The method with its memory, and its network in the memory format of the images."""
    import torch

    method = config.parts.method
    method.check(config.values, stream.num_classes)
    memory = None
    if method.uses_memory:
        make_memory = make_exemplar_memory if method.keeps_exemplars else make_replay_memory
        memory = make_memory(config, stream, augmentation, device)
    sample = torch.zeros((1, *stream.image_shape), dtype=torch.uint8, device=device)
    image_size = augmentation.prepare(sample).shape[-1]
    network = make_network(config, stream.num_tasks, stream.num_classes, image_size).to(device)
    network.arrange(augmentation.memory_format)
    made = cast("type[Method]", method)  # its class is known to this file alone
    return made(network, config, stream, memory, augmentation.prepare)


def make_replay_memory(
    config: Configuration, stream: Stream, augmentation: Augmentation, device: torch.device
) -> Memory:
    """A memory that is filled while training."""
    from utils.data.buffer import make_memory

    return make_memory(
        config.buffer_mode,
        config.buffer_size,
        num_tasks=stream.num_tasks,
        device=device,
        augmentation=augmentation,
        seed=config.seed,
    )


def make_exemplar_memory(
    config: Configuration, stream: Stream, augmentation: Augmentation, device: torch.device
) -> ExemplarMemory:
    """A memory that is filled after each task."""
    from utils.data.exemplars import ExemplarMemory

    return ExemplarMemory(
        config.buffer_size,
        selection=config.exemplar_selection,
        quota=config.quota,
        reherd=config.reherd,
        num_classes=stream.num_classes,
        device=device,
        seed=config.seed,
    )


@as_user_errors()
def make_network(config: Configuration, num_tasks: int, num_classes: int, image_size: int) -> Network[Head]:
    """Backbone and classifier.

    Their weights are drawn on the CPU from generators of their own, so that they are the same for every norm layer.
    """
    import torch

    from backbone.norm import norm_factory
    from models.heads import HEADS, Network
    from utils.seeds import derive_seed

    parts = config.parts
    norm_options = config.chosen(parts.norm.options) | {"affine": config.affine}
    norm = norm_factory(config.nl, num_tasks=num_tasks, **norm_options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        backbone = parts.backbone(norm, image_size=image_size, **config.chosen(parts.backbone.options))
        if not hasattr(backbone, "num_features"):
            raise UserError(
                f"--backbone {config.backbone}: its constructor does not set `num_features`, their number D"
            )
        torch.manual_seed(derive_seed(config.seed, "head", 0))
        kind = HEADS[parts.head]
        head = kind(backbone.num_features) if kind.grows else kind(backbone.num_features, num_classes)
    if not any(isinstance(module, parts.norm) for module in backbone.modules()):
        raise UserError(f"--nl {config.nl} reached no layer of --backbone {config.backbone}")
    return Network(backbone, head, half=config.precision == "bf16")


def plan_run(config: Configuration, stream: Stream) -> PlannedStages:
    """What a run trains.

    Raises:
        UserError: a stage cannot be trained, or a measurement that is asked for cannot be made.
    """
    from utils.data.budget import plan_stages
    from utils.data.inside import check_inside
    from utils.data.plan import StreamSizes

    planned = plan_stages(config, StreamSizes.of(stream))
    check_retuning(config, planned.sizes)
    tested = stream.pool(range(stream.num_tasks), "test").labels.bincount(minlength=stream.num_classes)
    check_inside(config, planned, tested.tolist())
    return planned


def check_retuning(config: Configuration, sizes: StreamSizes) -> None:
    """Raise UserError if norm layers cannot be re-tuned: the method has other scores, or no batch can be filled."""
    from models.base import Method
    from utils.data.plan import all_until, count_batches

    if not config.retune_norms:
        return
    method = cast(type[Method], config.parts.method)
    if method.scores is not Method.scores:
        raise UserError(
            f"--retune_norms measures the network's own outputs, but --model {config.model} does not predict by them"
        )
    data = all_until(0 if method.measures_every_task(config.parts.head) else sizes.num_tasks - 1)
    try:
        count_batches(data, [sizes.images_of(data.rows.tasks)], config.batch_size)
    except UserError as error:
        raise UserError(f"--retune_norms trains on full batches: {error}") from None


def keep_model(record: Record, stream: Stream, network: Network[Head], transform: Transform) -> None:
    """Write `model.pt`: the weights, and what is needed to build their network and to prepare its images."""
    import torch

    from utils.data.augment import normalise
    from utils.run.checkpoint import save_model

    sample = torch.zeros((1, *stream.image_shape), dtype=torch.uint8)
    save_model(
        record.model_path,
        {
            "network": network.state_dict(),
            "label_of_class": [int(label) for label in stream.label_of_class],
            "task_sizes": list(stream.task_sizes),
            "image_size": normalise(sample, transform).shape[-1],
            "transform": asdict(transform),
        },
    )


@dataclass(frozen=True)
class TrainedRun:
    """What a complete run has learned.

    Attributes:
        network: normalised images [N, C, H, W] -> scores [N, K]; on the CPU, in evaluation mode.
        prepare: raw images, [N, C, H, W] uint8 -> normalised ones; raises UserError for images of another type, shape
            or size.
        config: its configuration.
        class_order: the classes in the order in which they were learned, by their numbers in the data: the network's
            output k is of class `class_order[k]`.
    """

    network: Network[Head]
    prepare: Callable[[Tensor], Tensor]
    config: Configuration
    class_order: tuple[int, ...]


def load_run(folder: str | Path) -> TrainedRun:
    """The trained network of a record's folder, with its configuration and class order.

    Raises:
        UserError: the folder holds no `model.pt`, or one of another version of the suite; a part no longer exists.
    """
    from utils.data.augment import Transform, prepare
    from utils.run.checkpoint import load_model, restoring

    record = Record(Path(folder))
    content, saved = load_model(record.model_path), record.read_config()
    if saved is None:
        raise UserError(f"{record.config_path} is missing: without it the network cannot be built")
    config = restore(saved.values, saved.origins)
    sizes, labels = content["task_sizes"], content["label_of_class"]
    network = make_network(config, len(sizes), len(labels), content["image_size"])
    if config.parts.head != "linear":
        for size in sizes:
            network.head.grow(size)
    with restoring(record.model_path):
        network.load_state_dict(content["network"])
    prepare_images = partial(prepare, transform=Transform(**content["transform"]), image_size=content["image_size"])
    order = tuple(sorted(range(len(labels)), key=labels.__getitem__))
    return TrainedRun(network.eval(), prepare_images, config, order)


def make_result(start: Start, training: Training, device: torch.device) -> dict[str, Any]:
    """What `result.json` holds."""
    from utils.data.budget import budget_rows
    from utils.records.metrics import summarise
    from utils.run.environment import peak_memory
    from utils.run.measurements import weights_digest

    config, measured = start.config, training.measured
    budget = {"rows": budget_rows(config), "share": round(training.planned.share, 6)}
    return {
        "identity": start.identity,
        "metrics": summarise(measured),
        "counts": {"class_il": measured.class_il, "task_il": measured.task_il, "total": measured.total},
        "untrained": measured.untrained or None,
        "anytime": measured.anytime,
        "classes": measured.classes or None,
        **({"points": measured.points} if measured.points else {}),
        **({"norms": measured.norms} if measured.norms else {}),
        **({} if measured.boundaries == "sharp" else {"boundaries": measured.boundaries}),
        "weights_sha256": weights_digest(training.method.network),
        "steps": training.position.step,
        **({"cost": measured.cost} if measured.cost else {}),
        **({"budget": budget} if config.budget_steps else {}),
        "timings": {f"{name}_seconds": round(seconds, 3) for name, seconds in measured.seconds.items()},
        "peak_memory": peak_memory(device),
    }


def show_dry_run(start: Start) -> None:
    """Show the plan of a run without starting it: its steps, its state, and every value that its result depends on.

    Raises:
        UserError: the run could not begin.
    """
    from utils.run.summary import show_plan, show_values

    config, record, screen = start.config, start.record, start.screen
    planned, device, threads = check_start(start)
    show_plan(config, planned, record, screen, device, threads)
    state = "complete" if record.complete else "started" if record.started else "not run"
    screen.say(f"  {planned.task_ends(config)[-1]:,} training steps; {state}")
    show_values(config, screen)


def check_start(start: Start) -> tuple[PlannedStages, torch.device, int]:
    """What a run would train, on which device and with how many threads.

    Raises:
        UserError: it could not begin. What only the memory of its device refuses, or only a compiler where kernels are
            not asked for by `--fused_norms on`, is not found.
    """
    import torch

    from backbone.kernels import choose_norm_kernels

    config, host = start.config, torch.device("cpu")
    device, threads = _planned_arithmetic(config)
    augmentation = make_augmentation(config, start.dataset, start.arrays, host)
    stream = make_stream(config, start.arrays, host)
    planned = plan_run(config, stream)
    method = make_method(config, stream, augmentation, host)
    method.check_batches(planned.by_task)
    check_capture(config.cuda_graph, method.uncapturable(), device.type)
    if config.fused_norms == "on":
        norm = cast("type[Norm]", config.parts.norm)
        choose_norm_kernels("on", norm, config.precision, device, lambda note: None)
    return planned, device, threads


def _planned_arithmetic(config: Configuration) -> tuple[torch.device, int]:
    """The device and the threads of a new run. Raises UserError if they cannot be."""
    from utils.run.environment import choose_device, limit_multiprocessors, set_arithmetic

    limit_multiprocessors(config.mps_percent, {}, lambda note: None)
    device, threads = choose_device(config.device), config.threads or default_threads()
    set_arithmetic(device, config.precision, config.fast, threads)
    return device, threads


def show_dry_run_without_data(config: Configuration, reason: str, screen: Screen) -> None:
    """Show what is known of a run whose data cannot be read, for a reason in words.

    Raises:
        UserError: the run could not begin, whatever the images; of a dataset whose classes and size follow from them,
            neither their order nor the network is checked.
    """
    from utils.data.class_order import class_order_of
    from utils.run.summary import show_plan, show_values

    device, threads = _planned_arithmetic(config)
    num_classes, image_size = config.parts.dataset.num_classes, config.parts.dataset.image_size
    if num_classes and image_size:
        class_order_of(config, num_classes)
        make_network(config, len(config.arrangement.task_sizes(num_classes, config.seed)), num_classes, image_size)
    show_plan(config, None, None, screen, device, threads)
    screen.say(f"  steps and record are unknown without the data: {reason}")
    show_values(config, screen)


if __name__ == "__main__":
    leave(main())
