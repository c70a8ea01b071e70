"""Experience replay with an exemplar memory: Rebuffi et al., arXiv 1611.07725; Chaudhry et al., arXiv 1902.10486.

Full fine-tuning. After a task some of its images of every class are kept, drawn at random. Every step of a later task
classifies its batch and as many exemplars among the classes of all tasks so far.
"""

from dataclasses import dataclass

from bench.api import Flags, Memory, Method, generator, register, setting, torch


@register("method", "replay", title="Fine-tuning with an exemplar memory", paper="arXiv 1902.10486")
class Replay(Method):
    """Keep some images of every class, and train on them too."""

    @dataclass
    class Settings:
        """How much is kept."""

        per_class: int = setting(20, "images of every class that are kept", low=1)

    flags = Flags(grows="images of every class", rehearsal=True)

    def setup(self):
        named = self.clip.model.named_parameters()
        self.weights = [weight for name, weight in named if not name.startswith("logit_")]
        self.memory = Memory(self.clip, self.context, per_class=self.settings.per_class)

    def begin_task(self, task):
        self.step = 0
        classes = torch.cat([self.memory.tokens.to(self.clip.device), task.tokens])
        # A prompt that two tasks have in common is one class.
        self.prompts, self.index = classes.unique(dim=0, return_inverse=True)

    def parameters(self):
        return self.weights

    def loss(self, pixels, labels, task):
        draw = generator(self.context.data_seed, "replay", task.index, self.step)
        old_pixels, old_labels = self.memory.draw(len(pixels), draw)
        pixels = torch.cat([pixels, old_pixels])
        labels = torch.cat([labels + len(self.memory.tokens), old_labels])
        logits = self.clip.logits(self.clip.encode_images(pixels), self.clip.encode_tokens(self.prompts))
        return task.cross_entropy(logits, self.index[labels])

    def after_step(self):
        self.step += 1

    def training_state(self):
        return {"step": torch.tensor(self.step)}

    def load_training_state(self, state):
        self.step = int(state["step"])

    def end_task(self, task):
        super().end_task(task)
        self.memory.add(task)
        self.prompts = self.index = None

    def state_dict(self):
        return self.memory.state_dict()

    def load_state_dict(self, state):
        self.memory.load_state_dict(state)
