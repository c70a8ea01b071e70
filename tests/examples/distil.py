"""Distillation towards the pre-trained model: ZSCL, Zheng et al., arXiv 2303.06628, without its weight ensemble.

Full fine-tuning, in which the model is to answer on reference images as the pre-trained model does; the texts are the
task's prompts. Without a reference folder the task's own images take their place: learning without forgetting, Li and
Hoiem, arXiv 1606.09282.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

from bench.api import F, FileImages, Flags, Method, Pixels, UserError, generator, register, setting, torch

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


@register("method", "distil", title="Distillation towards the pre-trained model", paper="arXiv 2303.06628")
class Distil(Method):
    """Fine-tune both towers and keep the pre-trained model's answers on reference images."""

    @dataclass
    class Settings:
        """What is distilled on, and how strongly."""

        reference: str | None = setting(None, "folder of images at any depth; null: the task's images", path=True)
        strength: float = setting(1.0, "weight of the distillation", low=0)
        temperature: float = setting(2.0, "what logits are divided by", above=0, symbol="T")

    @classmethod
    def flags_for(cls, settings):
        return Flags(outside_data="" if settings.reference is None else "reference images")

    def setup(self):
        self.teacher = copy.deepcopy(self.clip)  # the weights that every run begins with: nothing to save
        self.reference = None

    def begin_task(self, task):
        self.step = 0
        if self.settings.reference is not None:
            root = Path(self.settings.reference).expanduser()
            names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix.lower() in ENDINGS)
            if not names:
                raise UserError(f"method.reference={root} holds no images: give a folder that does")
            self.reference = Pixels(FileImages(root, names, [0] * len(names)), self.clip, keep=False)
        with torch.no_grad():
            self.texts = self.teacher.encode_tokens(task.tokens)

    def parameters(self):
        named = self.clip.model.named_parameters()
        return [weight for name, weight in named if not name.startswith("logit_")]

    def loss(self, pixels, labels, task):
        texts = self.clip.encode_tokens(task.tokens)
        own = self.clip.encode_images(pixels)
        seen, images = pixels, own
        if self.reference is not None:
            draw = generator(self.context.data_seed, "reference", task.index, self.step)
            chosen = torch.randint(len(self.reference), (len(pixels),), generator=draw)
            seen = self.clip.normalize(self.reference.uint8(chosen))
            images = self.clip.encode_images(seen)
        with torch.no_grad(), self.teacher.computing(self.clip.precision):
            taught = self.teacher.logits(self.teacher.encode_images(seen), self.texts)
        T = self.settings.temperature
        answers = (self.clip.logits(images, texts) / T).log_softmax(dim=-1)
        kept = T**2 * F.kl_div(answers, (taught / T).softmax(dim=-1), reduction="batchmean")
        return task.cross_entropy(self.clip.logits(own, texts), labels) + self.settings.strength * kept

    def after_step(self):
        self.step += 1

    def training_state(self):
        return {"step": torch.tensor(self.step)}

    def load_training_state(self, state):
        self.step = int(state["step"])

    def end_task(self, task):
        super().end_task(task)
        self.texts = None
