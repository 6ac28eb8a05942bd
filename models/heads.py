"""Classifiers: parts that a protocol names and that go on any backbone."""

import torch
from torch import Tensor, nn

HEADS = {}


def _head(name: str):
    def add(head: type) -> type:
        HEADS[name] = head
        return head

    return add


@_head("linear")
class LinearHead(nn.Linear):
    """One output per class of the whole stream, [N, D] -> [N, K], from the first step on; PyTorch's initialisation."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)


class Network(nn.Module):
    """A backbone and a classifier on it: images [N, C, H, W] -> scores [N, K] in float32.

    Args:
        half: compute in bfloat16 where it is safe (autocast); weights and losses stay in float32.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, half: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.half_precision = half

    def forward(self, images: Tensor) -> Tensor:
        if not self.half_precision:
            return self.head(self.backbone(images))
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            scores = self.head(self.backbone(images))
        return scores.float()
