"""A method on a small random model, taught task by task without a run."""

import torch

from bench.config.run_settings import Train
from bench.data.pixels import Pixels
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.trials.toy import toy_task


def nothing(*_: object) -> None:
    """Hears of steps and epochs."""


TRAIN = Train(epochs=2, batch_size=16, lr=0.02)


def data(clip: Clip, index: int = 0, context: Context | None = None) -> TaskData:
    task = toy_task(index)
    context = context or Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)
    return TaskData(
        index, task.name, task.prompts, clip.tokenize(task.prompts), Pixels(task.train, clip, True), context
    )


def weights(method: Method) -> dict[str, torch.Tensor]:
    return {name: m.weight.clone() for name, m in method.clip.maps.items()}


def learn(method: Method, index: int) -> TaskData:
    task = data(method.clip, index)
    method.begin_task(task)
    method.fit(task, TRAIN, nothing, nothing)
    method.end_task(task)
    return task
