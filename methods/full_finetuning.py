"""What methods that train whole towers have in common: what is trained, how it is distilled, and ZSCL's budget.

ZSCL, arXiv 2303.06628, trains its rivals with the same loop: fine-tuning, LwF, LwF-VR, WiSE-FT and iCaRL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.api import F, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from bench.api import Clip, World

RELEASED: dict[str, Any] = {
    "train.steps": 1000,
    "train.batch_size": 64,
    "train.optimizer": "adamw",
    "train.lr": 1e-5,
    "train.schedule": "cosine",
    "train.warmup": 100.0,
    "train.betas": [0.9, 0.999],
    "train.weight_decay": 0.0,
    "train.label_smoothing": 0.2,
    "train.augment": "crop",
}
"""The budget of ZSCL's released loop, for `Method.defaults`.

The loop makes a step more, the 1001st. Its rate is exactly 0 and there is no weight decay, so it changes nothing: these
1000 steps have the same rates and end with the same weights.
"""

LOOP = (
    "AdamW at 1e-5 without weight decay, 100 steps of linear warm-up, then a cosine to 0; batches of 64, label "
    "smoothing 0.2, random boxes of 0.9 to 1.0 of a training image"
)
"""`RELEASED` in words, for parity cards; so are the next three, which say how it differs from the released loop."""

RATES = "5e-5 for Aircraft and MNIST, which is `train.tasks` on a line of MTIL"
LAST_STEP = (
    "1000 steps instead of 1001: the last has the rate 0 and changes nothing; a stream that counts in epochs wins over "
    "them unless the line has train.steps=1000"
)
PROMPTS = (
    "the class prompts are the stream's, in training and in tests; as released the first template of each set, and in "
    "tests all of them"
)


def whole_towers(clip: Clip, towers: Sequence[str] = ("image", "text")) -> dict[str, Parameter]:
    """Return what full fine-tuning trains: all parameters of some towers but the logit scale.

    Parameters
    ----------
    clip : Clip
    towers : sequence of {"image", "text"}, optional

    Returns
    -------
    dict of str to Parameter
        By their names in ``clip.model``, in the model's order.
    """
    return {
        name: parameter
        for name, parameter in clip.model.named_parameters()
        if ("image" if name.startswith("visual.") else "text") in towers and not name.startswith("logit_")
    }


def distil(P: Tensor, S: Tensor, T: float) -> Tensor:
    """Return how far a student's answers are from a teacher's: T^2 mean_rows CE(softmax(P / T), S / T).

    It is T^2 times the mean of the Kullback-Leibler divergences of the rows, up to the teacher's entropy, which the
    student does not change. A constant that is added to a row of either matrix changes nothing.

    Parameters
    ----------
    P : Tensor [rows, choices]
        Logits of the teacher. No gradient flows into them.
    S : Tensor [rows, choices]
        Logits of the student.
    T : float
        What both are divided by.

    Returns
    -------
    Tensor
        Scalar, differentiable with respect to `S`.

    Notes
    -----
    Hinton et al., arXiv 1503.02531; ZSCL (arXiv 2303.06628) applies it to both directions of the logits.
    """
    return T**2 * F.cross_entropy(S / T, (P.detach() / T).softmax(dim=-1))


def refuse_text_loss(weight: float, world: World, what: str) -> None:
    """Refuse L_txt where several processes share the images that it compares.

    Parameters
    ----------
    weight : float
        That of L_txt.
    world : World
    what : str
        What the images are.

    Raises
    ------
    UserError
        If L_txt has a weight, and a run has several processes.
    """
    if weight and world.size > 1:
        raise UserError(
            f"method.text_loss compares all {what}, which several processes share: use one process, or set "
            "method.text_loss=0"
        )
