"""Routed adapters: a CLIP-Adapter (Gao et al., arXiv 2110.04544) a task, chosen image by image at test time.

The towers stay as they were pre-trained. Every task trains a small adapter of the image features. At test time an image
takes the adapter of the task with the nearest mean of a class's untouched features. It takes none where it is farther
from all means than nearly all training images were: unknown images keep their zero-shot answer. Every image decides for
itself, whatever else is in the batch.
"""

from dataclasses import dataclass

from bench.api import F, Flags, Method, no_grad, register, setting, torch

PARTS = ("down", "up", "means", "nearness")


@register("method", "routed", title="One adapter a task, chosen by the nearest class mean", paper="arXiv 2110.04544")
class Routed(Method):
    """Train a residual adapter of the image features on every task."""

    @dataclass
    class Settings:
        """Of the adapters, and of the choice."""

        width: int = setting(8, "inner width of an adapter", low=1)
        left_out: float = setting(0.05, "share of training images that would count as unknown", low=0, below=1)

    flags = Flags(grows="an adapter a task, a mean a class", extended=True)

    def setup(self):
        self.experts = {}  # index of the task -> tensors by the names in PARTS

    @no_grad
    def begin_task(self, task):
        batches = [(self.clip.encode_images(pixels), labels) for pixels, labels in task.batches("means")]
        features, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        sums = features.new_zeros(len(task.prompts), features.shape[1]).index_add_(0, labels, features)
        means = F.normalize(sums, dim=-1)
        nearest = (features @ means.T).amax(dim=1)
        down = torch.randn(self.settings.width, features.shape[1], generator=task.init_generator("adapter"))
        self.experts[task.index] = {
            "down": (down / features.shape[1] ** 0.5).to(features),
            "up": features.new_zeros(features.shape[1], self.settings.width),
            "means": means,
            "nearness": nearest.quantile(self.settings.left_out)[None],
        }
        self.current = self.experts[task.index]

    def parameters(self):
        return [self.current["down"], self.current["up"]]

    def adapt(self, features, expert):
        """Return the adapted features, of unit length."""
        return F.normalize(features + F.relu(features @ expert["down"].T) @ expert["up"].T, dim=-1)

    def loss(self, pixels, labels, task):
        with torch.no_grad():  # no tower is trained
            images, texts = self.clip.encode_images(pixels), self.clip.encode_tokens(task.tokens)
        return task.cross_entropy(self.clip.logits(self.adapt(images, self.current), texts), labels)

    def classifier(self, space):
        texts, experts = self.clip.encode_prompts(space.prompts), list(self.experts.values())

        def classify(pixels):
            features = self.clip.encode_images(pixels)
            nearness = [(features @ one["means"].T).amax(dim=1) - one["nearness"] for one in experts]
            choices = torch.stack([torch.zeros_like(features[:, 0]), *nearness]).argmax(dim=0)  # 0: unknown
            adapted = torch.stack([features, *(self.adapt(features, one) for one in experts)])
            chosen = adapted[choices, torch.arange(len(features), device=features.device)]
            return self.clip.logits(chosen, texts)

        return classify

    def state_dict(self):
        return {f"{index}/{part}": one[part].detach() for index, one in self.experts.items() for part in PARTS}

    def load_state_dict(self, state):
        indices = sorted({int(key.split("/")[0]) for key in state})
        self.experts = {
            index: {part: state[f"{index}/{part}"].to(self.clip.device) for part in PARTS} for index in indices
        }
