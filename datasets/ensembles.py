"""All prompts of the datasets that are usually classified by several: those of CLIP's zero-shot evaluation.

CLIP lists them in data/prompts.md. ZSCL's tests average them, and MoE-Adapters' do, with a first one of their own for
Stanford Cars and EuroSAT.
"""

from __future__ import annotations

from collections.abc import Mapping

ARTICLE = "<a>"
"""Stands for the article: each such prompt is there once with ``a`` and once with ``the``."""


def with_articles(*forms: str) -> tuple[str, ...]:
    """Return all forms with the article ``a``, then all with ``the``.

    Parameters
    ----------
    *forms : str
        Prompts with ``<a>`` for the article.
    """
    return tuple(form.replace(ARTICLE, article) for article in ("a", "the") for form in forms)


_CIFAR = with_articles(
    "a photo of <a> {}.",
    "a blurry photo of <a> {}.",
    "a black and white photo of <a> {}.",
    "a low contrast photo of <a> {}.",
    "a high contrast photo of <a> {}.",
    "a bad photo of <a> {}.",
    "a good photo of <a> {}.",
    "a photo of <a> small {}.",
    "a photo of <a> big {}.",
)

ENSEMBLES: Mapping[str, tuple[str, ...]] = {
    "aircraft": with_articles("a photo of <a> {}, a type of aircraft."),
    "caltech101": with_articles(
        "a photo of <a> {}.",
        "a painting of <a> {}.",
        "<a> plastic {}.",
        "a sculpture of <a> {}.",
        "a sketch of <a> {}.",
        "a tattoo of <a> {}.",
        "<a> toy {}.",
        "a rendition of <a> {}.",
        "<a> embroidered {}.",
        "<a> cartoon {}.",
        "<a> {} in a video game.",
        "<a> plushie {}.",
        "<a> origami {}.",
        "art of <a> {}.",
        "graffiti of <a> {}.",
        "a drawing of <a> {}.",
        "a doodle of <a> {}.",
    ),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "dtd": with_articles(
        "a photo of <a> {} texture.",
        "a photo of <a> {} pattern.",
        "a photo of <a> {} thing.",
        "a photo of <a> {} object.",
    ),
    "eurosat": (
        "a centered satellite photo of {}.",
        "a centered satellite photo of a {}.",
        "a centered satellite photo of the {}.",
    ),
    "stanford-cars": (
        "a photo of a {}, a type of car.",
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of my {}.",
        "i love my {}!",
        "a photo of my dirty {}.",
        "a photo of my clean {}.",
        "a photo of my new {}.",
        "a photo of my old {}.",
    ),
    "sun397": with_articles("a photo of <a> {}."),
}
"""Registered name of a dataset -> its prompts; the first one is the dataset's own, which is trained on.

What is not here has one prompt.
"""


def more_templates(dataset: str) -> tuple[str, ...]:
    """Return the prompts of a dataset beside its own; none where it has one.

    Parameters
    ----------
    dataset : str
        Its registered name.
    """
    return ENSEMBLES.get(dataset, ("",))[1:]
