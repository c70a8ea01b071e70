"""Zero-shot: the pre-trained model, never trained. Every other method is measured against it."""

from __future__ import annotations

from bench.api import Method, ParityCard, register


@register("method", "zero-shot", title="The pre-trained model, never trained", paper="CLIP, arXiv 2103.00020")
class ZeroShot(Method):
    """Classify with the prompts of the label space, and learn nothing."""

    bound = True
    constant = True
    parity = ParityCard(
        present=("one prompt a class, cosine similarity, argmax",),
        deviations=("one template a task instead of CLIP's ensembles, as every method of this suite",),
        verified=("open_clip's own forward pass, to 1e-5",),
    )
