"""A toy stream and a toy model, made in memory: what contract tests run on where accuracy does not matter."""

import copy
import functools
from typing import Any

import numpy as np
import open_clip
import torch

from bench.data.dataset_stream import ReferenceSet
from bench.data.images import ArrayImages
from bench.data.request import Request
from bench.data.stream import Task
from bench.model.clip import Clip

CLASSES = ("red thing", "green thing", "blue thing")
CONTEXT_LENGTH = 16


CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 36, "patch_size": 12, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2},
}
"""open_clip's configuration of the toy model."""


def tiny_model(seed: int = 0, custom_text: bool = False, quick_gelu: bool = False) -> torch.nn.Module:
    """Return an open_clip model of two blocks a tower with random weights, biases included."""
    return copy.deepcopy(_built(seed, custom_text, quick_gelu))


@functools.lru_cache(maxsize=4)
def _built(seed: int, custom_text: bool, quick_gelu: bool) -> torch.nn.Module:
    """Return the model of which others are copies: to copy its weights is quicker than to draw them again."""
    build = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = build(**CONFIG, quick_gelu=quick_gelu)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@functools.cache
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)  # reading its vocabulary takes half a second


def tiny_clip(seed: int = 0) -> Clip:
    """Return a CLIP of two blocks a tower (widths 64 and 48) with random weights, for tests.

    Parameters
    ----------
    seed : int, optional
        Of the weights.

    Returns
    -------
    Clip
        Images of 36 x 36 pixels, prompts of at most 16 tokens, features of width 32.
    """
    preprocess = {"size": 36, "mean": (0.5,) * 3, "std": (0.3,) * 3}
    return Clip(tiny_model(seed), _tokenizer(), preprocess, "tiny", config=CONFIG)


def toy_task(index: int, train: int = 40, test: int = 24) -> Task:
    """Return a task of three classes: noise around one colour a class. It depends on the arguments alone.

    Parameters
    ----------
    index : int
        Number of the task, which seeds its images.
    train, test : int, optional
        Numbers of images.

    Returns
    -------
    Task
        Images of 36 x 36 pixels; 12 of them for validation.
    """
    rng = np.random.default_rng(index)
    means = rng.integers(30, 225, (len(CLASSES), 3))

    def images(count: int) -> ArrayImages:
        labels = np.arange(count) % len(CLASSES)
        pixels = means[labels][:, None, None] + rng.normal(0, 40, (count, 36, 36, 3))
        return ArrayImages(np.clip(pixels, 0, 255).astype(np.uint8), labels)

    return Task(f"toy{index}", CLASSES, f"picture {index} of a {{}}", images(train), images(test), images(12))


SCOPE = tuple(f"{name} thing" for name in ("red", "green", "blue", "grey", "dark", "pale", "warm", "cold"))
"""The classes of `toy_request`."""


def toy_request(index: int, train: int = 5, test: int = 6) -> Request:
    """Return a request to forget two of eight classes: noise around one colour a class.

    Parameters
    ----------
    index : int
        Number of the request, 0 to 2; earlier ones forgot the classes before.
    train, test : int, optional
        Numbers of images a class.

    Returns
    -------
    Request
        Images of 36 x 36 pixels, as of `toy_task`.
    """
    rng = np.random.default_rng(77)
    means = rng.integers(30, 225, (len(SCOPE), 3))

    def images(classes: range, count: int, part: int) -> ArrayImages:
        labels = np.repeat(classes, count)
        noise = np.random.default_rng([index, part]).normal(0, 40, (len(labels), 36, 36, 3))
        return ArrayImages(np.clip(means[labels][:, None, None] + noise, 0, 255).astype(np.uint8), labels)

    first, after = 2 * index, 2 * index + 2
    gone = range(first, after)
    return Request(
        f"request{index}",
        SCOPE,
        "picture of a {}",
        train=images(range(after, len(SCOPE)), train, 0),
        test=images(gone, test, 1),
        forget=images(gone, train, 2),
        forgotten=tuple(gone),
        earlier=tuple(range(first)),
    )


def toy_reference() -> ReferenceSet:
    """Return a reference set of twelve images of noise and three sentences, which no toy task has."""
    pixels = np.random.default_rng(99).integers(0, 256, (12, 36, 36, 3), dtype=np.uint8)
    return ReferenceSet("toy", ArrayImages(pixels, [0] * 12), ("a dog", "a photo of a tall house", "grey water"))
