"""The KeepLoRA family: presets, the released rules transcribed in float64, listeners, costs."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from bench.methods.keeplora import KeepLora, KeepLoraOfficial, KeepLoraPlus, KeepLoraPp
from bench.methods.low_rank import PerTower
from bench.methods.subspace import count_below, grow, leading, spectrum
from safetensors.torch import load_file
from support.learning import TRAIN, data, learn, nothing
from support.listening import Heard
from support.toy_runs import toy_run
from torch import Tensor, nn

from bench.cli import main as cli
from bench.config.run_settings import Surroundings, Train
from bench.core.errors import UserError
from bench.data.batch_order import BatchOrder
from bench.data.stream import label_space
from bench.learning.observers import Observers
from bench.learning.task_data import Context, TaskData
from bench.metrics.matrix import AccuracyMatrix
from bench.model.clip import Clip
from bench.trials.toy import tiny_clip, toy_task

TOY = str(Path(__file__).parent / "toy.py")
FAMILY = [KeepLora, KeepLoraOfficial, KeepLoraPlus, KeepLoraPp]
NAMES = ["keeplora", "keeplora-official", "keeplora-plus", "keeplora-pp"]


def build(cls: type[KeepLora], clip: Clip | None = None, context: Context | None = None, **settings) -> KeepLora:
    clip = clip or tiny_clip()
    context = context or Context(tasks=3, batch_size=16, init_seed=0, data_seed=0)
    return cls(cls.Settings(**({"rank": 4} | settings)), clip, context)


# ---- presets


def test_presets_are_one_method_with_other_defaults() -> None:
    base = vars(KeepLora.Settings())
    changed = {
        cls.registry_name: {key: value for key, value in vars(cls.Settings()).items() if value != base[key]}
        for cls in FAMILY
    }
    assert changed == {
        "keeplora": {},
        "keeplora-official": {
            "weight_side": "output", "rank_rule": "below", "feature_statistic": "slot-mean", "pad_tokens": True,
            "drop_last": True, "surplus": "keep",
        },
        "keeplora-plus": {"head": "class-mean"},
        "keeplora-pp": {"zero_b": True, "layer_factor": 0.2},
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_listed(name: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["list", "methods", name]) == 0
    assert "weight_side" in capsys.readouterr().out


def test_presets_differ_where_they_should() -> None:
    clips = {}
    for cls in FAMILY:
        method = build(cls)
        learn(method, 0)
        clips[cls] = {name: m.weight.clone() for name, m in method.clip.maps.items()}
    for other in FAMILY[1:]:
        assert any(not torch.equal(clips[KeepLora][name], w) for name, w in clips[other].items()), other


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=keeplora", "method.feature_statistic=slot-mean"], "needs full batches: set method.drop_last=true"),
        (["method=keeplora-official", "method.maps=[q,fc1]"], "cannot protect fc1 and fc2, whose input and"),
        (["method=keeplora-official", "train.batch_size=64", "train.schedule=constant"], "less than one batch of 64"),
        (["method=keeplora-pp", "method.layer_factor=0"], "must be > 0"),
        (["method=keeplora", "method.rank_rule=under"], "must be one of reach, below"),
    ],
)
def test_settings_that_cannot_be(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    toy = [f"stream={TOY}", f"model={TOY}", f"out={tmp_path}", "device=cpu", "method.rank=4"]
    assert cli.main(["run", *toy, *words]) == 2
    assert message in capsys.readouterr().err


# ---- the released code, transcribed: one SVD a tall matrix, one gradient a batch, adapters as separate products


def released_first_fill(singular: Tensor, threshold: float) -> int:
    shares = (singular**2).cumsum(0) / (singular**2).sum()
    return max(1, int((shares < threshold).sum()))


def released_growth(M: Tensor, features: Tensor, threshold: float) -> Tensor:
    if M.shape[1] == 0:
        U, S, _ = torch.linalg.svd(features, full_matrices=False)
        return U[:, : released_first_fill(S, threshold)]
    total = (torch.linalg.svdvals(features) ** 2).sum()
    rest = features - M @ M.T @ features
    have = (total - (rest**2).sum()) / total
    U, S, _ = torch.linalg.svd(rest, full_matrices=False)
    added = 0
    while have < threshold and added < len(S):
        have = have + S[added] ** 2 / total
        added += 1
    return torch.cat([M, U[:, :added]], dim=1)[:, : M.shape[0]]


class Released:
    """The released rules on a float64 copy of a model, weights changed through `functional_call` alone."""

    KINDS = "qkvo"

    def __init__(self, clip: Clip, rank: int, weight_energy: PerTower, feature_energy: PerTower):
        self.clip = clip
        self.model = clip.model.double()
        self.rank, self.scale = rank, 1 / rank
        self.eps_f = feature_energy
        self.params = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.maps = [(m.name, m) for m in clip.maps.values() if m.kind in self.KINDS]
        owner = {id(p): n for n, p in self.model.named_parameters()}
        self.where = {name: (owner[id(m.parameter)], m.rows) for name, m in self.maps}
        self.M = {}
        for name, m in self.maps:
            U, S, _ = torch.linalg.svd(self.weight(name))
            eps = weight_energy.image if m.tower == "image" else weight_energy.text
            self.M[name] = U[:, : released_first_fill(S, eps)]

    def weight(self, name: str) -> Tensor:
        parameter, rows = self.where[name]
        return self.params[parameter][rows]

    def logits(self, params: dict[str, Tensor], pixels: Tensor, tokens: Tensor) -> Tensor:
        """The text tower on all positions, every time."""

        class Both(nn.Module):
            def __init__(self, clip: Clip):
                super().__init__()
                self.model = clip.model
                self.clip = clip

            def forward(self, pixels: Tensor) -> Tensor:
                return self.clip.logits(self.clip.encode_images(pixels), self.clip.encode_tokens(tokens, cut=False))

        renamed = {f"model.{name}": value for name, value in params.items()}
        return torch.func.functional_call(Both(self.clip), renamed, (pixels,))

    def gradient(self, task: TaskData, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(self.weight(name)) for name, _ in self.maps}
        for pixels, labels in batches:
            leaves = {n: p.clone().requires_grad_(True) for n, p in self.params.items()}
            F.cross_entropy(self.logits(leaves, pixels.double(), task.tokens), labels).backward()
            for name, (parameter, rows) in self.where.items():
                total[name] += leaves[parameter].grad[rows]  # type: ignore[index]
        return {name: value / len(batches) for name, value in total.items()}

    def start(self, gradients: dict[str, Tensor]) -> None:
        self.A, self.B = {}, {}
        for name, _ in self.maps:
            M, G = self.M[name], gradients[name].T
            U, S, Vh = torch.linalg.svd(G - M @ M.T @ G, full_matrices=False)
            self.A[name] = U[:, : self.rank]
            self.B[name] = S[: self.rank, None] * Vh[: self.rank]
            self.weight(name).sub_(self.scale * (self.A[name] @ self.B[name]).T)

    def with_adapters(self, B: dict[str, Tensor]) -> dict[str, Tensor]:
        """All parameters, those of the maps with their updates."""
        params = dict(self.params)
        changes: dict[str, Tensor] = {}
        for name, (parameter, rows) in self.where.items():
            change = torch.zeros_like(params[parameter])
            change[rows] = self.scale * (self.A[name] @ B[name]).T
            changes[parameter] = changes.get(parameter, 0) + change
        return {name: value + changes[name] if name in changes else value for name, value in params.items()}

    def train(self, task: TaskData, epochs: list[list[tuple[Tensor, Tensor]]], lr: float) -> list[float]:
        leaves = {name: B.clone().requires_grad_(True) for name, B in self.B.items()}
        optimizer = torch.optim.AdamW(leaves.values(), lr=lr, weight_decay=0.01)
        steps = sum(map(len, epochs))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
        losses = []
        for batches in epochs:
            for pixels, labels in batches:
                loss = F.cross_entropy(self.logits(self.with_adapters(leaves), pixels.double(), task.tokens), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
        self.params = {n: p.detach() for n, p in self.with_adapters(leaves).items()}
        return losses

    def features(self, task: TaskData, batches: list[tuple[Tensor, Tensor]]) -> None:
        """F_n = n/(n+c) F + 1/(n+c) X^T over batches, positions before places in the batch; text in one call."""
        seen: dict[str, tuple[Tensor, int]] = {}

        def record(site: str):
            def take(x: Tensor, _: Tensor | None) -> None:
                X = x.transpose(0, 1).reshape(-1, x.shape[-1])  # token-major
                old, n = seen.get(site, (torch.zeros_like(X.T), 0))
                c = len(X)
                seen[site] = (n / (n + c) * old + X.T / (n + c), n + c)

            return take

        with torch.no_grad():
            for name, value in self.params.items():
                self.model.get_parameter(name).copy_(value)
            sites = {m.site.name for _, m in self.maps}
            with self.clip.recording({site: record(site) for site in sites}):
                for pixels, _ in batches:
                    self.clip.encode_images(pixels.double())
                self.clip.encode_tokens(task.tokens, cut=False)
        for name, m in self.maps:
            eps = self.eps_f.image if m.tower == "image" else self.eps_f.text
            self.M[name] = released_growth(self.M[name], seen[m.site.name][0], eps)


def test_official_is_the_released_code_number_for_number() -> None:
    """Two tasks on the same batches: subspaces, A, A B0, losses and merged weights.

    The rank is below the number of classes, where the released code reproduces itself.
    """
    energies = {"weight_energy": PerTower(0.4, 0.2), "feature_energy": PerTower(0.9, 0.8)}
    entries: list[dict] = []
    heard = Heard()
    order = BatchOrder(record=lambda entry: entries.append(dict(entry)))
    context = Context(3, 16, 0, 0, order=order, observers=heard.observers)
    ours = build(KeepLoraOfficial, context=context, rank=2, **energies)
    theirs = Released(tiny_clip(), 2, **energies)
    train = Train(epochs=3, batch_size=16, lr=0.02)
    for index in range(2):
        entries.clear()
        task = data(ours.clip, index, context)
        before = {name: M.clone() for name, M in theirs.M.items()}
        ours.begin_task(task)
        updates = {m.name: m.update for m in ours.targets}
        spans = {name: update.A.T @ update.A for name, update in updates.items() if update}
        products = {name: update.A.T @ update.B.T for name, update in updates.items() if update}
        ours.fit(task, train, nothing, nothing)
        ours.end_task(task)

        def passes(purpose: str, task: TaskData = task) -> list[list[tuple[Tensor, Tensor]]]:
            found = [e["batches"] for e in entries if e["purpose"] == purpose]
            return [list(task.train.take([torch.tensor(b) for b in batches])) for batches in found]

        (gradient_pass,), (feature_pass,) = passes("gradient"), passes("statistics")
        assert len(gradient_pass) == len(feature_pass) == 2  # 40 images, batches of 16, the last 8 left out
        assert [len(labels) for _, labels in passes("train")[0]] == [16, 16, 8]
        gradients = theirs.gradient(task, gradient_pass)
        theirs.start(gradients)
        starts = {name: theirs.A[name] @ theirs.B[name] for name in theirs.A}
        losses = theirs.train(task, passes("train"), 0.02)
        theirs.features(task, feature_pass)
        arrays = heard.tasks[task.name]
        assert heard.losses[task.name] == pytest.approx(losses, rel=1e-4)
        for name, _ in theirs.maps:
            A, M, basis = theirs.A[name], theirs.M[name], ours.bases[name]

            def close(found: Tensor, expected: Tensor, tolerance: float, name: str = name) -> None:
                worst = float((found.double() - expected).abs().max())
                assert worst <= tolerance * max(1e-3, float(expected.abs().max())), (name, worst)

            first = heard.tasks["" if index == 0 else f"toy{index - 1}"][f"{name}/basis"]
            close(first @ first.T, before[name] @ before[name].T, 1e-4)
            close(arrays[f"{name}/gradient"], gradients[name], 1e-3)
            close(spans[name], A @ A.T, 1e-2)
            close(products[name], starts[name], 1e-3)
            close(ours.clip.maps[name].weight, theirs.weight(name), 1e-3)
            assert basis.shape[1] == M.shape[1]
            close(basis @ basis.T, M @ M.T, 1e-2)
            assert torch.equal(arrays[f"{name}/basis"], basis)


def test_the_released_first_fill_is_one_short() -> None:
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0])).double()  # shares 9/15, 4/15, 1/15, 1/15
    counts = {rule: leading(*spectrum(weight), 0.8, rule).shape[1] for rule in ("reach", "below")}
    assert counts == {"reach": 2, "below": 1}
    assert leading(*spectrum(weight), 0.1, "below").shape[1] == 1
    assert count_below(torch.tensor([0.5, 0.3, 0.2]), 0.85) == 2
    gram = weight @ weight
    empty = torch.zeros(4, 0, dtype=torch.float64)
    assert grow(empty, gram, 0.8).shape[1] == 2 and grow(empty, gram, 0.8, "below").shape[1] == 1
    filled = leading(*spectrum(weight), 0.5)
    assert grow(filled, gram, 0.95, "below").shape[1] == grow(filled, gram, 0.95).shape[1] == 4


def test_output_side_protects_left_singular_vectors() -> None:
    weight = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    U, S, _ = torch.linalg.svd(weight)
    found = leading(*spectrum(weight, "output"), 0.6)
    count = int(((S**2).cumsum(0) / (S**2).sum() < 0.6).sum()) + 1
    assert found.shape[1] == count
    assert torch.allclose(found @ found.T, U[:, :count] @ U[:, :count].T, atol=1e-10)


def test_official_keeps_surplus_columns_and_says_so(capsys: pytest.CaptureFixture) -> None:
    """In the last text block only the end-of-text positions reach the loss: with 3 classes the rank is at most 3."""
    official, paper = build(KeepLoraOfficial, rank=16), build(KeepLora, rank=16)
    for method in (official, paper):
        method.begin_task(data(method.clip))
    told = capsys.readouterr().out
    assert "surplus columns are arbitrary" in told and "toy0" in told
    assert official.effective_rank["text.1.q"] == paper.effective_rank["text.1.q"] <= 3
    update = official.clip.maps["text.1.q"].update
    assert update is not None and update.rank == 16
    # Kept columns do reach into the protected subspace, which is why the paper's variant drops them.
    basis = official.bases["text.1.q"]
    inside = (update.A.double() @ basis).norm(dim=1)
    assert float(inside[:2].max()) < 1e-3 and float(inside[4:].max()) > 0.05
    for method in (official, paper):
        for linear_map in method.targets:
            if linear_map.update is not None:
                A = linear_map.update.A.double()
                assert torch.allclose(A @ A.T, torch.eye(len(A), dtype=torch.float64), atol=1e-5)
    # Dropped columns never lie inside the protected subspace.
    for linear_map in paper.targets:
        if linear_map.update is not None:
            inside = linear_map.update.A.double() @ paper.bases[linear_map.name]
            assert float(inside.abs().max()) < 1e-4


def test_random_directions_lie_off_the_protected_subspace() -> None:
    first, again = (build(KeepLora, init="random") for _ in range(2))
    for method in (first, again):
        method.begin_task(data(method.clip))
    for a, b in zip(first.targets, again.targets, strict=True):
        assert a.update is not None and b.update is not None
        assert torch.equal(a.update.A, b.update.A) and float(a.update.B.abs().max()) == 0
        assert float((a.update.A.double() @ first.bases[a.name]).abs().max()) < 1e-5


# ---- KeepLoRA++ and KeepLoRA+


def test_layer_factors_rise_linearly_in_the_image_tower() -> None:
    method = build(KeepLoraPp)
    factors = {m.name: method.factor(m) for m in method.targets}
    assert factors["image.0.q"] == pytest.approx(0.2) and factors["image.1.o"] == 1
    assert {value for name, value in factors.items() if name.startswith("text.")} == {1.0}
    twelve = [type("Map", (), {"tower": "image", "block": block}) for block in range(12)]
    method.targets = twelve  # type: ignore[assignment]
    rounded = [round(method.factor(m), 3) for m in twelve]  # type: ignore[arg-type]
    assert rounded == [0.2, 0.273, 0.345, 0.418, 0.491, 0.564, 0.636, 0.709, 0.782, 0.855, 0.927, 1.0]
    method.targets = twelve[:1]  # type: ignore[assignment]
    assert method.factor(twelve[0]) == 1  # type: ignore[arg-type]


def test_one_sgd_step_with_layer_factors() -> None:
    """dP = - eta (lambda s)^2 A A^T G."""
    context = Context(3, 40, 0, 0)
    method = build(KeepLoraPp, context=context)
    task = data(method.clip, 0, context)
    before = {m.name: m.weight.clone() for m in method.targets}
    method.begin_task(task)
    assert all(torch.equal(m.weight, before[m.name]) for m in method.targets)  # B = 0: nothing to compensate
    frozen = {m.name: m.update.A.clone() for m in method.targets if m.update}
    method.fit(task, Train(epochs=1, batch_size=40, lr=0.1, optimizer="sgd", momentum=0.0, weight_decay=0.0,
                           schedule="constant"), nothing, nothing)  # fmt: skip
    method.clip.merge()
    other = build(KeepLora, context=context)
    gradients = {}
    with other.clip.trainable(m.parameter for m in other.targets):
        ((pixels, labels),) = data(other.clip, 0, context).batches("train")
        other.loss(pixels, labels, data(other.clip, 0, context)).backward()
        gradients = {m.name: m.grad.clone() for m in other.targets}
    for m in method.targets:
        if m.name in frozen:
            A = frozen[m.name]
            scale = method.factor(m) / 4
            expected = -0.1 * scale**2 * gradients[m.name] @ A.T @ A
            assert torch.allclose(m.weight - before[m.name], expected, atol=1e-6), m.name


def test_head_logits_before_training_are_similarities_to_class_means() -> None:
    method = build(KeepLoraPlus)
    task = data(method.clip)
    plain = build(KeepLora)
    space = label_space("task", [toy_task(0), toy_task(1)], 1, 0)
    unseen = label_space("task", [toy_task(0), toy_task(1)], 1, 1)
    assert space is not None and unseen is not None
    ((pixels, labels),) = task.train.batches(40)
    with torch.no_grad():
        text = plain.classifier(space)(pixels)
        features = plain.clip.encode_images(pixels)
        unseen_before = plain.classifier(unseen)(pixels)
    method.begin_task(task)
    with torch.no_grad():
        found = method.classifier(space)(pixels)
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    expected = text + 30 * F.cosine_similarity(features[:, None], means[None], dim=-1)
    assert torch.allclose(found, expected, atol=2e-3)
    with torch.no_grad():
        assert torch.allclose(method.classifier(unseen)(pixels), unseen_before, atol=1e-3)
    assert any(parameter is method.head for parameter in method.parameters())


def test_heads_are_trained_kept_and_restored() -> None:
    method = build(KeepLoraPlus)
    task = data(method.clip)
    method.begin_task(task)
    assert method.head is not None
    start = method.head.clone()
    method.fit(task, TRAIN, nothing, nothing)
    method.end_task(task)
    assert not torch.equal(method.heads[0], start)
    state = method.state_dict()
    assert state["head.0"].shape == (3, 32)
    again = build(KeepLoraPlus)
    again.load_state_dict(state)
    assert torch.equal(again.heads[0], method.heads[0]) and set(again.bases) == set(method.bases)


def test_a_class_without_a_full_batch_has_no_mean() -> None:
    context = Context(3, 24, 0, 0)
    method = build(KeepLoraPlus, context=context, drop_last=True)
    task = data(method.clip, 0, context)
    task.context.order.plan = lambda *_: [torch.arange(0, 24, 3)]  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r'no image of "picture 0 of a green thing" of task toy0 is in a full batch'):
        method.begin_task(task)


def test_the_head_needs_a_label_space_of_its_own() -> None:
    (sentence,) = KeepLora.Settings(head="class-mean").fits(Surroundings("all", {}))
    assert sentence.startswith("method.head=class-mean belongs to one task's classes")
    assert not KeepLora.Settings(head="class-mean").fits(Surroundings("task", {}))


# ---- listeners and costs


def test_listeners_hear_what_a_run_computes_and_change_nothing(tmp_path: Path) -> None:
    heard = Heard()
    out = toy_run(tmp_path / "heard", "method=keeplora", observers=heard.observers)
    plain = toy_run(tmp_path / "plain", "method=keeplora")
    for name in ("accuracy.csv", "model.safetensors"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()
    for observers, word in ((heard.observers, "seed=0"), (None, "batches.record=true")):
        with pytest.raises(UserError, match="is not made again for batches.record or for listeners"):
            toy_run(tmp_path / "heard", "method=keeplora", word, observers=observers)
    assert set(heard.tasks) == {"", "toy0", "toy1"}
    arrays = heard.tasks["toy1"]
    keys = {name.split("/")[1] for name in arrays if name.startswith("image.0.q/")}
    assert keys == {"gradient", "A", "B", "basis", "weight"}
    assert len(arrays["losses"]) == 6  # two epochs of three batches
    assert torch.equal(
        arrays["image.0.q/weight"],
        load_file(out / "model.safetensors")["weight/visual.transformer.resblocks.0.attn.in_proj_weight"][:64],
    )
    basis = arrays["image.0.q/basis"]
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), atol=1e-8)
    reported = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert reported[-1]["protected"]["image.0.q"] == basis.shape[1]


def test_listeners_hear_logits_statistics_and_losses(tmp_path: Path) -> None:
    observers, seen = Observers(), []
    for kind in ("logits", "statistic", "loss"):
        observers.on(kind, seen.append)
    out = toy_run(tmp_path, "method=inflora", "evaluate.batch_size=10", observers=observers)
    matrix = AccuracyMatrix.from_csv(out / "accuracy.csv")
    for row in range(3):
        for column, task in enumerate(("toy0", "toy1")):
            batches = [s.values for s in seen if (s.kind, s.task, s.values.get("row")) == ("logits", task, row)]
            assert [values["start"] for values in batches] == [0, 10, 20]
            answers = torch.cat([values["logits"].argmax(dim=-1) for values in batches])
            right = int((answers == torch.arange(24) % 3).sum())
            assert right == matrix.cell(row, column).correct
    moments = [s for s in seen if s.kind == "statistic" and s.task == "toy0" and s.name == "image.0.qkv"]
    assert len(moments) == 2  # before the task and after it
    assert moments[0].values["count"] == 40 * 10  # images times tokens
    losses = [s.values for s in seen if s.kind == "loss" and s.task == "toy1"]
    assert [(v["epoch"], v["step"]) for v in losses] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    with pytest.raises(ValueError, match="listen to one of logits"):
        observers.on("gradients", print)


def test_costs_are_in_the_summary(tmp_path: Path) -> None:
    summary = json.loads((toy_run(tmp_path, "method=keeplora") / "summary.json").read_text())
    parts = summary["seconds_of_parts"]
    assert set(parts) == {
        "weight subspace", "gradient pass", "initialisation", "merge", "feature pass", "subspace update",
    }  # fmt: skip
    assert sum(parts.values()) <= summary["seconds"]["statistics"] + 0.01
    assert summary["stored_bytes"] == 8 * summary["stored_numbers"] > 0
