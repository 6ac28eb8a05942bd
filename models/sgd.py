"""SGD: fine-tuning on the stream, without memory; the lower bound."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.base import Method, Stage
from utils.config.registry import METHODS
from utils.data.batch import Batch


@METHODS.register()
class Sgd(Method):
    """Cross-entropy over all outputs, those of future classes included.

    With a head that grows, over the outputs of the task alone, and no other outputs are trained (Masana et al., 2020).
    """

    heads = ("linear", "growing")
    capturable = True

    def trained(self, stage: Stage) -> list[nn.Parameter]:
        if not self.growing:
            return list(self.network.parameters())
        return [*self.network.backbone.parameters(), *self.network.head.newest_parameters()]

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        logits, labels = self.network(batch.images), batch.labels
        if self.growing:
            first = self.stream.classes_of_task(self.task).start
            logits, labels = logits[:, first:], labels - first
        return self.update(cross_entropy(logits, labels))
