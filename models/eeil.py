"""EEIL: end-to-end incremental learning (Castro et al., ECCV 2018), as in FACIL and Cha et al., CVPR 2023."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cross_entropy

from models.base import Stage
from models.exemplar import ExemplarMethod
from utils.batch import Batch
from utils.data_plan import Plain, Rows
from utils.options import Option, boolean, ranged
from utils.registry import METHODS

TEMPERATURE = 2.0


@METHODS.register()
class Eeil(ExemplarMethod):
    """L = CE + Σ_{i<q} BCE(softmax(z_i / 2), softmax(z̄_i / 2)), z_i and z̄_i the outputs of task i, now and before.

    The binary cross-entropy is averaged over rows and outputs. q is the number of old tasks in the second stage; in
    the main stage the newest of them is not distilled, as in the published runs. The second stage trains on the
    exemplars, the task and the exemplars once more, at a hundredth of the learning rate.
    """

    options = (
        *ExemplarMethod.options,
        Option("eeil_skip_newest_head", boolean, True, "no distillation of the newest old task in the main stage"),
        Option(
            "eeil_second_stage",
            str,
            "released",
            "exemplars beside all of the task, or beside as many images of it (balanced)",
            choices=("released", "balanced"),
        ),
        Option("second_epochs", ranged(int, 1), 40, "epochs of the second stage"),
    )
    default_pool = "union"
    drops_last = True
    has_teacher = True

    def stages(self, task: int) -> list[Stage]:
        main = self.main_stage(task)
        if task == 0:
            return [main]
        if self.config.eeil_second_stage == "released":
            data = self.pairs(Rows((task,), exemplars=2))
        else:
            data = Plain(Rows((task,), exemplars=1, balanced=True))
        config = self.config
        schedule = {"epochs": config.second_epochs, "lr": 0.01 * config.lr, "keep": config.best_epoch}
        return [main, Stage(data, **schedule, held_out=(task,), name="balance")]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.forward(batch).scores
        losses = {"ce": cross_entropy(scores, batch.labels)}
        skips = self.stage_name == "main" and self.config.eeil_skip_newest_head
        distilled = range(max(0, self.task - int(skips)))
        if distilled:
            losses["distillation"] = self.distill(scores, self.teach(batch.images).scores, distilled)
        return losses

    def distill(self, scores: Tensor, taught: Tensor, tasks: range) -> Tensor:
        """Σ over tasks of the binary cross-entropy between their softened outputs."""
        total = scores.new_zeros(())
        for task in tasks:
            of_task = self.columns(task)
            now, before = ((each[:, of_task] / TEMPERATURE).softmax(dim=1) for each in (scores, taught))
            total = total + binary_cross_entropy(now, before)
        return total
