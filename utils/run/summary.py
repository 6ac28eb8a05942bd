"""What is printed before a run starts and when it is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.config.command_line import typed_text
from utils.config.configuration import Configuration
from utils.config.options import DEFAULT_STREAM
from utils.config.protocols import PROTOCOLS
from utils.data.budget import PlannedStages, budget_rows
from utils.data.plan import part_sizes, sizes_in_words
from utils.records.metrics import fixed
from utils.records.record import Record
from utils.run.progress import Screen

if TYPE_CHECKING:
    import torch


def show_plan(
    config: Configuration,
    planned: PlannedStages | None,
    record: Record | None,
    screen: Screen,
    device: torch.device,
    threads: int,
) -> None:
    """Say what is about to run, and which values come from a publication or a preset.

    Args:
        config: of the run.
        planned: what it trains; None: not known without the data.
        record: its folder; None: not known without the data.
        screen: where to say it.
        device, threads: what it runs on.
    """
    tasks = _describe_tasks(config, planned) + ("" if config.stream == DEFAULT_STREAM else f", {config.stream}")
    screen.say(f"{config.model} on {config.dataset} ({tasks}), {config.nl} in {config.backbone}, seed {config.seed}")
    steps = [describe_epochs(config), f"lr {config.lr:g}", describe_batches(config)]
    if config.budget_steps:
        share = f"{planned.share:.1%} of it by " if planned else ""
        steps.insert(1, f"{share}a budget of {budget_rows(config):,} rows")
    where = f"cpu, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else str(device)
    screen.say(f"  {', '.join(steps)}, on {where}", detail=True)
    by_origin: dict[str, list[str]] = {}
    for name, origin in config.origins.items():
        is_shown = origin.startswith(("published", "preset")) or origin.endswith("in proportion")
        if is_shown and name in config.used():
            by_origin.setdefault(origin, []).append(f"{name} {typed_text(config.values[name])}")
    for origin, values in by_origin.items():
        screen.say(f"  {origin}: {', '.join(values)}", detail=True)
    for warning in config.parts.method.warnings(config.values, config.parts.norm):
        screen.say(f"  note: {warning}", detail=True)
    if record is not None:
        screen.say(f"  record: {record.folder}", detail=True)


def _describe_tasks(config: Configuration, planned: PlannedStages | None) -> str:
    if planned is not None:
        return sizes_in_words(planned.sizes.task_sizes)
    num_classes = config.parts.dataset.num_classes
    return sizes_in_words(config.arrangement.task_sizes(num_classes, config.seed)) if num_classes else "unknown classes"


def show_values(config: Configuration, screen: Screen) -> None:
    """Every value that the result depends on, and where it comes from."""
    for name, value in sorted(config.used().items()):
        if config.options[name].changes_result:
            origin = config.origins[name] if value == config.values[name] else "by the others"
            screen.say(f"  --{name} {typed_text(value) or 'none'}  ({origin})", detail=True)


def describe_epochs(config: Configuration) -> str:
    """The number of epochs, in words."""
    main = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    return f"{main}, {config.second_epochs} in the second stage" if "second_epochs" in config.used() else main


def describe_batches(config: Configuration) -> str:
    """What a batch is made of, in words."""
    method = config.parts.method
    if not method.uses_memory:
        return f"batches of {config.batch_size}"
    if method.keeps_exemplars and config.batching == "union":
        return f"batches of {config.batch_size} of the task's images and {config.buffer_size} exemplars together"
    if method.keeps_exemplars:
        current, memory = part_sizes(config.batch_size, config.batch_ratio)
        return f"batches of {current} + {memory} from the second task on, {config.buffer_size} exemplars"
    rows = f"{config.batch_size} + {config.minibatch_size}"
    return f"batches of {rows} from a memory of {config.buffer_size} ({config.buffer_mode}), {config.forward} forward"


def note_what_is_not_kept(config: Configuration, record: Record, screen: Screen) -> None:
    """Say what a complete run is asked to keep and did not, as it was not asked when it was trained."""
    kept = (
        (config.keep_model, record.model_path, "the trained weights"),
        (config.keep_checkpoint, record.checkpoint_path, "the last checkpoint"),
    )
    lost = [f"{what} ({path.name})" for is_asked, path, what in kept if is_asked and not path.exists()]
    if lost:
        screen.say(f"note: it kept neither {lost[0]} nor {lost[1]}" if lost[1:] else f"note: it did not keep {lost[0]}")


def show_result(config: Configuration, record: Record, screen: Screen) -> None:
    """The final metrics of a complete run, those that lead in the protocol."""
    result = record.read_result()
    assert result is not None  # of a complete run
    leading = PROTOCOLS[config.protocol].leading_metrics
    for scenario, title in (("class_il", "Class-IL"), ("task_il", "Task-IL")):
        metrics = result.metrics[scenario]
        shown = [f"{name} {fixed(metrics[name])}" for name in leading if metrics.get(name) is not None]
        screen.say(f"{title}: {'  '.join(shown)}")
    seconds = sum(result.seconds.values())
    screen.say(f"{result.steps} steps in {seconds:.0f} s; record complete", detail=True)
