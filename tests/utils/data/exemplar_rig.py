"""Small exemplar memories, images to choose from, and features of them."""

import torch

from utils.data.exemplars import ExemplarMemory, herd_greedily
from utils.data.pools import TensorPool, UnionPool


def memory_of(capacity=20, selection="herding", quota="ceil", reherd=True, num_classes=6, seed=0):
    parts = {"selection": selection, "quota": quota, "reherd": reherd, "num_classes": num_classes}
    return ExemplarMemory(capacity, **parts, device="cpu", seed=seed)


def images_of(labels, seed=0):
    """Images of which each is different, those of a class alike."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randint(-40, 40, (len(labels), 3, 4, 4), generator=random)
    return (noise + 50 + 20 * torch.as_tensor(labels).view(-1, 1, 1, 1) % 150).to(torch.uint8)


def pool_of(classes, per_class=30, task=0, seed=0):
    """Training images of some classes, mixed."""
    labels = torch.tensor(list(classes)).repeat(per_class)
    return TensorPool(images_of(labels, seed), labels, torch.full((len(labels),), task))


def features(raw):
    return raw.flatten(1).float()


def other_features(raw):
    return raw.flatten(1).float().cos()


def of_class(memory, label):
    """The exemplars of a class, first chosen first."""
    pool = memory.pool()
    return pool.take((pool.labels == label).nonzero().flatten())[0]


def ranked(pool, label, number, extract=features, herd=herd_greedily):
    """The images of a class that herding takes, in order."""
    raw = pool.take((pool.labels == label).nonzero().flatten())[0]
    return raw[herd(extract(raw), number)]


def pool_of_tasks(num_tasks):
    """All training images of the tasks of `update_after_tasks`, of which the last come first."""
    return UnionPool([pool_of((2 * task, 2 * task + 1), task=task, seed=task) for task in reversed(range(num_tasks))])


def update_after_tasks(memory, num_tasks=3, classes_per_task=2, extract=features):
    for task in range(num_tasks):
        classes = range(task * classes_per_task, (task + 1) * classes_per_task)
        memory.update(extract, pool_of(classes, task=task, seed=task), classes.stop)


def contents(memory):
    pool = memory.pool()
    return (*pool.take(torch.arange(len(pool))), pool.labels)


def label_of_image(pool):
    """Every different image, as bytes."""
    raw, labels, _ = pool.take(torch.arange(len(pool)))
    return {image.numpy().tobytes(): label for image, label in zip(raw, labels.tolist(), strict=True)}


def assert_same(memory, other):
    for ours, theirs in zip(contents(memory), contents(other), strict=True):
        assert torch.equal(ours, theirs)
