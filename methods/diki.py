"""DIKI: key/value prefixes beside the attention, weighted by how much an image is like a task. arXiv 2407.05342.

For every task t, encoder e and block l of the first S, K and V [L_p, d] are trained. The attention of a block becomes

    W_o (softmax(q k^T / sqrt d_h) v + w softmax(q K^T / sqrt d_h) V) + b_o

with the frozen query q, and a softmax of its own over the L_p prefixes. V starts at zero, so nothing changes at first;
with w = 0 nothing changes ever. For every task a Gaussian of the frozen image features z is kept. At test time the task
with the highest density is chosen, and w = sigmoid(log density / 512 - 1): images far from all tasks get the
pre-trained model. Nothing is merged.

Everything here was read in the released code; of the paper only the abstract was available. It is one file, although
it is long: half of it is what the small functions document and what the two parity cards say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.api import (
    TOWERS,
    F,
    Flags,
    LabelSpace,
    Method,
    ParityCard,
    TaskData,
    UserError,
    no_grad,
    register,
    setting,
    torch,
    with_defaults,
)

if TYPE_CHECKING:
    from torch import Tensor

JITTER = 1e-7
"""What is added to the diagonal of a covariance."""

RELEASED_SCALE = 512
"""What the released code divides log densities by, whatever the width of the features; that of ViT-B is 512."""


def prefix_attention(q: Tensor, K: Tensor, V: Tensor, w: Tensor | None = None) -> Tensor:
    """Return what is added to the heads: ``w softmax(q K^T / sqrt d_h) V``, a softmax over the prefixes alone, no mask.

    Parameters
    ----------
    q : Tensor [sequences, heads, tokens, d_h]
        Queries.
    K, V : Tensor [L_p, d] or [sequences, L_p, d]
        Prefixes for all or for each; head h has the columns ``h d_h .. (h + 1) d_h``.
    w : Tensor [] or [sequences], optional
        Weight for all or for each; 1 by default.

    Returns
    -------
    Tensor [sequences, heads, tokens, d_h]
        In the precision of `q`.
    """
    heads = [rows.to(q.dtype).unflatten(-1, (q.shape[1], -1)).transpose(-3, -2) for rows in (K, V)]
    keys, values = (rows.expand(len(q), -1, -1, -1) for rows in heads)
    read = F.scaled_dot_product_attention(q, keys, values)
    return read if w is None else w.to(q.dtype).reshape(-1, 1, 1, 1) * read


def gaussian(total: Tensor, products: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of features from their sums: ``1/(n-1) sum (z - mu)(z - mu)^T + 1e-7 I``.

    Parameters
    ----------
    total : float64 Tensor [D]
        Sum of z.
    products : float64 Tensor [D, D]
        Sum of z z^T.
    n : int
        Number of features, at least 2.

    Returns
    -------
    mean : float64 Tensor [D]
    covariance : float64 Tensor [D, D]
    """
    mean = total / n
    covariance = (products - n * mean[:, None] * mean) / (n - 1)
    return mean, (covariance + covariance.T) / 2 + JITTER * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)


def shrunk(covariance: Tensor, n: int) -> Tensor:
    """Return a covariance drawn towards its mean variance: ``(1 - g) Sigma + g tr(Sigma)/D I``.

    With few images Sigma has directions without variance, in which no other image of the task is likely. g is that of
    Chen et al., IEEE Trans. Signal Processing 58(10), 2010 (oracle approximating shrinkage).

    Parameters
    ----------
    covariance : float64 Tensor [D, D]
    n : int
        How many features it is of.

    Returns
    -------
    float64 Tensor [D, D]
    """
    D = len(covariance)
    square, trace = float((covariance**2).sum()), float(covariance.trace())
    spread = (n + 1 - 2 / D) * (square - trace**2 / D)
    needed = (1 - 2 / D) * square + trace**2
    g = 1.0 if needed >= spread else needed / spread
    return (1 - g) * covariance + g * trace / D * torch.eye(D, dtype=covariance.dtype, device=covariance.device)


def log_densities(z: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Return the log densities of features under Gaussians.

    Parameters
    ----------
    z : float64 Tensor [batch, D]
    means : float64 Tensor [T, D]
    factors : float64 Tensor [T, D, D]
        Cholesky factors of the covariances, lower triangular.

    Returns
    -------
    float64 Tensor [batch, T]
    """
    differences = (z - means[:, None]).transpose(1, 2)  # [T, D, batch]
    white = torch.linalg.solve_triangular(factors, differences, upper=False)
    log_roots = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return (-0.5 * (white**2).sum(dim=1) - log_roots[:, None] - 0.5 * z.shape[1] * math.log(2 * math.pi)).T


def injection_weight(log_density: Tensor, scale: float = RELEASED_SCALE) -> Tensor:
    """Return w = sigmoid(m / scale - 1) for the highest log density m of each image.

    Parameters
    ----------
    log_density : Tensor [batch]
    scale : float

    Returns
    -------
    Tensor [batch]
        Between 0 and 1.
    """
    return torch.sigmoid(log_density / scale - 1)


def majority(chosen: Tensor, tasks: int) -> Tensor:
    """Return the task that most images of a batch have chosen; of several the first.

    Parameters
    ----------
    chosen : int64 Tensor [batch]
    tasks : int
        Number of tasks.

    Returns
    -------
    int64 Tensor []
    """
    return F.one_hot(chosen, tasks).sum(dim=0).argmax()


def blended(plain: Tensor, own: Tensor, cosine: Tensor, w: Tensor) -> Tensor:
    """Return logits for prompts whose features are ``(1 - w) f_0 + w f_1``, of unit length, with w of the image.

    Parameters
    ----------
    plain, own : Tensor [batch, prompts]
        Logits for the features f_0 without prefixes and f_1 with those of the task.
    cosine : Tensor [prompts]
        f_0 . f_1.
    w : Tensor [batch]

    Returns
    -------
    Tensor [batch, prompts]
        `plain` to the bit where w is 0.
    """
    w = w[:, None]
    return ((1 - w) * plain + w * own) / ((1 - w) ** 2 + w**2 + 2 * w * (1 - w) * cosine).sqrt()


def best_epoch(correct: Sequence[int]) -> int:
    """Return the first of the epochs with the most right answers.

    Parameters
    ----------
    correct : sequence of int
        Right answers on the validation images after each epoch.

    Returns
    -------
    int
        From 0.
    """
    return max(range(len(correct)), key=lambda epoch: correct[epoch])


@register("method", "diki", title="Key/value prefixes a task, weighted by a Gaussian", paper="DIKI, arXiv 2407.05342")
class Diki(Method):
    """DIKI, with every image choosing its prefixes by itself.

    Attributes
    ----------
    tasks : dict of int to dict of str to Tensor
        Of every task begun, by its index: ``image.K``, ``image.V`` [S, L_p, d_v], ``text.K``, ``text.V`` [S, L_p, d_t],
        ``mean`` [D] and ``covariance`` [D, D]. Float32.
    correct : list of int
        Right answers on validation images after every epoch of the current task.
    """

    @dataclass
    class Settings:
        """Prefixes, the choice among them, and their weight."""

        towers: list[str] = setting(["image", "text"], "towers that have prefixes", choices=TOWERS)
        length: int = setting(8, "prefixes of a block", low=1, symbol="L_p")
        depth: int = setting(8, "first blocks that have prefixes; all where a tower has fewer", low=1, symbol="S")
        select: str = setting(
            "sample",
            "who chooses the prefixes at test time: every image, or (released code) the majority of the test batch",
            choices=("sample", "batch"),
        )
        text_weight: str = setting(
            "image",
            "weight of the prefixes in the text tower, for select=sample: each image's own, by blending the prompts' "
            "features with and without prefixes, or one; with select=batch it is the mean weight of the batch",
            choices=("image", "one"),
        )
        scale: float | None = setting(
            None,
            "what log densities are divided by; null is the width of the features, the released code always takes 512",
            above=0,
            symbol="512",
        )
        shrink: bool = setting(
            True, "shrink the covariance of a task that has fewer images than twice the width of the features"
        )
        choose_epoch: bool = setting(True, "keep the epoch that is best on the validation images, where there are any")

        def check(self) -> list[str]:
            """Return what is wrong with the settings, whatever the model is."""
            return [] if self.towers else ["method.towers names no tower: name image, text or both"]

    defaults = {"train.weight_decay": 0.0}
    validation = True
    changes_at_end = True
    flags = Flags(grows="prefixes and a Gaussian a task", extended=True)
    parity = ParityCard(
        present=(
            "K uniform in -1 to 1, V = 0, in the first 8 blocks of both towers: 163,840 trained values on ViT-B/16",
            "the frozen query with its bias, a softmax over the prefixes alone, no mask, w after it, W_o after the sum",
            "one Gaussian of normalised frozen features a task, covariance with n - 1 and 1e-7 on the diagonal",
            "the highest log density chooses the task; w = sigmoid(log density / 512 - 1), 512 being the width",
            "cross-entropy over the task's classes with w = 1; the first epoch that is best on validation images",
        ),
        deviations=(
            "every image chooses its own prefixes; the released code takes the majority of a test batch (select)",
            "prompts' features with and without prefixes are blended by each image's weight, so an image unlike all "
            "tasks is classified as by the untrained model; the released code takes the mean weight of the batch",
            "AdamW and the stream's budget; the released code takes SGD at 5.0 (diki-faithful)",
            "the covariance of few images is shrunk; as released it gives such a task weight 0 (shrink)",
            "the width of the features in place of the number 512 (scale)",
            "a task without validation images keeps its last epoch",
            "the pre-trained features come from the model itself without prefixes, not from a second copy",
            "Gaussians and densities are float64, prefixes fp32; as released fp32 and fp16",
        ),
        verified=("float64 definitions, on small random towers, written apart from the implementation (tests)",),
    )

    @classmethod
    def flags_for(cls, settings: Settings) -> Flags:
        """Return the flags: answers depend on the test batch where its majority chooses."""
        return replace(cls.flags, test_batch=settings.select == "batch")

    def setup(self) -> None:
        """Find out which blocks have prefixes; refuse a stream with a task of one image."""
        for name, images in self.context.images.items():
            self._check_images(name, images)
        self.widths = {tower: self.clip.maps[f"{tower}.0.q"].in_features for tower in self.settings.towers}
        heads = [place.split(".")[0] for place in self.clip.places if place.endswith(".heads")]
        blocks = {tower: heads.count(tower) for tower in self.widths}
        self.depths = {tower: min(self.settings.depth, count) for tower, count in blocks.items()}
        self.tasks: dict[int, dict[str, Tensor]] = {}
        self.correct: list[int] = []
        self.best: list[Tensor] = []
        self.current = -1
        self.has_said = False

    def _check_images(self, task: str, images: int) -> None:
        if images < 2:
            raise UserError(f"task {task} has {images} training image and its Gaussian needs two: add some")

    # ---- before training

    @no_grad
    def begin_task(self, task: TaskData) -> None:
        """Measure the task's Gaussian on the frozen model; draw K, and set V to zero."""
        self._check_images(task.name, len(task.train))
        with self.context.part("gaussian pass"):
            sums = self._sums(task)
        n, device = len(task.train), self.clip.exact_device
        mean, covariance = gaussian(sums["total"].to(device), sums["products"].to(device), n)
        if self.settings.shrink and n < 2 * len(mean):
            covariance = shrunk(covariance, n)
        self.context.observers.report("method", task.name, "gaussian", mean=mean, covariance=covariance)
        moments = {"mean": mean, "covariance": covariance}
        draw = task.init_generator("diki")
        for tower, width in self.widths.items():
            shape = (self.depths[tower], self.settings.length, width)
            moments[f"{tower}.K"] = torch.empty(shape).uniform_(-1, 1, generator=draw)
            moments[f"{tower}.V"] = torch.zeros(shape)
        self.tasks[task.index] = {name: tensor.float().to(self.clip.device) for name, tensor in moments.items()}
        self.current, self.correct, self.best = task.index, [], []
        if self.settings.choose_epoch and task.validation is None and not self.has_said:
            self.context.say(f"note: task {task.name} has no validation images, so diki keeps the last epoch")
            self.has_said = True

    def _sums(self, task: TaskData) -> dict[str, Tensor]:
        """Sum z [D] and z z^T [D, D] over the training images; runs on this machine share the sums."""

        def compute() -> dict[str, Tensor]:
            device, D = self.clip.exact_device, self.clip.model.visual.output_dim
            total, products = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((D,), (D, D)))
            for pixels, _ in task.batches("gaussian", share="batches"):
                z = self.clip.encode_images(pixels).to(device).double()
                total += z.sum(dim=0)
                products += z.T @ z
            self.context.world.sum([total, products])
            return {"total": total, "products": products}

        identity = task.identity("gaussian")
        return (
            compute()
            if identity is None
            else self.shared("sums of features", [self.context.weights, *identity], compute)
        )

    # ---- training

    def parameters(self) -> Sequence[Tensor]:
        """K and V of the current task."""
        return [self.tasks[self.current][f"{tower}.{part}"] for tower in self.widths for part in "KV"]

    def loss(self, pixels: Tensor, labels: Tensor, task: TaskData) -> Tensor:
        """Cross-entropy over the task's prompts, its prefixes in both towers, w = 1."""
        with self.clip.beside(self._branches(task.index)):
            return super().loss(pixels, labels, task)

    @no_grad
    def after_epoch(self, task: TaskData, epoch: int) -> None:
        """Count right answers on the validation images, w = 1, and keep the prefixes of the best epoch."""
        if not self.settings.choose_epoch or task.validation is None:
            return
        with self.context.part("validation"), self.clip.beside(self._branches(task.index)):
            texts = self.clip.encode_tokens(task.tokens)
            right = task.validated(lambda pixels: self.clip.logits(self.clip.encode_images(pixels), texts))
        self.correct.append(int(right or 0))
        if best_epoch(self.correct) == epoch:
            self.best = [parameter.detach().clone() for parameter in self.parameters()]

    def training_state(self) -> dict[str, Tensor]:
        """Return the right answers after the epochs so far, and the prefixes of the best one."""
        return {
            "correct": torch.tensor(self.correct, dtype=torch.int64),
            **{f"best.{index}": tensor for index, tensor in enumerate(self.best)},
        }

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `training_state` returned."""
        self.correct = state["correct"].tolist()
        self.best = [state[f"best.{index}"].to(self.clip.device) for index in range(len(state) - 1)]

    @no_grad
    def end_task(self, task: TaskData) -> None:
        """Go back to the best epoch; nothing is merged."""
        for parameter, best in zip(self.parameters(), self.best, strict=bool(self.best)):
            parameter.copy_(best)
        self.best = []

    # ---- tests

    def classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        """Return the classifier: prefixes by the highest density, weights by how high that is."""
        if not self.tasks:
            return super().classifier(space)
        indices, device = list(self.tasks), self.clip.exact_device
        means = torch.stack([self.tasks[index]["mean"].to(device).double() for index in indices])
        covariances = torch.stack([self.tasks[index]["covariance"].to(device).double() for index in indices])
        factors = torch.linalg.cholesky(covariances)
        of_images = [f"image.{part}" for part in "KV" if "image" in self.widths]
        pools = [torch.stack([self.tasks[index][name] for index in indices]) for name in of_images]
        scale = self.settings.scale or means.shape[1]
        texts: dict[int, Tensor] = {}
        blends = self.settings.select == "sample" and self.settings.text_weight == "image"
        plain = self.clip.encode_prompts(space.prompts) if blends else None

        def route(z: Tensor) -> tuple[Tensor, Tensor]:
            densities = log_densities(z.to(device).double(), means, factors)
            highest, chosen = densities.max(dim=1)
            weights = injection_weight(highest, scale)
            self.context.observers.report("method", "", "route", densities=densities, chosen=chosen, weights=weights)
            return chosen.to(z.device), weights.float().to(z.device)

        def encode(pixels: Tensor, z: Tensor, chosen: Tensor, w: Tensor) -> Tensor:
            """Features of images, each with the prefixes of its task and its weight."""
            if not pools:
                return z
            K, V = (pool[chosen] for pool in pools)
            with self.clip.beside(_beside("image", K, V, w)):
                return self.clip.encode_images(pixels)

        def classify(pixels: Tensor) -> Tensor:
            z = self.clip.encode_images(pixels)
            chosen, w = route(z)
            if self.settings.select == "batch":
                chosen = majority(chosen, len(indices)).expand(len(z))
                class_features = self._texts(space, indices[int(chosen[0])], w.mean())
                return self.clip.logits(encode(pixels, z, chosen, w), class_features)
            images, logits = encode(pixels, z, chosen, w), z.new_zeros(len(z), len(space.prompts))
            for row in chosen.unique().tolist():
                if row not in texts:
                    texts[row] = self._texts(space, indices[row])
                own = self.clip.logits(images, texts[row])
                if plain is not None:
                    own = blended(self.clip.logits(images, plain), own, (plain * texts[row]).sum(dim=1), w)
                logits = torch.where((chosen == row)[:, None], own, logits)
            return logits

        return classify

    def _texts(self, space: LabelSpace, index: int, w: Tensor | None = None) -> Tensor:
        """Return features of the prompts [prompts, D] with the prefixes of a task, all with one weight."""
        with self.clip.beside(self._branches(index, ("text",), w)):
            return self.clip.encode_prompts(space.prompts)

    def _branches(self, index: int, towers: Sequence[str] = TOWERS, w: Tensor | None = None) -> dict[str, Any]:
        """Return what the prefixes of a task add to the heads, by place."""
        own, branches = self.tasks[index], dict[str, Any]()
        for tower in self.widths:
            if tower in towers:
                branches |= _beside(tower, own[f"{tower}.K"], own[f"{tower}.V"], w)
        return branches

    # ---- memory

    def report(self) -> dict[str, Any]:
        """Right answers on validation images after every epoch, and which epoch was kept, from 0."""
        return {"validation": self.correct, "epoch": best_epoch(self.correct)} if self.correct else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return prefixes and Gaussians of all tasks."""
        return {f"{index}/{name}": tensor for index, own in self.tasks.items() for name, tensor in own.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore prefixes and Gaussians."""
        self.tasks = {index: {} for index in sorted({int(key.split("/")[0]) for key in state})}
        for key, tensor in state.items():
            index, _, name = key.partition("/")
            self.tasks[int(index)][name] = tensor.to(self.clip.device)


def _beside(tower: str, K: Tensor, V: Tensor, w: Tensor | None) -> dict[str, Any]:
    """Return what prefixes [..., S, L_p, d] of a tower add to its heads, by place."""

    def branch(keys: Tensor, values: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
        return lambda q, read: prefix_attention(q, keys, values, w)

    blocks = zip(K.unbind(-3), V.unbind(-3), strict=True)
    return {f"{tower}.{block}.heads": branch(keys, values) for block, (keys, values) in enumerate(blocks)}


@register("method", "diki-faithful", title="DIKI as its released code", paper="DIKI, arXiv 2407.05342")
class DikiFaithful(Diki):
    """The released code: the majority of a test batch chooses, SGD at 5.0, and the number 512 for every model."""

    Settings = with_defaults(Diki.Settings, select="batch", scale=float(RELEASED_SCALE), shrink=False)
    defaults = {
        "train.epochs": 10,
        "train.batch_size": 128,
        "train.optimizer": "sgd",
        "train.momentum": 0.0,
        "train.lr": 5.0,
        "train.schedule": "cosine",
        "train.warmup": 0.0,
        "train.lr_end": 0.001,
        "train.weight_decay": 0.0,
    }
    parity = ParityCard(
        present=(
            *Diki.parity.present[:3],
            "the majority of a test batch chooses the task, ties to the first; every image keeps its own weight; all "
            "prompts have the mean weight of the batch; 512 whatever the width of the features",
            "cross-entropy over the task's classes with w = 1; the first epoch that is best on validation images",
            "SGD without momentum, 10 epochs of 128 images, rates from 5.0 along a cosine to 0.005, step by step",
        ),
        absent=("fp16 of weights, prefixes and features",),
        deviations=(
            "what a stream says about its budget wins over the 10 epochs of 128 images; test batches have "
            "evaluate.batch_size images, 256 as released",
            "the class prompts are the stream's; the released code takes the first template of each set",
            "splits are the stream's; as released those of CoOp, which is stream.splits=coop on a line of MTIL",
            "a task without validation images keeps its last epoch",
            "the pre-trained features come from the model itself without prefixes, not from a second copy",
            "Gaussians and densities are float64 (as released fp32: w differs by less than 2e-5)",
        ),
        verified=Diki.parity.verified,
    )
