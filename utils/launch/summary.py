"""What a plan is before it starts: for people in a few lines, for programs as plain data."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from utils.config.command_line import typed_text
from utils.config.variants import row_of
from utils.launch.estimates import Cost, Estimates, cost_of
from utils.launch.plan import Job, Plan, Search, Where
from utils.launch.search import decided
from utils.launch.steps import model_bytes
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


class Summary:
    """A plan as the disk has it now.

    Args:
        plan: what is to be run.
        where: the places that all runs share.
        estimates: of what runs will take.
        num_places: runs that may go on at a time.

    Attributes:
        chosen: the setting of each search that is over, by its index.
        following: the runs of these on all data, as far as they are not in the plan.
    """

    def __init__(self, plan: Plan, where: Where, estimates: Estimates, num_places: int) -> None:
        self._plan = plan
        self._where = where
        self._estimates = estimates
        self._num_places = num_places
        self.chosen = decided(plan.searches)
        planned = {job.identity for job in plan.jobs}
        finals = (job for search, index in self.chosen.items() for job in search.finals(index))
        self.following = tuple(job for job in finals if job.identity not in planned)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All runs that are known now."""
        return (*self._plan.jobs, *self.following)

    @property
    def is_over(self) -> bool:
        """Whether no run is left to be started."""
        return all(job.state().is_answer for job in self.jobs)

    def lines(self) -> list[str]:
        """The plan for people."""
        plan = self._plan
        num_jobs = f"{len(plan.jobs)} run{'s' if len(plan.jobs) != 1 else ''}"
        merged = f" ({plan.num_merged} of {plan.num_asked} are the same computation as another)"
        return [
            f"{num_jobs}{merged if plan.num_merged else ''}: {_states(plan.jobs)}",
            *(f"  {title}: {' '.join(values)}" for title, values in _axes(plan).items()),
            *(f"  {line}" for line in self._search_lines()),
            *(f"  {line}" for line in self._cost().lines(self._num_places)),
            f"  records: {self._where.results_dir / self._where.group}",
            *([f"  {self._models_line()}"] if self._where.keeps_models else []),
            *(f"  data are missing, so that runs are of unknown state: {each}" for each in plan.missing_data),
        ]

    def commands(self) -> list[str]:
        """The state and the command line of every run that is known now."""
        words = ["python", "utils/main.py"]
        return [f"{_state(job):9} {shlex.join([*words, *job.words, *self._where.words])}" for job in self.jobs]

    def for_programs(self) -> dict[str, Any]:
        """The plan as plain data."""
        plan, cost = self._plan, self._cost()
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
            "estimated_seconds": cost.seconds(self._num_places),
            "estimate_is_rough": cost.is_rough,
            "searches": [self._search_for_programs(search) for search in plan.searches],
            "jobs": [_job_for_programs(job) for job in plan.jobs],
            "missing_data": list(plan.missing_data),
            "following_jobs": [_job_for_programs(job) for job in self.following],
        }

    def _models_line(self) -> str:
        """The space that the trained weights of all runs take."""
        num_runs = len(self._plan.jobs) + sum(search.num_following for search in self._plan.searches)
        kinds = Counter((job.config.dataset, job.config.nl, job.config.backbone) for job in self._plan.jobs)
        one_of_each = {(each.config.dataset, each.config.nl, each.config.backbone): each for each in self._plan.jobs}
        sizes = {kind: model_bytes(job.config, len(job.data.class_sizes)) for kind, job in one_of_each.items()}
        mean = sum(sizes[kind] * number for kind, number in kinds.items()) / len(self._plan.jobs)
        return f"trained weights are kept: about {mean * num_runs / 2**20:,.0f} MB in {num_runs} files"

    def _search_for_programs(self, search: Search) -> dict[str, Any]:
        index = self.chosen.get(search)
        return {
            "cell": search.title,
            "settings": list(search.settings),
            "runs": search.budget,
            "following": search.num_following,
            "chosen": None if index is None else search.settings[index],
        }

    def _search_lines(self) -> list[str]:
        searches = self._plan.searches
        if not searches:
            return []
        held_out = f"data held out of training (validation, {SEARCH_SHARE:.0%})"
        judged_on = held_out if self._plan.selection == VALIDATION else "the data they are tested on (oracle)"
        cells = f"{len(searches)} cell{'s' if len(searches) > 1 else ''}"
        settings, budgets = (_range(map(number, searches)) for number in (_num_settings, _budget))
        seeds = dict.fromkeys(str(job.config.seed) for job in searches[0].stage[0])
        lines = [
            f"settings: chosen on {judged_on}: {cells} of {settings} settings, {budgets} runs per cell "
            f"(seed{'s' if len(seeds) > 1 else ''} {' '.join(seeds)})",
            f"searched: {', '.join(self._plan.axes.searched)}; settings per cell: {_by_layer(searches)}",
        ]
        num_following = sum(search.num_following for search in searches)
        if num_following:
            known = f", {len(self.following)} of them known: {_states(self.following)}" if self.following else ""
            lines.append(f"then: {num_following} run{'s' if num_following > 1 else ''} of the best settings{known}")
            lines += [f"  {each.title}: {each.settings[index]}" for each, index in self.chosen.items()]
        return lines

    def _cost(self) -> Cost:
        undecided = sum(search.num_following for search in self._plan.searches if search not in self.chosen)
        known = [job for job in self.jobs if job.has_data]
        jobs = [job for job in known if not (job.state().is_answer or job.state() is RunState.OTHER_VERSION)]
        return cost_of(jobs, undecided, self._estimates)


def _by_layer(searches: Iterable[Search]) -> str:
    """How many settings each norm layer tries in a cell."""
    numbers: dict[str, list[int]] = {}
    for search in searches:
        numbers.setdefault(search.stage[0][0].config.nl, []).append(len(search.settings))
    return ", ".join(f"{layer} {_range(found)}" for layer, found in numbers.items())


def _num_settings(search: Search) -> int:
    return len(search.settings)


def _budget(search: Search) -> int:
    return search.budget


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


def _job_for_programs(job: Job) -> dict[str, Any]:
    command = ["utils/main.py", *job.words]
    return {"name": job.name, "identity": job.identity, "state": _state(job), "command": command}
