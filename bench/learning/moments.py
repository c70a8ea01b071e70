"""What methods measure on a task: second moments of activations and the mean gradient of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from bench.compute.world import World
from bench.core.lazy import no_grad, torch
from bench.model.linear_maps import LinearMap, Recorder

if TYPE_CHECKING:
    from torch import Tensor

    from bench.learning.task_data import TaskData
    from bench.model.clip import Clip


SIDE = 256
"""Rows and columns of the blocks in which products of wide activations are computed."""


def outer_products(rows: Tensor) -> Tensor:
    """Return the sum of x x^T over the rows x of a matrix.

    It is symmetric. On the CPU, one triangle of blocks is computed and copied to the other where that saves a quarter
    of the products or more; the result is the same up to rounding.

    Parameters
    ----------
    rows : Tensor [rows, width]

    Returns
    -------
    Tensor [width, width]
        In the precision of `rows`.
    """
    width = rows.shape[1]
    if width < 2 * SIDE or rows.device.type != "cpu":
        return rows.T @ rows
    total = rows.new_empty(width, width)
    for start in range(0, width, SIDE):
        block = slice(start, start + SIDE)
        total[block, : start + SIDE] = rows[:, block].T @ rows[:, : start + SIDE]
        total[:start, block] = total[block, :start].T
    return total


class SecondMoment:
    """Sum of outer products of the rows of activations: products in float32, their sum in float64.

    Parameters
    ----------
    width : int
        Number of features of an activation.
    device : torch.device
        Where the sum is kept.

    Attributes
    ----------
    gram : Tensor [width, width], float64
        Sum of x x^T over all tokens x so far.
    count : int
        Number of tokens.
    """

    def __init__(self, width: int, device: torch.device):
        self.gram = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Add the tokens of a batch.

        Parameters
        ----------
        x : Tensor [batch, tokens, width]
            Activations; or [rows, width] without a mask.
        mask : Tensor [batch, tokens], bool, optional
            Which tokens count; all of them by default.
        """
        rows = (x[mask] if mask is not None else x.flatten(0, -2)).detach().float()
        self.gram += outer_products(rows).to(self.gram.device)
        self.count += len(rows)

    def sum_over(self, world: World) -> None:
        """Add what the other processes of a run have summed.

        Parameters
        ----------
        world : World
            The processes.
        """
        if world.size > 1:
            count = torch.tensor(self.count, device=self.gram.device)
            world.sum([self.gram, count])
            self.count = int(count)

    def mean(self) -> Tensor:
        """Return the uncentred second moment E[x x^T].

        Returns
        -------
        Tensor [width, width], float64
        """
        return self.gram / self.count


class _Enough(Exception):
    """All activations that are wanted of a forward pass are there."""


def _ending(clip: Clip, recorders: Mapping[str, Recorder]) -> dict[str, Recorder]:
    """Return recorders of sites of one tower, the last of which ends the forward pass by `_Enough`.

    Nobody reads what comes after: at least the MLP of the last block, if only its attention's inputs are wanted.
    """
    *_, last = (name for name in clip.sites if name in recorders)

    def end(x: Tensor, mask: Tensor | None) -> None:
        recorders[last](x, mask)
        raise _Enough

    return {**recorders, last: end}


@no_grad
def second_moments(
    clip: Clip, task: TaskData, maps: Sequence[LinearMap], padding: bool = False, drop_last: bool = False
) -> dict[str, SecondMoment]:
    """Measure second moments of the activations that maps read, over a task's training images and class prompts.

    This takes one pass over the images for the image tower's sites, one over the prompts for the text tower's.

    Parameters
    ----------
    clip : Clip
        The model as it is now.
    task : TaskData
        The task to measure on.
    maps : sequence of LinearMap
        Their sites are measured, each once.
    padding : bool, optional
        Count the text positions after the end-of-text token too. They influence neither the features nor the
        gradients, so they are left out by default.
    drop_last : bool, optional
        Leave out the images of the last batch if it is not full.

    Returns
    -------
    dict of str to SecondMoment
        By name of the site.
    """
    sites = {linear_map.site.name: linear_map.site for linear_map in maps}
    moments = {name: SecondMoment(site.width, clip.exact_device) for name, site in sites.items()}

    def recorder(moment: SecondMoment) -> Recorder:
        return (lambda x, _: moment.add(x)) if padding else moment.add

    images, texts = ([n for n in moments if n.startswith(tower)] for tower in ("image.", "text."))
    if images:
        with clip.recording(_ending(clip, {name: recorder(moments[name]) for name in images})):
            for pixels, _ in task.batches("statistics", drop_last=drop_last, share="batches"):
                with suppress(_Enough):
                    clip.encode_images(pixels)
        for name in images:
            moments[name].sum_over(task.context.world)
    if texts:
        with clip.recording(_ending(clip, {name: recorder(moments[name]) for name in texts})), suppress(_Enough):
            clip.encode_tokens(task.tokens, cut=not padding)
    return _reported(moments, task)


@no_grad
def slot_means(clip: Clip, task: TaskData, maps: Sequence[LinearMap], padding: bool = False) -> dict[str, SecondMoment]:
    """Measure second moments of activations averaged over batches, by token position and position in the batch.

    The feature matrix of the code released with KeepLoRA has a column for every token position and position in the
    batch: the mean of the activation there over all full batches. It depends on the order of the images. This function
    returns the matrix's second moment. The text tower has one batch, so its second moment is the plain one.

    Parameters
    ----------
    clip : Clip
        The model as it is now.
    task : TaskData
        The task to measure on.
    maps : sequence of LinearMap
        Their sites are measured, each once.
    padding : bool, optional
        Count the text positions after the end-of-text token too.

    Returns
    -------
    dict of str to SecondMoment
        By name of the site.
    """
    sites = {linear_map.site.name: linear_map.site for linear_map in maps}
    image_sites = [name for name in sites if name.startswith("image.")]
    sums: dict[str, Tensor] = {}

    def summing(name: str):
        def record(x: Tensor, _: Tensor | None) -> None:
            sums[name] = x.float().clone() if name not in sums else sums[name].add_(x)

        return record

    if image_sites:
        with clip.recording(_ending(clip, {name: summing(name) for name in image_sites})):
            for pixels, _ in task.batches("statistics", drop_last=True, share="batches"):
                with suppress(_Enough):
                    clip.encode_images(pixels)
        for name in image_sites:  # a process may have had no batch
            slots = (task.context.batch_size, clip.image_tokens, sites[name].width)
            sums[name] = sums[name] if name in sums else torch.zeros(slots, device=clip.device)
        task.context.world.sum([sums[name] for name in image_sites])
    text_maps = [linear_map for linear_map in maps if linear_map.tower == "text"]
    moments = second_moments(clip, task, text_maps, padding) if text_maps else {}
    for name, total in sums.items():
        moments[name] = SecondMoment(total.shape[-1], clip.exact_device)
        moments[name].add(total)
        _reported({name: moments[name]}, task)
    return moments


def _reported(moments: dict[str, SecondMoment], task: TaskData) -> dict[str, SecondMoment]:
    """Report the moments to listeners, and return them."""
    if task.context.observers:
        for name, moment in moments.items():
            task.context.observers.report("statistic", task.name, name, gram=moment.gram, count=moment.count)
    return moments


def mean_gradient(clip: Clip, task: TaskData, maps: Sequence[LinearMap], drop_last: bool = False) -> dict[str, Tensor]:
    """Compute the gradient of a task's mean `TaskData.cross_entropy` with respect to weights, over all training images.

    The class features do not depend on the images, so the text tower runs forward once and backward once, with the
    gradient at its output averaged over all batches; by linearity this is the mean of the batches' gradients.

    Parameters
    ----------
    clip : Clip
        The model as it is now.
    task : TaskData
        The task to measure on.
    maps : sequence of LinearMap
        The maps whose weights are meant.
    drop_last : bool, optional
        Leave out the images of the last batch if it is not full.

    Returns
    -------
    dict of str to Tensor [out, in], float32
        By name of the map.
    """
    total = len(task.train) - (len(task.train) % task.context.batch_size if drop_last else 0)
    text_maps = [m for m in maps if m.tower == "text"]
    with clip.trainable(m.parameter for m in maps):
        with torch.set_grad_enabled(bool(text_maps)):
            class_features = clip.encode_tokens(task.tokens)
        upstream = class_features.detach().requires_grad_(bool(text_maps))
        for pixels, labels in task.batches("gradient", drop_last=drop_last, share="batches"):
            logits = clip.logits(clip.encode_images(pixels), upstream)
            (task.cross_entropy(logits, labels, reduction="sum") / total).backward()
        of_images = dict.fromkeys(m.parameter for m in maps if m.tower == "image")
        task.context.world.sum_gradients([*of_images, *([upstream] if text_maps else [])])
        if text_maps:
            class_features.backward(upstream.grad)
        gradients = {linear_map.name: linear_map.grad.clone() for linear_map in maps}
    for name, gradient in gradients.items():
        task.context.observers.report("gradient", task.name, name, gradient=gradient)
    return gradients
