"""Elastic weight consolidation: Kirkpatrick et al., arXiv 1612.00796, with the running sum of arXiv 1805.06370.

Full fine-tuning, in which a weight is tied to its value before the task, the stronger the more it mattered for earlier
tasks: ``loss + strength / 2 * sum_i F_i (w_i - w_i*)^2``. F is the diagonal of the Fisher information, summed over
tasks, and w* are the weights after the task before. F is all that is kept between tasks.
"""

from dataclasses import dataclass

from bench.api import Method, register, setting, torch


@register("method", "ewc", title="Elastic weight consolidation", paper="arXiv 1612.00796")
class EWC(Method):
    """Fine-tune both towers; tie weights by the Fisher information of earlier tasks."""

    @dataclass
    class Settings:
        """How strongly weights are tied, and how well the information is known."""

        strength: float = setting(1000.0, "weight of the penalty", low=0, symbol="lambda")
        images: int = setting(200, "training images that the information is measured on", low=1)
        keep: float = setting(1.0, "factor of earlier information after a task", low=0, high=1, symbol="gamma")

    def setup(self):
        weights = self.clip.model.named_parameters()
        self.weights = {name: weight for name, weight in weights if not name.startswith("logit_")}
        self.fisher = {}

    def begin_task(self, task):
        self.before = {name: weight.detach().clone() for name, weight in self.weights.items() if name in self.fisher}

    def parameters(self):
        return list(self.weights.values())

    def loss(self, pixels, labels, task):
        terms = [(self.fisher[name] * (self.weights[name] - old) ** 2).sum() for name, old in self.before.items()]
        return super().loss(pixels, labels, task) + self.settings.strength / 2 * sum(terms)

    def end_task(self, task):
        super().end_task(task)
        self.before = {}
        draw = task.init_generator("fisher")
        squares = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        count = min(self.settings.images, len(task.train))
        with self.clip.trainable(self.parameters()):
            texts = self.clip.encode_tokens(task.tokens)
            for pixels, _ in task.batches("fisher", batch_size=1, stop=count):
                scores = self.clip.logits(self.clip.encode_images(pixels), texts).log_softmax(dim=-1)
                # The label is one that the model expects: this makes it the Fisher information.
                label = torch.multinomial(scores[0].detach().exp().cpu(), 1, generator=draw)
                chosen = scores[0, label.to(scores.device)].sum()
                found = torch.autograd.grad(chosen, self.parameters(), retain_graph=True, allow_unused=True)
                for square, gradient in zip(squares.values(), found, strict=True):
                    if gradient is not None:
                        square += gradient**2 / count
        old = {name: self.settings.keep * fisher for name, fisher in self.fisher.items()}
        self.fisher = {name: square + old.get(name, 0) for name, square in squares.items()}

    def state_dict(self):
        return dict(self.fisher)

    def load_state_dict(self, state):
        self.fisher = {name: fisher.to(self.clip.device) for name, fisher in state.items()}
