"""Joint: training on the union of all tasks that have arrived; the upper bound."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from models.base import Method, Stage, head_grows
from utils.config.configuration import Configuration
from utils.config.registry import METHODS
from utils.data.batch import Batch
from utils.data.plan import StreamSizes


@METHODS.register()
class Joint(Method):
    """Cross-entropy over all outputs, on fresh shuffles of all tasks together.

    With a fixed head the network is trained once, after the last task, and so measured only then. With a head that
    grows it is trained on in every task, on all data so far (Masana et al., 2020).
    """

    heads = ("linear", "growing")
    capturable = True

    @classmethod
    def measures_every_task(cls, head: str) -> bool:
        return head != "linear"

    @classmethod
    def stages(cls, config: Configuration, sizes: StreamSizes, task: int) -> list[Stage]:
        arrived = tuple(range(task + 1))
        return [cls.stage(config, arrived)] if head_grows(config) or len(arrived) == sizes.num_tasks else []

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        return self.update(cross_entropy(self.network(batch.images), batch.labels))
