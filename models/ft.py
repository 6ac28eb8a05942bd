"""FT: fine-tuning with exemplars (Masana et al., FACIL, TPAMI 2023; Cha et al., CVPR 2023)."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from models.exemplar import ExemplarMethod
from utils.config.registry import METHODS
from utils.data.batch import Batch


@METHODS.register()
class Ft(ExemplarMethod):
    """L = CE over the outputs of all classes seen, on current and memory rows alike."""

    capturable = True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"ce": cross_entropy(self.forward(batch).scores, batch.labels)}
