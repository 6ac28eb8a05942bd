"""The task loop, over objects: it names no concrete method, dataset or norm layer.

Between any two steps the whole run is described by its `Position`, the method's state, the generators and what was
measured so far. That is what a checkpoint holds, and why a run that was killed ends as it would have ended.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from utils.config.configuration import Configuration
from utils.config.registry import as_user_errors
from utils.data.augment import Augmentation
from utils.data.batch import Draft
from utils.data.budget import PlannedStages
from utils.data.loaders import Loader, Loaders
from utils.data.plan import Stage, StreamSizes, mixes_memory
from utils.data.pools import Stream
from utils.data.staging import Values
from utils.errors import Diverged, Stopped, UserError
from utils.inference import evaluating
from utils.records.content import SCENARIOS
from utils.records.record import Record
from utils.records.trackers import Tracker
from utils.run.best_epoch import BestEpoch
from utils.run.checkpoint import DamagedCheckpoint, load_checkpoint, restoring, save_checkpoint
from utils.run.diagnosis import NormDiagnosis, add_diagnosis
from utils.run.evaluate import Counts, mean_cross_entropy
from utils.run.evaluator import Evaluator
from utils.run.measurements import LossMeter, Measurements, Stopwatch, check_terms
from utils.run.progress import ProgressReport, Screen
from utils.run.steps import Capture, Steps
from utils.run.stopping import StopRequest


@dataclass
class Position:
    """Where a run stands: the task, and inside it the stage, epoch and batch that come next, all counted from 0.

    Attributes:
        begun, ended: whether the method's `begin_task` and `end_task` of this task have been called.
        evaluated: whether the task has been evaluated, which is then not done again.
        step: training steps of the whole run.
        measured_step: the step of the last evaluation inside a task.
        classes: the labels of which images have come in this task; none where its classes count from its begin on.
    """

    task: int = 0
    begun: bool = False
    stage: int = 0
    epoch: int = 0
    batch: int = 0
    ended: bool = False
    evaluated: bool = False
    step: int = 0
    measured_step: int = 0
    classes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Sinks:
    """Where a run writes and shows what happens."""

    record: Record
    tracker: Tracker
    screen: Screen
    progress: ProgressReport
    identity: str

    def write(self, line: dict[str, Any]) -> None:
        """One line of `metrics.jsonl`, for the tracker too."""
        self.record.append_metrics(line)
        self.tracker.log(line)


class Method(Protocol):
    """A method as the loop sees it (`models/base.py`)."""

    optimizer: torch.optim.Optimizer | None
    lr: float
    keeps_exemplars: ClassVar[bool]

    @property
    def network(self) -> nn.Module: ...

    def stages(self, config: Configuration, sizes: StreamSizes, task: int) -> Sequence[Stage]: ...

    def begin_task(self, task: int) -> None: ...

    def begin_stage(self, stage: Stage) -> None: ...

    def begin_epoch(self, stage: Stage, epoch: int) -> None: ...

    def set_lr(self, lr: float) -> None: ...

    def plan(self, batch: Draft) -> Any: ...

    def step(self, plan: Any, sent: Values) -> dict[str, Tensor]: ...

    def check_described(self, mixed: bool) -> None: ...

    def end_task(self, task: int) -> None: ...

    def scores(self, images: Tensor) -> Tensor: ...

    def logits(self, network: Any, images: Tensor) -> Tensor: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Training:
    """One run over all tasks of a stream.

    Args:
        method: learns (`models/base.py`).
        stream: gives evaluation sets and held-out images (`datasets/stream.py`).
        planned: what is trained.
        loaders: give the batches of a stage (`utils/data/plan.py`).
        augmentation: of the images.
        config: the options in force.
        sinks: where to write.
        stop: whether to stop.
        capture: whether steps are captured (`utils/run/steps.py`).
    """

    def __init__(
        self,
        method: Method,
        stream: Stream,
        planned: PlannedStages,
        loaders: Loaders,
        augmentation: Augmentation,
        config: Configuration,
        sinks: Sinks,
        stop: StopRequest,
        capture: Capture,
    ) -> None:
        self.method = method
        self.device = next(method.network.parameters()).device
        self.capture = capture
        self.stream = stream
        self.planned = planned
        self.loaders = loaders
        self.augmentation = augmentation
        self.config = config
        self.sinks = sinks
        self.stop = stop
        self.position = Position()
        self.measured = Measurements.empty(stream.num_tasks, stream.boundaries)
        self.watch = Stopwatch(self.measured.seconds)
        self.meter = LossMeter()
        self.best = BestEpoch()
        self._stage_field: dict[str, str] = {}  # names the stage in lines of losses, where a task has several
        self._optimizer_state: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._mixed = False  # whether this process has trained on images and exemplars together
        self._evaluator = Evaluator(stream, method, augmentation.prepare, config, self._stop_if_asked)

    @as_user_errors()
    def run(self) -> Measurements:
        """Train and evaluate every task, from where the run stands.

        Raises:
            Diverged: a loss became NaN or infinite.
            Stopped: a signal asked for it; the state is saved.
        """
        self.stop.defer()
        with self.watch.during("training"), self.sinks.progress.during_run(self.position.step):
            if self._measures_transfer and not self.measured.untrained:
                self._evaluate_untrained()
            while self.position.task < self.stream.num_tasks:
                self._train_task()
                self._evaluate_task()
                self._diagnose_norms()
                self.position = Position(task=self.position.task + 1, step=self.position.step)
            if self.config.keep_checkpoint:
                self._save()
        return self.measured

    def restore(self) -> None:
        """Restore the state of the checkpoint, if there is one, and remove what was recorded after it.

        A damaged one is set aside, and the run starts over.

        Raises:
            UserError: the checkpoint belongs to another configuration, device or version of the suite.
        """
        record, device = self.sinks.record, self.device
        state = None
        try:
            state = load_checkpoint(record.checkpoint_path, self.sinks.identity, device)
        except DamagedCheckpoint as error:
            self.sinks.screen.say(f"note: {error}; set aside as {record.set_checkpoint_aside().name}")
        if state is None:
            record.cut({})
            return
        with restoring(record.checkpoint_path):
            if state["device"] != device.type:
                raise UserError(
                    f"{record.checkpoint_path} was written on {state['device']}: resume with --device "
                    f"{state['device']}, or remove it to train from the beginning"
                )
            self._take_up(state)
            record.cut(state["lengths"])
        self.sinks.screen.say(
            f"resuming in task {self.position.task + 1}/{self.stream.num_tasks} after step {self.position.step}"
        )

    def _take_up(self, state: dict[str, Any]) -> None:
        self.position = Position(**state["position"])
        self.measured = Measurements(**state["measured"])
        self.watch = Stopwatch(self.measured.seconds)
        self.meter.load_state_dict(state["meter"])
        self.best.load_state_dict(state["best"])
        self.method.load_state_dict(state["method"])
        if self.position.epoch or self.position.batch:
            self._optimizer_state = state["method"]["optimizer"]
        for name, each in self.augmentation.generators.items():
            each.set_state(state["generators"][name].cpu())

    @contextmanager
    def _doing(self, kind: str) -> Iterator[None]:
        """Count the time of a kind of work, and report that work as the present phase."""
        with self.watch.during(kind), self.sinks.progress.during(kind):
            yield

    # -- training ----------------------------------------------------------------------------------------------------

    def _train_task(self) -> None:
        position, method = self.position, self.method
        self.sinks.progress.update(task=position.task, stage=position.stage, epoch=position.epoch)
        if not position.begun:
            method.begin_task(position.task)
            position.begun = True
        stages = self.planned.by_task[position.task]
        while position.stage < len(stages):
            self._train_stage(stages[position.stage].stage, len(stages))
            position.stage, position.epoch = position.stage + 1, 0
        if not position.ended:
            self._log_losses()
            method.check_described(self._mixed)
            with self._doing("exemplars") if method.keeps_exemplars else nullcontext():
                method.end_task(position.task)
            position.ended = True

    def _train_stage(self, stage: Stage, num_stages: int) -> None:
        position = self.position
        self._stage_field = {"stage": stage.name} if num_stages > 1 else {}
        self.method.begin_stage(stage)
        if self._optimizer_state is not None:
            assert self.method.optimizer is not None  # made by `begin_stage`
            self.method.optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        loader = self.loaders.of(stage.data, (position.task, position.stage))
        num_batches = min(loader.num_batches, self.config.debug_mode or loader.num_batches)
        progress = self.sinks.progress
        progress.update(stage=position.stage, num_stages=num_stages, stage_step=0)
        progress.update(num_epochs=stage.epochs, stage_total=stage.num_steps(num_batches))
        steps = Steps(self.method, self.device, self.capture if stage.trains else Capture())
        with nullcontext() if stage.trains else self._doing("measuring"):
            while position.epoch < stage.epochs:
                self.method.begin_epoch(stage, position.epoch)
                progress.update(epoch=position.epoch)
                self._train_epoch(stage, loader, num_batches, steps)
                position.epoch, position.batch = position.epoch + 1, 0
        self.best.restore(self.method.network)

    def _train_epoch(self, stage: Stage, loader: Loader, num_batches: int, steps: Steps) -> None:
        self._set_lr(stage, max(self.position.batch - 1, 0) / num_batches)  # resumed, it is that of the last step
        for batch in self._batches(loader, stage, num_batches):
            self._set_lr(stage, self.position.batch / num_batches)
            self._step(steps, batch, stage.trains)
            self._mixed |= mixes_memory(stage.data)
            done = self.position.epoch * num_batches + self.position.batch
            self.sinks.progress.advance(self.position.step, done, self.meter.last)
        if self._stage_field and self.position.epoch + 1 == stage.epochs:
            self._log_losses()  # a line is of one stage: another one has other terms and another learning rate
        if stage.keep == "val_loss":
            self._validate(stage)

    def _set_lr(self, stage: Stage, share: float) -> None:
        """Set the learning rate where it changes within an epoch, of which this share is done."""
        if stage.schedule == "cosine":
            self.method.set_lr(stage.lr_at(self.position.epoch, share))

    def _batches(self, loader: Loader, stage: Stage, num_batches: int) -> Iterator[Draft]:
        """The remaining batches of the epoch; between training steps, the network is evaluated where that is due."""
        number = stage.batches_of(self.position.epoch, num_batches)
        batches = loader.drafts(self.position.epoch, self.position.batch, None if stage.length is None else number)
        for _ in range(self.position.batch, number):
            if stage.trains:
                self._evaluate_if_due()
            with self.watch.during("data"):
                batch = next(batches)
            yield batch

    def _validate(self, stage: Stage) -> None:
        """Offer the network after an epoch as the best one so far, with its loss on the held-out images."""
        with self._doing("evaluation"), evaluating(self.method.network):
            loss = mean_cross_entropy(
                partial(self.method.logits, self.method.network),
                self.stream.pool(stage.held_out, "validation"),
                prepare=self.augmentation.prepare,
                check=self._stop_if_asked,
            )
        self.best.offer(loss, self.position.epoch, self.method.network)
        self.sinks.write(self._line("validation") | {"loss": loss})

    def _step(self, steps: Steps, batch: Draft, trains: bool) -> None:
        losses = steps(batch)
        check_terms(losses, self.config.model)
        self.meter.add(losses)
        self.position.batch += 1
        if trains:
            self.position.step += 1
            self.measured.add_cost(batch.num_images, steps.passes)
            if self.config.eval_every and self.stream.boundaries != "sharp":
                self.position.classes = sorted({*self.position.classes, *batch.labels[: batch.num_current].tolist()})
            if self.position.step % self.config.log_every == 0:
                self._log_losses()
        self._save_if_due()

    def _log_losses(self) -> None:
        if not self.meter.num_steps:
            return
        self._check_losses()
        self.sinks.write(self._line("train") | self.meter.read() | {"lr": self.method.lr})

    def _line(self, kind: str) -> dict[str, Any]:
        """The beginning of a line of losses."""
        position = {name: getattr(self.position, name) for name in ("step", "task", "epoch")}
        return {"kind": kind} | position | self._stage_field

    def _check_losses(self) -> None:
        if not self.meter.is_finite():
            position = self.position
            raise Diverged(
                f"the loss is no longer finite in task {position.task + 1}, between steps "
                f"{position.step - self.meter.num_steps + 1} and {position.step}; a lower --lr may help"
            )

    # -- evaluation --------------------------------------------------------------------------------------------------

    @property
    def _measures_transfer(self) -> bool:
        return not self.config.ignore_other_metrics

    def _evaluate_untrained(self) -> None:
        with self._doing("evaluation"):
            rows = self._evaluator.count_tasks(self.stream.num_tasks, num_trained=0)
        self.measured.untrained = {
            "class_il": [row.correct_class_il for row in rows],
            "task_il": [row.correct_task_il for row in rows],
            "total": [row.total for row in rows],
        }

    def _evaluate_task(self) -> None:
        task, measured, evaluator = self.position.task, self.measured, self._evaluator
        if self.position.evaluated or not self.position.step:  # as in the earlier tasks of joint training
            return
        with self._doing("evaluation"):
            classes = evaluator.count_after_task(task, with_next=self._measures_transfer)
        has_all_images = evaluator.point_images is None
        at_point = classes[: evaluator.num_classes_seen(task)] if has_all_images else self._count_point()
        found = evaluator.by_task(classes)
        for column, counts in enumerate(found):
            if not counts.total:
                continue
            measured.class_il[task][column] = counts.correct_class_il
            measured.task_il[task][column] = counts.correct_task_il
            measured.total[task][column] = counts.total
        if task + 1 == self.stream.num_tasks:
            measured.classes = self._classes_at_the_end(classes)
        self._report("evaluation", f"after task {task + 1}/{self.stream.num_tasks}", found)
        self._add_point(at_point)
        self.position.evaluated = True

    def _report(self, kind: str, title: str, found: list[Counts]) -> None:
        """Write the accuracies on each task, and say their means."""
        line = self._accuracies(kind, found, SCENARIOS)
        self.sinks.write(line)
        mean = line["mean"]
        self.sinks.screen.say(f"{title}: Class-IL {mean['class_il']:.2f} %  Task-IL {mean['task_il']:.2f} %")

    def _accuracies(self, kind: str, found: list[Counts], scenarios: Sequence[str]) -> dict[str, Any]:
        """A line of `metrics.jsonl` with the accuracies on each task (`Evaluator.accuracies`)."""
        position = {"kind": kind, "step": self.position.step, "task": self.position.task}
        return position | self._evaluator.accuracies(found, self.position.task, scenarios)

    def _evaluate_if_due(self) -> None:
        """Evaluate between two steps of a task; after its last step, `_evaluate_task` does."""
        position, every = self.position, self.config.eval_every
        inside = position.stage or position.epoch or position.batch
        if not every or not inside or position.step % every or position.measured_step == position.step:
            return
        line = self._add_point(self._count_point())
        position.measured_step = position.step
        self.sinks.write(line)

    def _count_point(self) -> list[Counts]:
        """What an evaluation point counts, of each class seen so far.

        The classes of a task of its own are all seen from its beginning on; a segment of a stream brings them one by
        one.
        """
        is_whole = self._evaluator.is_sharp or self.position.ended
        with self._doing("evaluation"):
            return self._evaluator.count_point(self.position.task, None if is_whole else self.position.classes)

    def _add_point(self, classes: Sequence[Counts]) -> dict[str, Any]:
        """Add an evaluation point, from the counts of each class seen; gives its line of Class-IL accuracies."""
        found = self._evaluator.by_task(classes)
        line = self._accuracies("anytime", found, ("class_il",))
        self.measured.anytime.append(line["mean"]["class_il"])
        if self.config.eval_every and self.stream.boundaries == "none":
            self.measured.add_point(self.position.step, 0, self._evaluator.in_total(classes))
        elif self.config.eval_every:
            later = [Counts(0, 0, 0)] * (self.stream.num_tasks - len(found))
            self.measured.add_point(self.position.step, self.position.task, [*found, *later])
        return line

    def _classes_at_the_end(self, counts: Sequence[Counts]) -> dict[str, list[int]]:
        """Class-IL of each class, with its training images."""
        return {
            "trained": list(self.planned.sizes.class_sizes),
            "correct": [each.correct_class_il for each in counts],
            "total": [each.total for each in counts],
        }

    def _diagnose_norms(self) -> None:
        """Measure the norm layers after a task, on a copy of the network, so that the run itself is not affected."""
        if not self.config.retune_norms or not self.position.step:
            return
        self._save_if_due()
        task, counts = self.position.task, None
        parts = (self.stream, self.loaders, self.augmentation.prepare, self.method.logits, self.config)
        diagnosis = NormDiagnosis(*parts, self.sinks, self._stop_if_asked)
        with self._doing("norms"):
            distances, network = diagnosis.measure(self.method.network, task)
        if network is not None:
            with self._doing("evaluation"):
                counts = self._evaluator.count_tasks(task + 1, num_trained=task + 1, network=network)
            self._report("retuned", "  with its norm layers re-tuned", counts)
        add_diagnosis(self.measured.norms, self.stream.num_tasks, task, distances, counts)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        self._stop_if_asked()
        if time.monotonic() - self._saved_at >= self.config.checkpoint_every:
            self._save()

    def _stop_if_asked(self) -> None:
        self.sinks.progress.refresh()
        if self.stop.signal_number is not None:
            self._save()
            raise Stopped(self.stop.signal_number, is_saved=True)

    def _save(self) -> None:
        with self.watch.during("checkpoint"):
            self._write_checkpoint()
        self._saved_at = time.monotonic()

    def _write_checkpoint(self) -> None:
        self._check_losses()
        state = {
            "device": self.device.type,
            "position": dataclasses.asdict(self.position),
            "method": self.method.state_dict(),
            "generators": {name: each.get_state() for name, each in self.augmentation.generators.items()},
            "measured": dataclasses.asdict(self.measured),
            "meter": self.meter.state_dict(),
            "best": self.best.state_dict(),
            "lengths": self.sinks.record.lengths(),
        }
        save_checkpoint(self.sinks.record.checkpoint_path, self.sinks.identity, state)
