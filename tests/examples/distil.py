"""Distillation towards the pre-trained model: ZSCL, Zheng et al., arXiv 2303.06628, without its weight ensemble.

Full fine-tuning, in which the model is to answer on reference images as the pre-trained model does; the texts are the
task's prompts. With ``method.on=task`` the task's own images take their place: learning without forgetting, Li and
Hoiem, arXiv 1606.09282.
"""

from dataclasses import dataclass

from bench.api import F, Flags, Method, generator, register, setting, torch


@register("method", "distil", title="Distillation towards the pre-trained model", paper="arXiv 2303.06628")
class Distil(Method):
    """Fine-tune both towers and keep the pre-trained model's answers on reference images."""

    @dataclass
    class Settings:
        """What is distilled on, and how strongly."""

        on: str = setting("reference", "images that are distilled on", choices=("reference", "task"))
        strength: float = setting(1.0, "weight of the distillation", low=0)
        temperature: float = setting(2.0, "what logits are divided by", above=0, symbol="T")

    @classmethod
    def flags_for(cls, settings):
        return Flags(outside_data="reference" if settings.on == "reference" else "")

    def setup(self):
        self.teacher = self.clip.frozen()  # the weights that every run begins with: nothing to save
        self.known = None

    @torch.no_grad()
    def begin_task(self, task):
        self.step = 0
        with self.teacher:
            self.texts = self.clip.encode_tokens(task.tokens)
            if self.settings.on == "reference" and self.known is None:  # once: neither images nor teacher change
                parts = torch.arange(len(self.context.reference)).split(self.context.batch_size)
                self.known = torch.cat([self.clip.encode_images(self.context.reference.images(part)) for part in parts])

    def parameters(self):
        named = self.clip.model.named_parameters()
        return [weight for name, weight in named if not name.startswith("logit_")]

    def loss(self, pixels, labels, task):
        texts, own = self.clip.encode_tokens(task.tokens), self.clip.encode_images(pixels)
        if self.settings.on == "reference":
            draw = generator(self.context.data_seed, "reference", task.index, self.step)
            chosen = torch.randint(len(self.known), (len(pixels),), generator=draw)
            images = self.clip.encode_images(self.context.reference.images(chosen))
            taught = self.known[chosen.to(self.known.device)]
        else:
            images = own
            with torch.no_grad(), self.teacher:
                taught = self.clip.encode_images(pixels)
        T = self.settings.temperature
        answers = (self.clip.logits(images, texts) / T).log_softmax(dim=-1)
        wanted = (self.clip.logits(taught, self.texts).detach() / T).softmax(dim=-1)
        kept = T**2 * F.kl_div(answers, wanted, reduction="batchmean")
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
