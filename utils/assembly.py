"""From a configuration to the objects of a run: its stream, augmentation, network, memory and method.

Like `utils/main.py`, this file imports all packages, and what is heavy inside the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from utils.config.configuration import Configuration
from utils.config.registry import as_user_errors
from utils.errors import UserError

if TYPE_CHECKING:
    import torch

    from datasets.arrangement import Arrangement
    from datasets.arrays import Arrays
    from datasets.stream import Stream
    from models.base import Method
    from models.heads import Head, Network
    from utils.config.parts import DatasetPart
    from utils.data.augment import Augmentation
    from utils.data.buffer import Memory
    from utils.data.exemplars import ExemplarMemory
    from utils.run.progress import Screen
    from utils.run.steps import Capture


def make_capture(config: Configuration, method: Method, device: torch.device, screen: Screen) -> Capture:
    """Whether training steps are captured as CUDA graphs.

    Raises:
        UserError: `--cuda_graph on` is given, and they cannot be captured.
    """
    from utils.run.steps import Capture, CudaGraphs

    reason = method.uncapturable() if device.type == "cuda" else f"--device {device.type} is no GPU"
    if config.cuda_graph == "on" and reason:
        raise UserError(f"--cuda_graph on cannot be: {reason}")
    if config.cuda_graph == "off" or reason:
        return Capture()
    return Capture(CudaGraphs(), is_required=config.cuda_graph == "on", say=screen.say)


def make_stream(config: Configuration, arrays: Arrays, device: torch.device) -> Stream:
    """The tasks of the data in this run's class order."""
    from datasets.stream import Stream
    from utils.data.class_order import class_order_of
    from utils.data.long_tail import make_long_tail

    return Stream(
        arrays,
        arrangement=cast("Arrangement", config.arrangement),
        label_of_class=class_order_of(config, len(arrays.class_names)),
        validation=config.validation,
        long_tail=make_long_tail(config),
        held_out=config.val_fraction,
        seed=config.seed,
        device=device,
    )


def make_augmentation(
    config: Configuration, dataset: DatasetPart, arrays: Arrays, device: torch.device
) -> Augmentation:
    """The dataset's transform for the method or the protocol, with a generator each for stream and memory rows, and
    the memory format that suits the device."""
    from utils.data.augment import Augmentation
    from utils.run.environment import choose_memory_format
    from utils.seeds import generator

    return Augmentation(
        dataset.transform(config.parts.transforms(config.protocol), arrays),
        {purpose: generator(config.seed, "augmentation", purpose) for purpose in ("stream", "memory")},
        choose_memory_format(device, config.precision),
    )


def make_method(config: Configuration, stream: Stream, augmentation: Augmentation, device: torch.device) -> Method:
    """The method with its memory, and its network in the memory format of the images."""
    import torch

    method = config.parts.method
    method.check(config.values, stream.num_classes)
    memory = None
    if method.uses_memory:
        make_memory = make_exemplar_memory if method.keeps_exemplars else make_replay_memory
        memory = make_memory(config, stream, augmentation, device)
    sample = torch.zeros((1, *stream.image_shape), dtype=torch.uint8, device=device)
    image_size = augmentation.prepare(sample).shape[-1]
    network = make_network(config, stream.num_tasks, stream.num_classes, image_size).to(device)
    network.arrange(augmentation.memory_format)
    made = cast("type[Method]", method)  # its class is known to this file alone
    return made(network, config, stream, memory, augmentation.prepare)


def make_replay_memory(
    config: Configuration, stream: Stream, augmentation: Augmentation, device: torch.device
) -> Memory:
    """A memory that is filled while training."""
    from utils.data.buffer import make_memory

    return make_memory(
        config.buffer_mode,
        config.buffer_size,
        num_tasks=stream.num_tasks,
        device=device,
        augmentation=augmentation,
        seed=config.seed,
    )


def make_exemplar_memory(
    config: Configuration, stream: Stream, augmentation: Augmentation, device: torch.device
) -> ExemplarMemory:
    """A memory that is filled after each task."""
    from utils.data.exemplars import ExemplarMemory

    return ExemplarMemory(
        config.buffer_size,
        selection=config.exemplar_selection,
        quota=config.quota,
        reherd=config.reherd,
        num_classes=stream.num_classes,
        device=device,
        seed=config.seed,
    )


@as_user_errors()
def make_network(config: Configuration, num_tasks: int, num_classes: int, image_size: int) -> Network[Head]:
    """Backbone and classifier.

    Their weights are drawn on the CPU from generators of their own, so that they are the same for every norm layer.
    """
    import torch

    from backbone.norm import norm_factory
    from models.heads import HEADS, Network
    from utils.seeds import derive_seed

    parts = config.parts
    norm_options = config.chosen(parts.norm.options) | {"affine": config.affine}
    norm = norm_factory(config.nl, num_tasks=num_tasks, **norm_options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        backbone = parts.backbone(norm, image_size=image_size, **config.chosen(parts.backbone.options))
        if not hasattr(backbone, "num_features"):
            raise UserError(
                f"--backbone {config.backbone}: its constructor does not set `num_features`, their number D"
            )
        torch.manual_seed(derive_seed(config.seed, "head", 0))
        kind = HEADS[parts.head]
        head = kind(backbone.num_features) if kind.grows else kind(backbone.num_features, num_classes)
    if not any(isinstance(module, parts.norm) for module in backbone.modules()):
        raise UserError(f"--nl {config.nl} reached no layer of --backbone {config.backbone}")
    return Network(backbone, head, half=config.precision == "bf16")
