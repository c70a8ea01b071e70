"""From an image to what the image tower reads: open_clip's transform in two steps, with uint8 between them.

The first step (resize, crop, convert) is expensive and needs the image; its result can be cached. The second
(normalise) is cheap and runs on the model's device.
"""

import dataclasses
import importlib.metadata
import json
from functools import cache
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

_version = cache(importlib.metadata.version)  # it reads and parses a file each time


class Preprocess:
    """open_clip's preprocessing, split where the pixels are still uint8.

    Parameters
    ----------
    settings : dict of str to object
        open_clip's preprocessing settings: size, mean, std, interpolation, resize_mode.

    Attributes
    ----------
    settings : dict of str to object
        All settings, those that were not given included.
    image_size : tuple of two int
        Height and width of the result, in pixels.
    transform_id : str
        Identifies everything that decides what `to_uint8` makes of an image: settings and library versions.
    """

    def __init__(self, settings: dict[str, Any]):
        config = PreprocessCfg(**settings)
        *self._to_rgb, _, normalize = image_transform_v2(config, is_train=False).transforms
        self._moments = tuple(torch.tensor(moment).view(3, 1, 1) for moment in (normalize.mean, normalize.std))
        self.image_size: tuple[int, int] = (config.size, config.size) if isinstance(config.size, int) else config.size
        self.settings = dataclasses.asdict(config)
        self.transform_id = json.dumps([self.settings, *map(_version, ("pillow", "torchvision"))])

    def to_uint8(self, image: Image.Image) -> np.ndarray:
        """Return an image as the model reads it, resized, cropped and in RGB, before normalisation.

        Parameters
        ----------
        image : PIL.Image.Image
            In any mode and size.

        Returns
        -------
        uint8 array [3, height, width]
        """
        for step in self._to_rgb:
            image = step(image)
        return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)

    def normalize(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Return normalised images; exactly the values of open_clip's own transform.

        torchvision's transform looks for zeros in std, which makes the CPU wait for a CUDA device; this does not.

        Parameters
        ----------
        pixels : uint8 Tensor [batch, 3, height, width]
            On any device.
        device : torch.device
            Where the result should be.

        Returns
        -------
        float32 Tensor [batch, 3, height, width]
        """
        mean, std = self._moments = tuple(moment.to(device) for moment in self._moments)
        return pixels.to(device, non_blocking=True).float().div_(255).sub_(mean).div_(std)
