"""Ridge regression on image features in closed form: RAIL, Xu et al., arXiv 2406.18868, without its kernel.

Features of the untouched image tower are regressed on one-hot labels. The sums that decide the solution are those of
all images so far, whatever their order, so nothing is forgotten. As in RAIL the text tower decides whether an image
belongs to a class that was learned; if so, its scores are mixed with those of the regression.
"""

from dataclasses import dataclass

from bench.api import F, Flags, Method, no_grad, register, setting, torch


@register("method", "ridge", title="Ridge regression on image features", paper="arXiv 2406.18868")
class Ridge(Method):
    """Sum up features and labels, solve, and mix with zero-shot scores."""

    @dataclass
    class Settings:
        """Of the regression, and of the mixture."""

        damping: float = setting(1.0, "what is added to the diagonal", above=0, symbol="lambda")
        share: float = setting(0.8, "of the regression in the scores of learned classes", low=0, high=1, symbol="beta")

    flags = Flags(grows="a sum of features a class", extended=True)

    def setup(self):
        width = self.clip.encode_prompts(["a"]).shape[1]
        device = self.clip.exact_device
        self.gram = torch.zeros(width, width, dtype=torch.float64, device=device)  # sum of f f^T
        self.sums = torch.zeros(0, width, dtype=torch.float64, device=device)  # of every class: sum of f
        self.tokens = torch.zeros(0, self.clip.context_length, dtype=torch.int64)  # of every class: its prompt

    def find(self, tokens):
        """Return for every prompt the index of its class, int64 [prompts], -1 for one that was not learned."""
        same = (tokens.cpu()[:, None] == self.tokens).all(dim=2)
        return torch.where(same.any(dim=1), same.int().argmax(dim=1) if same.shape[1] else -1, -1)

    @no_grad
    def fit(self, task, train, on_step, on_epoch):
        new = task.tokens.cpu()[self.find(task.tokens) < 0]
        self.tokens = torch.cat([self.tokens, new])
        self.sums = F.pad(self.sums, (0, 0, 0, len(new)))
        classes = self.find(task.tokens).to(self.sums.device)
        for pixels, labels in task.batches("features"):
            features = self.clip.encode_images(pixels).to(self.gram)
            self.gram += features.T @ features
            self.sums.index_add_(0, classes[labels.to(classes.device)], features)
            on_step()
        return len(task.prompts) * len(self.gram)

    def classifier(self, space):
        zero_shot = super().classifier(space)
        index = self.find(self.clip.tokenize(space.texts)).to(self.sums.device)
        known = index >= 0
        damped = self.gram + self.settings.damping * torch.eye(len(self.gram)).to(self.gram)
        weights = torch.linalg.solve(damped, self.sums.T)[:, index[known]].float().to(self.clip.device)
        known = known.to(self.clip.device)

        def classify(pixels):
            scores = zero_shot(pixels).softmax(dim=-1)
            mixed = scores.clone()
            found = self.clip.encode_images(pixels) @ weights
            mixed[:, known] = (1 - self.settings.share) * scores[:, known] + self.settings.share * found
            return torch.where(known[scores.argmax(dim=1)][:, None], mixed, scores)

        return classify

    def state_dict(self):
        return {"gram": self.gram, "sums": self.sums, "tokens": self.tokens}

    def load_state_dict(self, state):
        self.gram, self.sums = (state[name].to(self.clip.exact_device) for name in ("gram", "sums"))
        self.tokens = state["tokens"]
