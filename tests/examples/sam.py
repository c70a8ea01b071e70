"""Sharpness-aware minimisation: SAM, Foret et al., arXiv 2010.01412, on the factors of LoRA.

A step takes the gradient where the loss of the batch is highest within a small ball, and is made from where it began.
"""

from dataclasses import dataclass

from bench.api import LowRank, Method, register, setting, torch


@register("method", "sam", title="LoRA trained with steps that look at the ball around them", paper="arXiv 2010.01412")
class Sam(Method):
    """LoRA with two backward passes a step."""

    @dataclass
    class Settings:
        """How large the ball is."""

        rank: int = setting(4, "columns of the update", low=1, symbol="r")
        radius: float = setting(0.05, "radius of the ball", low=0, symbol="rho")

    def setup(self):
        self.maps = self.clip.select(["q", "k", "v", "o"], ["image", "text"])

    def begin_task(self, task):
        draw = task.init_generator("sam")
        for m in self.maps:
            A = torch.randn(self.settings.rank, m.in_features, generator=draw) / m.in_features**0.5
            m.update = LowRank(A.to(m.weight), m.weight.new_zeros(m.out_features, self.settings.rank))

    def parameters(self):
        return [factor for m in self.maps for factor in (m.update.A, m.update.B)]

    def train_step(self, step):
        step.backward()  # this pass counts in the loss of the epoch
        gradients = [parameter.grad for parameter in step.parameters]
        length = torch.stack([gradient.norm() for gradient in gradients]).norm() + 1e-12
        here = [parameter.detach().clone() for parameter in step.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(step.parameters, gradients, strict=True):
                parameter.add_(self.settings.radius * gradient / length)
        step.backward(counts=False)
        with torch.no_grad():
            for parameter, value in zip(step.parameters, here, strict=True):
                parameter.copy_(value)
        step.update()
