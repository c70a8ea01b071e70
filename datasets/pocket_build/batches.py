"""Batches of the pre-training corpus: which drawings are drawn, their captions, and how the drawings are varied."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import MODEL_CFG
from open_clip.tokenizer import SimpleTokenizer
from torch.utils.data import Dataset

MIX = {"clipart": 0.15, "picture": 0.07, "emoji": 0.16, "flag": 0.07, "icon": 0.27, "letter": 0.19, "digit": 0.09}
"""Share of a batch by kind."""


class Batches(Dataset):
    """The batches of pre-training: number n is the same whoever draws it, and in whatever order.

    A batch as a dataset gives it names drawings and has their captions; `pictures` varies the drawings on the device.

    Parameters
    ----------
    work : Path
        Folder with ``corpus.npz`` and ``corpus.json``.
    tokenizer : SimpleTokenizer
        Tokenizer of the model.
    seed : int
        Seed of sampling and augmentation.
    size : int
        Pictures in a batch.
    device : torch.device
        Where pictures are made. Its kind decides their random numbers.
    mixed : int
        Batches at the beginning that are drawn from all kinds; half of every later batch is of one kind, so that most
        of the wrong texts of a picture are about things of its kind.
    """

    def __init__(
        self, work: Path, tokenizer: SimpleTokenizer, seed: int, size: int, device: torch.device, mixed: int
    ) -> None:
        with np.load(work / "corpus.npz", allow_pickle=False) as file:
            self.rgba = torch.from_numpy(file["rgba"]).to(device)
            self.alpha = torch.from_numpy(file["alpha"]).to(device)
            kind = file["kind"]
            weight = file["weight"]
        table = json.loads((work / "corpus.json").read_text(encoding="utf-8"))
        self.kinds, self.templates, self.phrases = table["kinds"], table["templates"], table["phrases"]
        self.kind = torch.from_numpy(kind)
        probability = np.zeros(len(kind))
        for i, name in enumerate(self.kinds):
            own = kind == i
            probability[own] = MIX[name] * weight[own] / weight[own].sum()
        self.probability = torch.from_numpy(probability)
        self.mix = torch.tensor([MIX[name] for name in self.kinds], dtype=torch.float64)
        self.tokenizer = tokenizer
        self.cache: dict[str, list[int]] = {}
        self.seed, self.size, self.mixed, self.device = seed, size, mixed, device
        self.generator = torch.Generator(device)
        self.of_kind = {
            name: torch.tensor([name == other for other in self.kinds], device=device) for name in self.kinds
        }

    def __len__(self) -> int:
        """Return how many batches there may be."""
        return 1 << 31

    def uniform(self, *shape: int) -> torch.Tensor:
        """Draw uniform numbers on the device."""
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def is_kind(self, kind: torch.Tensor, *names: str) -> torch.Tensor:
        """Return the mask of the images of certain kinds."""
        return torch.stack([self.of_kind[name] for name in names]).any(0)[kind]

    def texts(self, index: list[int], draw: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a caption for each image: tokens (batch, context) and keys (batch)."""
        rows, keys = [], []
        for i in index:
            phrase, key = draw.choice(self.phrases[i])
            text = draw.choice(self.templates[self.kinds[int(self.kind[i])]]).format(phrase)
            row = self.cache.get(text)
            if row is None:
                row = self.cache[text] = self.tokenizer([text])[0].tolist()
            rows.append(row)
            keys.append(key)
        return torch.tensor(rows), torch.tensor(keys)

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a batch: its number, indices of drawings (batch), tokens (batch, context) and keys (batch)."""
        generator = torch.Generator().manual_seed((self.seed << 32) + number)
        focus = int(torch.multinomial(self.mix, 1, generator=generator))
        own = self.probability if number < self.mixed else self.probability * (self.kind == focus)
        halves = [torch.multinomial(p, self.size // 2, True, generator=generator) for p in (self.probability, own)]
        index = torch.cat(halves)
        return number, index, *self.texts(index.tolist(), random.Random(f"{self.seed} {number}"))

    def warp(self, index: torch.Tensor, kind: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample the chosen drawings on the grids.

        Returns
        -------
        tuple of torch.Tensor
            Colours of the coloured drawings (coloured, 3, 36, 36) in [0, 1], and alpha planes of all
            (batch, 1, 36, 36).
        """
        single = index >= len(self.rgba)
        planes = self.alpha[index[single] - len(self.rgba)].unsqueeze(1).float() / 255
        # Thicker and thinner strokes of letters and digits.
        digit, letter = self.is_kind(kind[single], "digit"), self.is_kind(kind[single], "letter")
        draw = self.uniform(len(planes))
        thick = draw < torch.where(digit, 0.45, torch.where(letter, 0.15, 0.0))
        thin = (draw > torch.where(digit, 0.85, torch.where(letter, 0.9, 2.0))) & (planes.mean((1, 2, 3)) > 0.2)
        planes[thick] = F.max_pool2d(planes[thick], 3, 1, 1)
        planes[thin] = -F.max_pool2d(-planes[thin], 3, 1, 1)
        drawings = self.rgba[index[~single]].permute(0, 3, 1, 2).float() / 255
        drawings[:, :3] *= drawings[:, 3:]
        sampled = F.grid_sample(drawings, grid[~single], align_corners=False)
        alpha = torch.empty(len(index), 1, *grid.shape[1:3], device=self.device)
        alpha[single] = F.grid_sample(planes, grid[single], align_corners=False)
        alpha[~single] = sampled[:, 3:]
        return sampled[:, :3] / sampled[:, 3:].clamp_min(1e-2), alpha

    def adjust(self, colour: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        """Jitter the colours of coloured drawings."""
        size = len(kind)
        flag = self.is_kind(kind, "flag")
        strength = torch.where(flag, 0.2, 0.4).view(-1, 1, 1, 1)
        gain = 1 + strength * (self.uniform(size, 3, 1, 1) - 0.5)
        colour = colour * gain + 0.2 * (self.uniform(size, 1, 1, 1) - 0.5)
        saturation = torch.where(flag, 0.8 + 0.3 * self.uniform(size), 0.5 + 0.9 * self.uniform(size))
        saturation[~flag & (self.uniform(size) < 0.06)] = 0.0
        return torch.lerp(colour.mean(1, keepdim=True), colour, saturation.view(-1, 1, 1, 1)).clamp(0, 1)

    def grounds(self, flat: torch.Tensor, digit: torch.Tensor, dark: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw backgrounds (batch, 3, 36, 36), and a colour (batch, 3, 1, 1) for drawings that are in one colour.

        Backgrounds are white, black, light or of any colour, some running from one colour to another; the colour of a
        drawing differs from its background, and dark drawings get no dark background.
        """
        size = len(flat)
        side = MODEL_CFG["vision_cfg"]["image_size"]
        ground = self.uniform(size, 3, 1, 1)
        draw = self.uniform(size)
        ground[draw < 0.35] = 1.0
        ground[(draw >= 0.35) & (draw < 0.45)] = 0.0
        light = (draw >= 0.45) & (draw < 0.7) & ~flat | dark & ~flat & (ground.mean((1, 2, 3)) < 0.4)
        ground[light] = ground[light] * 0.4 + 0.6
        ink = self.uniform(size, 3, 1, 1)
        level = ground.mean((1, 2, 3))
        near = (ink.mean((1, 2, 3)) - level).abs() < 0.25
        ink[near] = (level[near] < 0.5).float().view(-1, 1, 1, 1) * 0.9 + 0.05
        draw = self.uniform(size)
        white = flat & (draw < torch.where(digit, 0.2, 0.12))
        black = flat & (draw > torch.where(digit, 0.4, 0.8))
        ink[white], ground[white] = 1.0, 0.0
        ink[black], ground[black] = 0.0, 1.0
        ramp = torch.linspace(-1, 1, side, device=self.device)
        angle = self.uniform(size, 1, 1, 1) * 2 * math.pi
        slope = torch.cos(angle) * ramp.view(1, 1, 1, -1) + torch.sin(angle) * ramp.view(1, 1, -1, 1)
        change = 0.25 * (self.uniform(size, 1, 1, 1) < 0.25) * (self.uniform(size, 3, 1, 1) * 2 - 1)
        return (ground + slope * change).clamp_(0, 1), ink

    def grid(self, kind: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw sampling grids (affine, elastic, waves of flags) and the lighting of waving flags."""
        size = len(kind)
        side = MODEL_CFG["vision_cfg"]["image_size"]
        glyph, digit = self.is_kind(kind, "letter", "digit"), self.is_kind(kind, "digit")
        flag = self.is_kind(kind, "flag")
        zoom = torch.where(digit, 0.85 + 0.3 * self.uniform(size), 0.75 + 0.37 * self.uniform(size))
        ratio = torch.where(digit, 0.75 + 0.5 * self.uniform(size), 0.87 + 0.26 * self.uniform(size))
        scale_x, scale_y = zoom * ratio, zoom
        angle = (self.uniform(size) - 0.5) * 2 * math.radians(16)
        shear = (self.uniform(size) - 0.5) * torch.where(glyph, 0.4, 0.1)
        mirror = self.is_kind(kind, "clipart", "picture", "emoji") & (self.uniform(size) < 0.5)
        reach = torch.where(digit, 0.08, 0.16)
        shift = (self.uniform(size, 2) * 2 - 1) * reach[:, None]
        cos, sin = torch.cos(angle), torch.sin(angle)
        sign = torch.where(mirror, -1.0, 1.0)
        first = torch.stack([cos / scale_x * sign, -sin / scale_x + shear, shift[:, 0]], 1)
        second = torch.stack([sin / scale_y * sign, cos / scale_y, shift[:, 1]], 1)
        grid = F.affine_grid(torch.stack([first, second], 1), [size, 4, side, side], align_corners=False)
        bend = torch.where(digit, 0.09, torch.where(glyph, 0.06, 0.03))
        field = torch.randn(size, 2, 4, 4, generator=self.generator, device=self.device) * bend.view(-1, 1, 1, 1)
        grid = grid + F.interpolate(field, (side, side), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
        lighting = torch.ones(size, side, side, device=self.device)
        waving = flag & (self.uniform(size) < 0.6)
        count = int(waving.sum())
        amount = self.uniform(count, 1, 1)
        turns = 0.6 + 1.2 * self.uniform(count, 1, 1)
        phase = math.pi * turns * grid[waving, :, :, 0] + 6.3 * self.uniform(count, 1, 1)
        grid[waving, :, :, 1] += 0.14 * amount * torch.sin(phase)
        lighting[waving] += 0.3 * amount * torch.cos(phase)
        return grid, lighting

    @torch.no_grad()
    def pictures(self, number: int, index: torch.Tensor) -> torch.Tensor:
        """Return the pictures of a batch, varied at random: (batch, 3, 36, 36) in [0, 1], on the device."""
        self.generator.manual_seed((self.seed << 32) + number)
        size = len(index)
        kind = self.kind[index].to(self.device)
        index = index.to(self.device)
        coloured = index < len(self.rgba)
        digit, letter = self.is_kind(kind, "digit"), self.is_kind(kind, "letter")
        grid, lighting = self.grid(kind)
        colour, alpha = self.warp(index, kind, grid)
        cover = alpha.mean((1, 2, 3))
        dark = torch.zeros(size, dtype=torch.bool, device=self.device)
        dark[coloured] = (colour * alpha[coloured]).mean((1, 2, 3)) < 0.3 * cover[coloured]
        silhouette = self.is_kind(kind, "clipart", "picture", "emoji") & (self.uniform(size) < 0.05) & (cover < 0.6)
        ground, ink = self.grounds(~coloured | silhouette, digit, dark)
        front = ink.expand(size, 3, *grid.shape[1:3]).clone()
        front[coloured & ~silhouette] = self.adjust(colour, kind[coloured])[~silhouette[coloured]]
        picture = torch.lerp(ground, front.mul_(lighting[:, None]), alpha)
        # Blur, very low resolution (as in 8x8 digits), noise.
        blur = self.uniform(size) < 0.15
        picture[blur] = F.avg_pool2d(picture[blur], 3, 1, 1, count_include_pad=False)
        side = picture.shape[-1]
        coarse = torch.where(digit, 0.7, torch.where(letter, 0.08, 0.02)) > self.uniform(size)
        first = self.uniform(size) < 0.5
        for chosen, cells, mode in ((coarse & first, 9, "bilinear"), (coarse & ~first, 10, "bicubic")):
            small = F.adaptive_avg_pool2d(picture[chosen], cells)
            picture[chosen] = F.interpolate(small, (side, side), mode=mode, align_corners=False)
        noisy = self.uniform(size) < 0.35
        shape = picture[noisy].shape
        picture[noisy] += torch.randn(shape, generator=self.generator, device=self.device) * (
            0.04 * self.uniform(shape[0], 1, 1, 1)
        )
        return picture.clamp_(0, 1)
