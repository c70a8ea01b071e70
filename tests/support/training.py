"""A method of three numbers, for tests of the training loop."""

import torch

from bench.data.pixels import Pixels
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.trials.toy import tiny_clip, toy_task

CONTEXT = Context(tasks=1, batch_size=16, init_seed=0, data_seed=0)


class Probe(Method):
    """Trains a bias on top of the logits and counts what the loop does."""

    def setup(self) -> None:
        self.bias = torch.zeros(3)
        self.seen: list[int] = []
        self.steps = 0
        self.factor = 1.0

    def parameters(self):
        return [self.bias]

    def loss(self, pixels, labels, task):
        self.seen += labels.tolist()
        return torch.nn.functional.cross_entropy(self.bias.expand(len(labels), 3), labels) * self.factor

    def after_step(self) -> None:
        self.steps += 1


def probe(cls: type[Probe] = Probe) -> tuple[Probe, TaskData]:
    clip, task = tiny_clip(), toy_task(0)
    data = TaskData(0, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), CONTEXT)
    return cls(cls.Settings(), clip, CONTEXT), data
