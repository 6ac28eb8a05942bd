"""What a plan is before it starts and what it will cost: for people in a few lines, for programs as JSON."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.config.command_line import typed_text
from utils.config.variants import row_of
from utils.data.plan import sizes_in_words
from utils.launch.devices import counted
from utils.launch.estimates import Estimates
from utils.launch.job import CommonOptions, Job
from utils.launch.networks import model_bytes
from utils.launch.plan import Plan, Search, decided
from utils.records.selection import SEARCH_SHARE, VALIDATION
from utils.records.state import RunState

_AXES = {
    "model": "methods",
    "dataset": "datasets",
    "nl": "norm layers",
    "buffer_size": "buffer sizes",
    "epochs": "epochs",
    "seed": "seeds",
}


@dataclass(frozen=True)
class Cost:
    """What the runs that are still to be done will take.

    Attributes:
        num_open: how many there are, with those that will follow a search.
        num_steps: training steps of all of them; None if none of the runs is known yet.
        is_exact: whether that number is exact.
        known: seconds of each run that is estimated from complete runs equal to it.
        rough: seconds of each run that is estimated from the speed of other runs.
        num_retuning_steps: further steps, which re-tune copies of their norm layers; None as for `num_steps`.
    """

    num_open: int
    num_steps: int | None
    is_exact: bool
    known: tuple[float, ...]
    rough: tuple[float, ...]
    num_retuning_steps: int | None = 0

    def seconds(self, num_parallel: int) -> float | None:
        """Seconds until all is over with so many runs at a time, None if nothing is known.

        A run of which nothing is known counts as the mean of the others.
        """
        estimated = (*self.known, *self.rough)
        if not self.num_open:
            return 0.0
        return max(sum(estimated) * self.num_open / len(estimated) / num_parallel, *estimated) if estimated else None

    def lines(self, num_parallel: int, shares_gpus: bool = False) -> list[str]:
        """The cost in lines of text, with so many runs at a time, of which some may share a GPU."""
        if not self.num_open:
            return []
        lines = []
        if self.num_steps is not None:
            lines.append(f"work: {steps_in_words(self.num_steps, self.is_exact)}")
            if self.num_retuning_steps:
                lines[0] += f" and {_number(self.num_retuning_steps, self.is_exact)} steps of re-tuning norm layers"
        return [*lines, self._time_line(num_parallel, shares_gpus)]

    def _time_line(self, num_parallel: int, shares_gpus: bool) -> str:
        seconds = self.seconds(num_parallel)
        if seconds is None:
            return "time: unknown, as no similar run is complete; estimated once the first runs are under way"
        reasons = []
        if self.known:
            share = f"{len(self.known)} of these {self.num_open}" if len(self.known) < self.num_open else "these"
            reasons.append(f"from complete runs like {share}")
        if self.rough:
            reasons.append("rough: from the speed of other runs on this machine")
        shared = " if those that share a GPU do not slow each other down" if shares_gpus else ""
        return f"time: about {_duration(seconds)} with {num_parallel} at a time{shared}, {'; '.join(reasons)}"


def cost_of(jobs: Sequence[Job], num_following: int, estimates: Estimates) -> Cost:
    """What open jobs will take.

    Args:
        jobs: all of them that are known.
        num_following: runs that will follow them, each of which counts as the mean of the others.
        estimates: of what each takes.
    """
    num_open = len(jobs) + num_following
    known, rough = [], []
    for job in jobs:
        seconds = estimates.seconds(job)
        if seconds is not None:
            known.append(seconds)
        elif (guess := estimates.rough_seconds(job)) is not None:
            rough.append(guess)
    return Cost(
        num_open,
        _total([estimates.steps.of(job) for job in jobs], num_open),
        is_exact=not num_following and all(map(estimates.steps.are_exact, jobs)),
        known=tuple(known),
        rough=tuple(rough),
        num_retuning_steps=_total([estimates.steps.of_retuning(job) for job in jobs], num_open),
    )


def _total(numbers: Sequence[int], num_runs: int) -> int | None:
    """The sum over so many runs, extrapolated from the numbers of some of them; None if there is no number."""
    if not num_runs:
        return 0
    return round(sum(numbers) * num_runs / len(numbers)) if numbers else None


def steps_in_words(num_steps: int, is_exact: bool) -> str:
    """`17,400 training steps`; what is not exact, or too long to be read, is rounded to three digits."""
    return f"{_number(num_steps, is_exact)} training step{'s' if num_steps != 1 or not is_exact else ''}"


def _number(num_steps: int, is_exact: bool) -> str:
    if num_steps < 1_000_000 and is_exact:
        return f"{num_steps:,}"
    rounded = int(float(f"{num_steps:.2e}"))
    return "about " + (f"{rounded / 1e6:g} million" if rounded >= 1_000_000 else f"{rounded:,}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


class PlanSummary:
    """A plan, the states of its runs on the disk, and what the rest of it will take.

    Args:
        plan: what is to be run.
        common: options that all runs share.
        estimates: of what runs will take.
        num_parallel: runs that may run at the same time.
        shares_gpus: whether some of them may share a GPU, on which they then slow each other down.

    Attributes:
        plan, common, estimates: as given.
        chosen: the setting of each search that is over, by its index.
        following: the runs of these on all data, as far as they are not in the plan.
    """

    def __init__(
        self,
        plan: Plan,
        common: CommonOptions,
        estimates: Estimates,
        num_parallel: int,
        shares_gpus: bool = False,
    ) -> None:
        self.plan = plan
        self.common = common
        self.estimates = estimates
        self._num_parallel = num_parallel
        self._shares_gpus = shares_gpus
        self.chosen = decided(plan.searches)
        planned = {job.identity for job in plan.jobs}
        finals = (job for search, index in self.chosen.items() for job in search.finals(index))
        self.following = tuple(job for job in finals if job.identity not in planned)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All runs that are known now."""
        return (*self.plan.jobs, *self.following)

    @property
    def is_over(self) -> bool:
        """Whether no run is left to be started."""
        return all(job.state().is_answer for job in self.jobs)

    def lines(self, reruns: bool = False) -> list[str]:
        """The plan in lines of text.

        Args:
            reruns: whether its records will be set aside and all of it is run again.
        """
        plan = self.plan
        num_jobs = counted(len(plan.jobs), "run")
        merged = f" ({plan.num_merged} of {plan.num_asked} are the same computation as another)"
        return [
            f"{num_jobs}{merged if plan.num_merged else ''}: {_states(plan.jobs)}",
            *(f"  {title}: {' '.join(values)}" for title, values in _axes(plan).items()),
            *(f"  tasks: {line}" for line in _unequal_tasks(plan.jobs)),
            *(f"  {line}" for line in self._search_lines()),
            *(f"  {line}" for line in self._cost().lines(self._num_parallel, self._shares_gpus)),
            f"  records: {self.common.folder}",
            *(f"  {line}" for line in (self._models_lines(reruns) if self.common.keeps_models else ())),
            *(f"  missing data, so the state of its runs is unknown: {each}" for each in plan.missing_data),
        ]

    def commands(self) -> list[str]:
        """The state and the command line of every run that is known now."""
        words = ["python", "utils/main.py"]
        return [f"{_state(job):9} {shlex.join([*words, *job.words, *self.common.words])}" for job in self.jobs]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        plan, cost = self.plan, self._cost()
        return {
            "asked": plan.num_asked,
            "runs": len(plan.jobs),
            "merged": plan.num_merged,
            "selection": plan.selection,
            "searched": list(plan.axes.searched),
            "compared": list(plan.axes.compared),
            "following": sum(search.num_following for search in plan.searches),
            "training_steps": cost.num_steps,
            "retuning_steps": cost.num_retuning_steps,
            "estimated_seconds": cost.seconds(self._num_parallel),
            "estimate_is_rough": bool(cost.rough),
            "searches": [self._search_as_json(search) for search in plan.searches],
            "jobs": [_job_as_json(job) for job in plan.jobs],
            "missing_data": list(plan.missing_data),
            "following_jobs": [_job_as_json(job) for job in self.following],
        }

    def _models_lines(self, reruns: bool) -> list[str]:
        """The space that the trained weights of all runs take, and how many runs are complete without them."""
        complete = [job for job in self.jobs if job.state() is RunState.COMPLETE and not reruns]
        keeping = [job for job in complete if job.record.model_path.exists()]
        num_without = len(complete) - len(keeping)
        keeping += self.jobs if reruns else filter(_is_open, self.jobs)
        num_files = len(keeping) + self._num_undecided
        lines = []
        if num_files:
            mean = _mean_model_bytes(keeping or self.plan.jobs)
            files = counted(num_files, "file")
            lines.append(f"trained weights are kept: about {mean * num_files / 1e6:,.0f} MB in {files}")
        if num_without:
            have = "1 complete run has" if num_without == 1 else f"{num_without} complete runs have"
            lines.append(f"note: {have} no trained weights; --rerun makes them, as it runs all of the plan again")
        return lines

    def _search_as_json(self, search: Search) -> dict[str, Any]:
        index = self.chosen.get(search)
        return {
            "cell": search.title,
            "settings": list(search.settings),
            "runs": search.budget,
            "following": search.num_following,
            "chosen": None if index is None else search.settings[index],
        }

    def _search_lines(self) -> list[str]:
        searches = self.plan.searches
        if not searches:
            return []
        held_out = f"held-out training data (validation, {SEARCH_SHARE:.0%})"
        judged_on = held_out if self.plan.selection == VALIDATION else "the test data (oracle)"
        cells = counted(len(searches), "cell")
        settings = _range(len(search.settings) for search in searches)
        budgets = _range(search.budget for search in searches)
        seeds = dict.fromkeys(str(job.config.seed) for job in searches[0].stage[0])
        lines = [
            f"search: settings are chosen on {judged_on}: {cells} of {settings} settings, {budgets} runs per cell "
            f"(seed{'s' if len(seeds) > 1 else ''} {' '.join(seeds)})",
            f"searched: {', '.join(self.plan.axes.searched)}; settings per cell: {_by_layer(searches)}",
        ]
        num_following = sum(search.num_following for search in searches)
        if num_following:
            known = f", {len(self.following)} of them known: {_states(self.following)}" if self.following else ""
            lines.append(f"then: {counted(num_following, 'run')} of the best settings{known}")
            lines += [f"  {each.title}: {each.settings[index]}" for each, index in self.chosen.items()]
        return lines

    def _cost(self) -> Cost:
        jobs = [job for job in self.jobs if job.has_data and _is_open(job)]
        return cost_of(jobs, self._num_undecided, self.estimates)

    @property
    def _num_undecided(self) -> int:
        """Runs that follow the searches that are not over."""
        return sum(search.num_following for search in self.plan.searches if search not in self.chosen)


def _is_open(job: Job) -> bool:
    """Whether a run is still to be done."""
    state = job.state()
    return not (state.is_answer or state is RunState.OTHER_VERSION)


def _mean_model_bytes(jobs: Sequence[Job]) -> float:
    """What the weights of a run's network take, on average."""
    kinds = Counter((job.config.dataset, job.config.nl, job.config.backbone) for job in jobs)
    one_of_each = {(each.config.dataset, each.config.nl, each.config.backbone): each for each in jobs}
    sizes = {kind: model_bytes(job.config, len(job.data.class_sizes)) for kind, job in one_of_each.items()}
    return sum(sizes[kind] * number for kind, number in kinds.items()) / len(jobs)


def _by_layer(searches: Iterable[Search]) -> str:
    """How many settings each norm layer tries in a cell."""
    numbers: dict[str, list[int]] = {}
    for search in searches:
        numbers.setdefault(search.stage[0][0].config.nl, []).append(len(search.settings))
    return ", ".join(f"{layer} {_range(found)}" for layer, found in numbers.items())


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _state(job: Job) -> str:
    return job.state() if job.has_data else "unknown"


def _states(jobs: Iterable[Job]) -> str:
    states = [_state(job) for job in jobs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _axes(plan: Plan) -> Mapping[str, dict[str, None]]:
    values = [{**job.config.values, "nl": row_of(job.config.values, plan.axes.names)} for job in plan.jobs]
    titles = _AXES | {name: f"{name} (compared)" for name in plan.axes.compared if name not in _AXES}
    axes = {
        title: dict.fromkeys(typed_text(each[option]) for each in values if each.get(option) is not None)
        for option, title in titles.items()
    }
    return {title: found for title, found in axes.items() if found}


def _unequal_tasks(jobs: Iterable[Job]) -> list[str]:
    """How many classes each task of a stream has, as far as they differ; those that are drawn with their seed."""
    seeds: dict[str, dict[tuple[int, ...], set[int]]] = {}
    for job in jobs:
        sizes = job.config.arrangement.task_sizes(len(job.data.class_sizes), job.config.seed) if job.has_data else ()
        if len(set(sizes)) > 1:
            title = f"{job.config.dataset} ({job.config.stream})"
            seeds.setdefault(title, {}).setdefault(sizes, set()).add(job.config.seed)
    lines = []
    for title, found in seeds.items():
        is_drawn = any(of_seeds != set.union(*found.values()) for of_seeds in found.values())
        for sizes, of_seeds in found.items():
            which = f", seed {' '.join(map(str, sorted(of_seeds)))}" if is_drawn else ""
            lines.append(f"{title}{which}: {sizes_in_words(sizes)}")
    return lines


def _job_as_json(job: Job) -> dict[str, Any]:
    command = ["utils/main.py", *job.words]
    return {"name": job.name, "identity": job.identity, "state": _state(job), "command": command}
