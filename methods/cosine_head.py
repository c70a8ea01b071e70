"""A head of class means: cosine similarity to the mean image feature of every class, added to the text logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.api import F, TaskData, UserError, no_grad, torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import Clip


@no_grad
def class_means(clip: Clip, task: TaskData, drop_last: bool) -> Tensor:
    """Return the normalised means of the normalised image features of every class (KeepLoRA+).

    Parameters
    ----------
    clip : Clip
    task : TaskData
    drop_last : bool
        Leave out the images of the last batch if it is not full.

    Returns
    -------
    Tensor
        float32 [classes, width of embedding], rows of unit length.

    Raises
    ------
    UserError
        If the pass holds no image of a class.
    """
    total: Tensor | None = None
    counts = torch.zeros(len(task.prompts), device=clip.device)
    for pixels, labels in task.batches("head", drop_last=drop_last):
        features = clip.encode_images(pixels)
        if total is None:
            total = torch.zeros(len(task.prompts), features.shape[1], device=clip.device)
        total.index_add_(0, labels, features)
        counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
    if total is None or bool((counts == 0).any()):
        label = 0 if total is None else int(counts.argmin())
        raise UserError(
            f'no image of "{task.prompts[label]}" of task {task.name} is in a full batch, so its class mean is not '
            "known: lower train.batch_size, set method.drop_last=false, or give every class an image"
        )
    return F.normalize(total / counts[:, None], dim=-1)


def head_logits(features: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Return ``scale * cos(f, w_c)`` for features of unit length [batch, width] and weights [classes, width]."""
    return scale * features @ F.normalize(weight, dim=-1).T
