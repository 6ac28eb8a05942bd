"""SGD: fine-tuning on the stream, without memory; the lower bound."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from models.base import Method
from utils.batch import Batch
from utils.registry import METHODS


@METHODS.register()
class Sgd(Method):
    """Cross-entropy over all outputs, those of future classes included."""

    def observe(self, batch: Batch) -> dict[str, Tensor]:
        return self.update(cross_entropy(self.network(batch.images), batch.labels))
