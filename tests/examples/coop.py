"""Context optimisation: CoOp, Zhou et al., arXiv 2109.01134, with one context for the whole stream.

Vectors are learned that stand before the tokens of every prompt; both towers stay as they were pre-trained. CoOp puts
them in the place of a template. A method here knows prompts, not class names, so they stand before the template too.
One context, trained on one task after another, serves classes that nobody has trained on.
"""

from dataclasses import dataclass

from bench.api import Flags, Method, UserError, generator, register, setting, torch


@register("method", "coop", title="Learned context vectors before every prompt", paper="arXiv 2109.01134")
class CoOp(Method):
    """Train a few token embeddings that all prompts begin with."""

    @dataclass
    class Settings:
        """How many vectors."""

        vectors: int = setting(4, "context vectors", low=1, symbol="M")
        std: float = setting(0.02, "standard deviation of their first values", low=0)

    flags = Flags(extended=True)

    def setup(self):
        x, _ = self.clip.embed(self.clip.tokenize(["a"]))
        draw = generator(self.context.init_seed, "context")
        first = torch.randn(self.settings.vectors, x.shape[2], generator=draw)
        self.context_vectors = (self.settings.std * first).to(self.clip.device)

    def begin_task(self, task):
        self.texts = self.embed(task.tokens)

    def parameters(self):
        return [self.context_vectors]

    def embed(self, tokens):
        """Return the embeddings of tokenised prompts, and where they end with the vectors before them."""
        x, end = self.clip.embed(tokens)
        end = end + self.settings.vectors
        if int(end.max()) >= self.clip.context_length:
            raise UserError(f"prompts with {self.settings.vectors} vectors do not fit: lower method.vectors")
        return x.detach(), end

    def encode(self, x, end):
        """Return the features of embedded prompts with the vectors after their start token."""
        vectors = self.context_vectors.expand(len(x), -1, -1)
        whole = torch.cat([x[:, :1], vectors, x[:, 1 : x.shape[1] - self.settings.vectors]], dim=1)
        return self.clip.encode_embeddings(whole, end)

    def loss(self, pixels, labels, task):
        with torch.no_grad():  # the image tower is not trained
            images = self.clip.encode_images(pixels)
        return task.cross_entropy(self.clip.logits(images, self.encode(*self.texts)), labels)

    def end_task(self, task):
        super().end_task(task)
        self.texts = None

    def classifier(self, space):
        tokens = self.clip.tokenize(space.texts).split(256)
        features = torch.cat([self.encode(*self.embed(part)) for part in tokens])
        return lambda pixels: self.clip.logits(self.clip.encode_images(pixels), features)

    def state_dict(self):
        return {"context": self.context_vectors.detach()}

    def load_state_dict(self, state):
        self.context_vectors = state["context"].to(self.clip.device)
