"""Probes: what frozen image features tell without any text, by a logistic regression or by class means.

z is the feature of an image under the pre-trained image tower, of unit length. For the classes c that have been
learned

* ``linear-probe``: logits_c = w_c z + b_c, by scikit-learn's logistic regression, which minimises
  C sum_n -log softmax(W z_n + b)[y_n] + |W|^2 / 2. C is chosen by CLIP's protocol (arXiv 2103.00020, appendix A.3);
* ``nearest-mean``: logits_c = s <m_c / |m_c|, z> with m_c the mean of z over the class's training images, and s the
  model's scale, which decides nothing.

Where tests are in the classes of a single task, every task has a classifier of its own; where they are in those of
several, one classifier tells all learned classes apart, and prompts that several tasks share are one class. Classes
that are not learned yet have the text classifier: an image whose best text is one of them gets the text's answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.api import (
    F,
    Flags,
    LabelSpace,
    Method,
    ParityCard,
    TaskData,
    Train,
    linear_probe,
    no_grad,
    register,
    torch,
)

from .known_classes import positions

if TYPE_CHECKING:
    from torch import Tensor


TOGETHER = -1
"""In the place of a task: the classifier of all learned classes."""


@dataclass
class Head:
    """A classifier of some classes.

    Attributes
    ----------
    tokens : Tensor [classes, context length], int64
        The tokenised prompt of each class, on the CPU.
    weights : Tensor [classes, D]
    bias : Tensor [classes]
    """

    tokens: Tensor
    weights: Tensor
    bias: Tensor


# ---- the decisive computations


def class_sums(z: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the sums of features by class, and how many images each class has.

    Parameters
    ----------
    z : Tensor [images, D]
    labels : Tensor [images], int64
    classes : int

    Returns
    -------
    sums : Tensor [classes, D], float64
    counts : Tensor [classes], int64
    """
    sums = torch.zeros(classes, z.shape[1], dtype=torch.float64).index_add_(0, labels, z.double())
    return sums, labels.bincount(minlength=classes)


def gated(text: Tensor, own: Tensor, known: Tensor) -> Tensor:
    """Return the logits of a classifier of some classes, or of the text where its best class is none of these.

    Parameters
    ----------
    text, own : Tensor [images, classes]
    known : Tensor [classes], bool
        The classes that `own` is about; at least one.

    Returns
    -------
    Tensor [images, classes]
        Finite: the classes that `own` does not know are one below the lowest that it knows.
    """
    lowest = own[:, known].min(dim=1, keepdim=True).values - 1
    return torch.where(known[text.argmax(dim=1)][:, None], torch.where(known, own, lowest), text)


# ---- what both have in common


class Probe(Method, ABC):
    """Classifies image features among learned classes, and by the text among the others."""

    frozen_towers = True

    def setup(self) -> None:
        """Begin without a classifier."""
        self.alone = self.context.label_space == "task"
        self.heads: dict[int, Head] = {}
        self.parts: dict[int, dict[str, Tensor]] = {}

    def fit(self, task: TaskData, train: Train, on_step: Callable[[], None], on_epoch: Callable[[Any], None]) -> int:
        """Read the features of the task's images, and compute the classifier of all that it is to tell apart."""
        self.parts[task.index] = {"tokens": task.tokens.cpu(), **self.read(task)}
        joined = [self.parts[task.index]] if self.alone else [self.parts[index] for index in sorted(self.parts)]
        tokens, places = torch.cat([part["tokens"] for part in joined]).unique(dim=0, return_inverse=True)
        sizes = [len(part["tokens"]) for part in joined]
        classes, weights, bias = self.head(joined, places.split(sizes), len(tokens))
        index, device = task.index if self.alone else TOGETHER, self.clip.device
        self.heads[index] = Head(tokens[classes], weights.float().to(device), bias.float().to(device))
        if self.alone:
            del self.parts[task.index]
        return 0

    @abstractmethod
    def read(self, task: TaskData) -> dict[str, Tensor]:
        """Return what a classifier is computed from, of one task."""

    @abstractmethod
    def head(
        self, parts: list[dict[str, Tensor]], places: tuple[Tensor, ...], classes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the classes that have images, and their weights and biases.

        Parameters
        ----------
        parts : list of dict of str to Tensor
            What `read` gave of each task.
        places : tuple of Tensor, int64
            For each of them the class of each label.
        classes : int
        """

    def feature_classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier of the learned classes of a label space, with the text's answer for all others."""
        text = super().feature_classifier(space)
        tokens = self.clip.tokenize(space.texts)
        rows = {index: positions(tokens, one.tokens).tolist() for index, one in self.heads.items()}
        device, D = self.clip.device, self.clip.model.visual.output_dim
        known = torch.zeros(len(tokens), dtype=torch.bool, device=device)
        weights, bias = torch.zeros(len(tokens), D, device=device), torch.zeros(len(tokens), device=device)
        for at, owner in enumerate(space.tasks):
            index = owner if owner in rows else TOGETHER
            if index in rows and (row := rows[index][at]) >= 0:
                head = self.heads[index]
                known[at], weights[at], bias[at] = True, head.weights[row], head.bias[row]
        if not known.any():
            return text
        if known.all():
            return lambda z: z @ weights.T + bias
        return lambda z: gated(text(z), z @ weights.T + bias, known)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the classifiers, and what the next one is computed from."""
        heads = {f"head/{index}": vars(one) for index, one in self.heads.items()}
        parts = {f"part/{index}": one for index, one in self.parts.items()}
        return {f"{key}/{name}": tensor for key, one in (heads | parts).items() for name, tensor in one.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        parts: dict[str, dict[int, dict[str, Tensor]]] = {"head": {}, "part": {}}
        for key, tensor in state.items():
            kind, index, name = key.split("/")
            parts[kind].setdefault(int(index), {})[name] = tensor
        self.parts, device = parts["part"], self.clip.device
        self.heads = {
            index: Head(one["tokens"], one["weights"].to(device), one["bias"].to(device))
            for index, one in parts["head"].items()
        }


# ---- the two methods


@register(
    "method", "linear-probe", title="Probe: logistic regression on frozen features", paper="CLIP, arXiv 2103.00020"
)
class LinearProbe(Probe):
    """A logistic regression on the features of the pre-trained image tower."""

    bound = True
    scalars = ("zero_shot", "average_mtil", "average_cil", "average_cil_pooled", "last", "last_pooled", "learning")
    validation = True
    flags = Flags(
        task_at_test=True,
        grows="a classifier a task; in label spaces of several tasks the features of all training images",
        extended=True,
        rehearsal=True,
    )
    parity = ParityCard(
        present=(
            "scikit-learn's logistic regression with L-BFGS, at most 1000 iterations",
            "C between 1e-6 and 1e6, from seven values two decades apart, then halving the distance around the best "
            "down to an eighth of a decade",
        ),
        deviations=(
            "features are those that the text is compared with, of unit length; CLIP reads them before the projection",
            "C is chosen on validation images, where a task has none on every fourth training image of a class; the "
            "last fit learns from all training images, and from no validation image",
            "classes that are not learned yet have the text classifier: in the label space of single tasks Transfer "
            "equals zero-shot by construction",
        ),
        verified=("scikit-learn's own fit at the chosen C, and the search over all values of C (tests)",),
    )

    def read(self, task: TaskData) -> dict[str, Tensor]:
        """Return features and labels of the training images, which of them may choose C, and of validation images."""
        labels, further = task.train.labels, task.validation
        lent = torch.full((len(labels),), further is None)
        nothing = torch.zeros(0, self.clip.model.visual.output_dim)
        more = (nothing, labels[:0]) if further is None else (task.features(further), further.labels)
        return {"z": task.features(), "labels": labels, "lent": lent, "further": more[0], "further labels": more[1]}

    def head(
        self, parts: list[dict[str, Tensor]], places: tuple[Tensor, ...], classes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the classes that have images, and the weights and biases of the logistic regression."""
        z, lent, further = (torch.cat([part[name] for part in parts]).numpy() for name in ("z", "lent", "further"))
        labels, further_labels = (
            torch.cat([where[part[name]] for part, where in zip(parts, places, strict=True)]).numpy()
            for name in ("labels", "further labels")
        )
        fitted = linear_probe(z.astype(float), labels, lent, further.astype(float), further_labels)
        self.C = fitted.C
        present, weights, bias = map(torch.from_numpy, fitted[:3])
        return present, weights, bias

    def report(self) -> dict[str, Any]:
        """Return the C of the last classifier."""
        return {"C": self.C}


@register("method", "nearest-mean", title="Probe: nearest class mean of frozen features")
class NearestMean(Probe):
    """The class whose mean feature is most similar to that of the image."""

    bound = True
    scalars = ("zero_shot", "average_mtil", "average_cil", "average_cil_pooled", "last", "last_pooled", "learning")
    flags = Flags(task_at_test=True, grows="a mean a class", extended=True)
    parity = ParityCard(
        present=("means of features of unit length, themselves made of unit length; cosine similarity",),
        deviations=(
            "classes that are not learned yet have the text classifier: in the label space of single tasks Transfer "
            "equals zero-shot by construction",
        ),
        verified=("means by hand in float64 (tests)",),
    )

    @no_grad
    def read(self, task: TaskData) -> dict[str, Tensor]:
        """Return the sum of the features of each class, and its number of images."""
        sums, counts = class_sums(task.features(), task.train.labels, len(task.prompts))
        return {"sums": sums, "counts": counts}

    def head(
        self, parts: list[dict[str, Tensor]], places: tuple[Tensor, ...], classes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the classes that have images, and their means, scaled as the text is."""
        where = torch.cat(places)
        sums, counts = (torch.cat([part[name] for part in parts]) for name in ("sums", "counts"))
        total = torch.zeros(classes, sums.shape[1], dtype=torch.float64).index_add_(0, where, sums)
        having = torch.zeros(classes, dtype=torch.int64).index_add_(0, where, counts).nonzero()[:, 0]
        means = F.normalize(total[having], dim=1) * float(self.clip.logit_scale)
        return having, means, torch.zeros(len(having))
