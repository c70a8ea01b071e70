"""A request to forget classes: the task of a stream that asks a model to forget."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np

from bench.core.errors import UserError
from bench.data.images import Images
from bench.data.stream import Task


@dataclass(frozen=True)
class Request(Task):
    """A request to forget some classes, while the others are to stay.

    A stream of requests has all classes that matter in each of them, in the same order: images are classified among
    these names before and after, forgotten ones included.

    Attributes
    ----------
    classes : tuple of str
        All classes, in label order: those to forget, those forgotten earlier, and those that stay.
    train : Images
        Training images of classes that are to stay after this request. Training walks over these.
    test : Images
        Test images of the classes to forget.
    forget : Images or None
        Training images of the classes to forget; None where there are none.
    forgotten : tuple of int
        The classes to forget, as indices into `classes`.
    earlier : tuple of int
        The classes that earlier requests named. None of their images is in `train` or `forget`.
    """

    forget: Images | None = field(kw_only=True)
    forgotten: tuple[int, ...] = field(kw_only=True)
    earlier: tuple[int, ...] = field(kw_only=True, default=())

    @property
    def retained(self) -> tuple[int, ...]:
        """The classes that are to stay, with or without images, as indices into `classes`."""
        gone = {*self.forgotten, *self.earlier}
        return tuple(index for index in range(len(self.classes)) if index not in gone)

    def without_images(self) -> tuple[int, ...]:
        """Return the classes to forget that have no training image.

        Returns
        -------
        tuple of int
            Indices into `classes`.
        """
        present = set() if self.forget is None else set(np.unique(self.forget.labels).tolist())
        return tuple(index for index in self.forgotten if index not in present)

    def digest(self) -> str:
        """Return a hash of everything in the request that can change a result.

        Returns
        -------
        str
            SHA-256 as hex digits.
        """
        images = None if self.forget is None else self.forget.digest
        parts = [super().digest(), images, self.forgotten, self.earlier]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def validate(self) -> None:
        """Check that the request can be carried out and measured.

        Raises
        ------
        UserError
            If it names no class, one that an earlier request named, or all that is left; if it has images of other
            classes than it says, or none to train or to test on.
        """
        self.check_names()
        names = [self.classes[index] for index in self.forgotten if 0 <= index < len(self.classes)]
        if not self.forgotten or len(names) < len(self.forgotten):
            raise UserError(f"request {self.name} names no class of the stream: name at least one")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"request {self.name} names the class {twice[0]!r} twice: name it once")
        if again := [self.classes[index] for index in self.forgotten if index in self.earlier]:
            raise UserError(f"request {self.name} forgets {again[0]!r}, which an earlier request forgot: name it once")
        if not self.retained:
            raise UserError(f"request {self.name} leaves no class: let at least one stay")
        for part, images, allowed in (
            ("training", self.train, self.retained),
            ("forgetting", self.forget, self.forgotten),
            ("test", self.test, self.forgotten),
            ("validation", self.validation, self.forgotten),
        ):
            if images is None:
                continue
            if len(images) == 0:
                raise UserError(f"request {self.name} has no {part} images: check its dataset")
            if not np.isin(images.labels, allowed).all():
                raise UserError(f"request {self.name} has {part} images of other classes: check the stream")
