"""Joint: training once on the union of all tasks, after the last one has arrived; the upper bound."""

from models.base import Stage
from models.sgd import Sgd
from utils.registry import METHODS


@METHODS.register()
class Joint(Sgd):
    """SGD on fresh shuffles of all tasks together; the network is trained, and so measured, only at the end."""

    trains_every_task = False

    def stages(self, task: int) -> list[Stage]:
        last = self.stream.num_tasks - 1
        return [self.stage(tuple(range(self.stream.num_tasks)))] if task == last else []
