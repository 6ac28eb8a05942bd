"""Exemplars: images of every class seen, chosen after each task, which the offline methods keep for replay."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from utils.config.options import Option, boolean, grouped, ranged
from utils.config.registry import check_known
from utils.data.pools import Pool, TensorPool
from utils.errors import Diverged, UserError
from utils.seeds import generator

SELECTIONS = ("herding", "icarl", "random")
QUOTAS = ("ceil", "floor", "fixed")

EXEMPLAR_OPTIONS = grouped(
    "memory",
    Option(
        "buffer_size",
        ranged(int, 0, 2**31 - 1),
        None,
        "capacity of the memory, in images of all classes together",
        source="set by the protocol",
        required=True,
    ),
    Option(
        "exemplar_selection",
        str,
        "herding",
        "how exemplars are chosen; icarl: herding in its original form",
        choices=SELECTIONS,
        min_tasks=2,
    ),
    Option(
        "quota",
        str,
        "ceil",
        "images per class: --buffer_size / classes seen, rounded (ceil may exceed it), or / all classes (fixed)",
        choices=QUOTAS,
        min_tasks=2,
    ),
    Option(
        "reherd",
        boolean,
        True,
        "herd the exemplars of old classes again; 0: keep the first ones",
        flag=True,
        min_tasks=3,  # old exemplars are chosen among after the second task, for a third one to replay them
    ),
)

_ROWS_PER_FORWARD = 128  # without gradients, less memory than a training step takes
_MAX_ROUNDS = 1000

Features = Callable[[Tensor], Tensor]


class ExemplarMemory:
    """Raw images of every class seen, equally many of each, in the order in which they were chosen.

    Args:
        capacity: images of all classes together.
        selection: `herding`: greedy, of normalised features; `icarl`: its original form; `random`: uniform.
        quota: images per class, the capacity over the classes seen, rounded by `ceil` or `floor`; `fixed`: over all
            classes, rounded down, from the first task on (Douillard et al., ECCV 2020).
        reherd: choose among the exemplars of an old class anew; otherwise the first of them are kept.
        num_classes: of the whole stream.
        device: where the images are kept.
        seed: of the run.

    Raises:
        UserError: no capacity, or an unknown choice.
    """

    def __init__(
        self,
        capacity: int,
        *,
        selection: str,
        quota: str,
        reherd: bool,
        num_classes: int,
        device: torch.device | str,
        seed: int,
    ) -> None:
        if capacity < 1:
            raise UserError(f"--buffer_size {capacity}: exemplars need room for at least 1 image per class")
        for name, value, known in (("exemplar_selection", selection, SELECTIONS), ("quota", quota, QUOTAS)):
            check_known(f"--{name}", [value], known)
        self.capacity = capacity
        self._selection = selection
        self._quota = quota
        self._reherd = reherd
        self._num_classes = num_classes
        self._device = torch.device(device)
        self._seed = seed
        # Class after class. An update replaces these tensors and never writes to them: pools and states stay as is.
        self._raw = torch.empty(0, 0, 0, 0, dtype=torch.uint8, device=self._device)
        self._labels = torch.empty(0, dtype=torch.int64)
        self._tasks = torch.empty(0, dtype=torch.int64)
        self._numbers = torch.empty(0, dtype=torch.int64)  # of each image among the training images of its class

    def __len__(self) -> int:
        return len(self._labels)

    def num_per_class(self, num_seen: int) -> int:
        """Images kept of each class when `num_seen` classes have been seen; fewer where a class has not so many.

        Raises:
            UserError: that would be less than one.
        """
        return exemplars_per_class(self.capacity, self._quota, num_seen, self._num_classes)

    def holds(self, label: int) -> bool:
        """Whether there are exemplars of a class."""
        return label in self._labels

    def pool(self) -> TensorPool:
        """All exemplars, class after class, first chosen first, not copied; later updates do not change it."""
        return TensorPool(self._raw, self._labels.to(self._device), self._tasks, is_memory=True)

    @torch.no_grad()
    def update(self, features: Features, pool: Pool, num_seen: int) -> None:
        """Choose the exemplars of every class after a task, and forget all others.

        Those of the classes of the task are chosen among its training images, those of the others among themselves.

        Args:
            features: raw [n, C, H, W] uint8 on the device -> [n, D]; not called for random selection. The caller sets
                evaluation mode and applies the transform of test images.
            pool: the training images of the task, all of those of its classes.
            num_seen: classes seen so far, which are 0 to num_seen - 1.

        Raises:
            UserError: less than one image per class.
            ValueError: a class has no image, or the pool has one of an unseen class.
            Diverged: a feature is not finite.
        """
        quota = self.num_per_class(num_seen)
        kept, new = self.pool(), set(pool.labels.unique().tolist())
        if not new <= set(range(num_seen)):
            raise ValueError(f"{num_seen} classes have been seen, and the pool has class {max(new)}")
        chosen = []
        for label in range(num_seen):
            source = pool if label in new else kept
            rows = (source.labels == label).nonzero().flatten()
            if not len(rows):
                raise ValueError(f"there is no image of class {label}")
            numbers = torch.arange(len(rows)) if label in new else self._numbers[rows]
            if label in new or self._reherd:
                order = self._ranking(features, source, rows, quota, label, num_seen)
                rows, numbers = rows[order], numbers[order]
            rows, numbers = rows[:quota], numbers[:quota]
            chosen.append((source.take(rows)[0], source.labels[rows], source.tasks[rows], numbers))
        self._raw, self._labels, self._tasks, self._numbers = map(torch.cat, zip(*chosen, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Which training images the exemplars are; tensors are not copied. Loadable with `weights_only=True`."""
        return {"labels": self._labels, "numbers": self._numbers}

    def load_state_dict(self, state: dict[str, Tensor], pool: Pool) -> None:
        """Take over a copy of a state, wherever its tensors lie.

        Args:
            state: from `state_dict`.
            pool: all training images of the classes in it, those of a class in the order that they had in `update`.

        Raises:
            UserError: the state is of an earlier version, which kept the images themselves.
        """
        if "numbers" not in state:
            raise UserError(
                "the run's checkpoint.pt was written by an earlier version, which stored the exemplars' images; remove "
                "it to train this run from the beginning"
            )
        self._labels, self._numbers = (state[name].to("cpu", copy=True) for name in ("labels", "numbers"))
        rows = torch.empty_like(self._labels)
        for label in self._labels.unique().tolist():
            is_of_class = self._labels == label
            rows[is_of_class] = (pool.labels == label).nonzero().flatten()[self._numbers[is_of_class]]
        self._tasks = pool.tasks[rows]
        self._raw = _images_of(pool, rows) if len(rows) else self._raw[:0]

    def _ranking(self, features: Features, pool: Pool, rows: Tensor, quota: int, label: int, num_seen: int) -> Tensor:
        """The first of these rows in their ranking, as indices into them, on the host."""
        if self._selection == "random":
            return torch.randperm(len(rows), generator=generator(self._seed, "exemplars", label, num_seen))[:quota]
        found = torch.cat([features(pool.take(part)[0]) for part in rows.split(_ROWS_PER_FORWARD)])
        if not found.isfinite().all():
            raise Diverged(f"the network's features of class {label} are not finite; a lower --lr may help")
        herd = herd_greedily if self._selection == "herding" else herd_as_icarl
        return herd(found, quota).cpu()


def exemplars_per_class(capacity: int, quota: str, num_seen: int, num_classes: int) -> int:
    """Images kept of each class, of `num_classes` in all, when `num_seen` of them have been seen; see `ExemplarMemory`.

    Raises:
        UserError: that would be less than one.
    """
    num_sharing = num_classes if quota == "fixed" else num_seen
    if capacity < num_sharing:
        raise UserError(
            f"--buffer_size {capacity} is less than one image for each of {num_sharing} classes: give at least "
            f"{num_sharing}"
        )
    return -(-capacity // num_sharing) if quota == "ceil" else capacity // num_sharing


def _images_of(pool: Pool, rows: Tensor) -> Tensor:
    """Images [n, C, H, W] of at least one row, fetched a few at a time."""
    return torch.cat([pool.take(part)[0] for part in rows.split(_ROWS_PER_FORWARD)])


def herd_greedily(features: Tensor, number: int) -> Tensor:
    """Rank images so that the mean of the first k is as near to the mean of all as one more image can bring it.

    With f̂ the features divided by their norm and μ the mean of the f̂, not divided again, the k-th is the unused j that
    minimises ‖μ - (Σ_chosen f̂ + f̂_j) / k‖, the first such j on ties (Masana et al., FACIL, 2020; the rule is Rebuffi et
    al., iCaRL, CVPR 2017, algorithm 4).

    Args:
        features: [n, D], finite.
        number: images to choose; all n if there are fewer.

    Returns:
        [min(number, n)] int64, indices of images, on the device of the features.
    """
    directions = normalize(features.double(), dim=1)
    mean, total = directions.mean(dim=0), torch.zeros_like(directions[0])
    # ‖f̂‖² of the candidates, infinite for those that are taken.
    squares = directions.square().sum(dim=1)
    chosen = []
    for rank in range(1, min(number, len(directions)) + 1):
        # With the gap g = k μ - Σ_chosen f̂, k² times the squared distance is ‖g‖² - 2 g·f̂_j + ‖f̂_j‖². Products are
        # summed row by row, which gives equal images equal values, as a matrix product need not.
        gap = rank * mean - total
        index = (squares - 2 * (directions * gap).sum(dim=1)).argmin(dim=0, keepdim=True)
        total += directions.index_select(0, index)[0]
        squares.index_fill_(0, index, torch.inf)
        chosen.append(index)
    return torch.cat(chosen)


def herd_as_icarl(features: Tensor, number: int) -> Tensor:
    """Rank images by the procedure of the original iCaRL program (Rebuffi et al., CVPR 2017).

    With f̂ and μ as in `herd_greedily`, and w = μ at first: j = argmax w·f̂_j takes the next place unless it has one
    already, and w ← w + μ - f̂_j in either case. After 1000 rounds what is left follows in its own order.

    Args, Returns:
        as of `herd_greedily`.
    """
    directions = normalize(features.double(), dim=1)
    number = min(number, len(directions))
    mean = directions.mean(dim=0)
    weight = mean
    chosen: dict[int, None] = {}
    for _ in range(_MAX_ROUNDS):
        if len(chosen) == number:
            break
        index = int((directions * weight).sum(dim=1).argmax())
        chosen.setdefault(index)
        weight = weight + mean - directions[index]
    rest = [index for index in range(len(directions)) if index not in chosen]
    return torch.tensor([*chosen, *rest][:number], device=features.device)
