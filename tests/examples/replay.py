"""Experience replay with an exemplar memory: Rebuffi et al., arXiv 1611.07725; Chaudhry et al., arXiv 1902.10486.

Full fine-tuning. After a task some of its images of every class are kept, drawn at random, as 8-bit pixels. Every step
of a later task classifies its batch and as many exemplars among the classes of all tasks so far.
"""

from dataclasses import dataclass

from bench.api import F, Flags, Method, generator, register, setting, torch


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
        height, width = self.clip.image_size
        self.pixels = torch.zeros(0, 3, height, width, dtype=torch.uint8)
        self.labels = torch.zeros(0, dtype=torch.int64)  # index into self.tokens
        self.tokens = torch.zeros(0, self.clip.context_length, dtype=torch.int64)

    def begin_task(self, task):
        self.step = 0
        classes = torch.cat([self.tokens.to(self.clip.device), task.tokens])
        # A prompt that two tasks have in common is one class.
        self.prompts, self.index = classes.unique(dim=0, return_inverse=True)

    def parameters(self):
        return self.weights

    def loss(self, pixels, labels, task):
        known = len(self.tokens)
        labels = labels + known
        if known:
            draw = generator(self.context.data_seed, "replay", task.index, self.step)
            chosen = torch.randperm(len(self.labels), generator=draw)[: len(pixels)]
            pixels = torch.cat([pixels, self.clip.normalize(self.pixels[chosen])])
            labels = torch.cat([labels, self.labels[chosen].to(labels.device)])
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
        order = torch.randperm(len(task.train), generator=task.init_generator("exemplars"))
        place = F.one_hot(task.train.labels[order], len(task.prompts)).cumsum(0)  # of every image among its class's
        place = place.gather(1, task.train.labels[order][:, None])[:, 0]
        chosen = order[place <= self.settings.per_class]
        self.pixels = torch.cat([self.pixels, task.train.uint8(chosen)])
        self.labels = torch.cat([self.labels, task.train.labels[chosen] + len(self.tokens)])
        self.tokens = torch.cat([self.tokens, task.tokens.cpu()])
        self.prompts = self.index = None

    def state_dict(self):
        return {"pixels": self.pixels, "labels": self.labels, "tokens": self.tokens}

    def load_state_dict(self, state):
        self.pixels, self.labels, self.tokens = state["pixels"], state["labels"], state["tokens"]
