"""What each method promises, on small random towers, against definitions written here in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from bench.methods.finetune import Finetune
from bench.methods.inflora import InfLora
from bench.methods.keeplora import KeepLora
from bench.methods.lora import Lora
from bench.methods.low_rank import PerTower
from bench.methods.zero_shot import ZeroShot
from support.learning import TRAIN, data, learn, nothing, weights

from bench.config.fields import complaints
from bench.config.run_settings import Train
from bench.core.errors import UserError
from bench.learning.method import Method
from bench.learning.task_data import Context, TaskData
from bench.model.clip import Clip
from bench.trials.toy import tiny_clip

LOW_RANK = [Lora, InfLora, KeepLora]
ALL = [ZeroShot, Finetune, *LOW_RANK]


def make(cls: type[Method], clip: Clip | None = None, **settings) -> Method:
    clip = clip or tiny_clip()
    if cls in LOW_RANK:
        settings = {"rank": 4} | settings
    return cls(cls.Settings(**settings), clip, Context(tasks=3, batch_size=16, init_seed=0, data_seed=0))


# ---- all methods


@pytest.mark.parametrize("cls", ALL)
def test_same_seed_same_bits(cls: type[Method]) -> None:
    first, second = (make(cls) for _ in range(2))
    for index in range(2):
        learn(first, index), learn(second, index)
    assert first.clip.weights_sha256() == second.clip.weights_sha256()
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key


@pytest.mark.parametrize("cls", [ZeroShot, *LOW_RANK])
def test_only_the_targets_change(cls: type[Method]) -> None:
    """Biases, norms, embeddings, projections, MLPs and the logit scale stay bit-identical; the targets move."""
    method = make(cls)
    before = copy.deepcopy(method.clip.model.state_dict())
    learn(method, 0)
    moved = {name for name, tensor in method.clip.model.state_dict().items() if not torch.equal(tensor, before[name])}
    allowed = {n for n in before if n.endswith(("attn.in_proj_weight", "attn.out_proj.weight"))}
    assert moved == (set() if cls is ZeroShot else allowed)


def test_finetune_moves_everything_but_the_logit_scale() -> None:
    method = make(Finetune)
    before = copy.deepcopy(method.clip.model.state_dict())
    learn(method, 0)
    still = [name for name, tensor in method.clip.model.state_dict().items() if torch.equal(tensor, before[name])]
    assert still == ["logit_scale"]


def test_finetune_of_no_tower_is_refused() -> None:
    with pytest.raises(UserError, match="method.towers names no tower"):
        make(Finetune, towers=[])


@pytest.mark.parametrize("tower", ["image", "text"])
def test_finetune_of_one_tower_leaves_the_other(tower: str) -> None:
    method = make(Finetune, towers=[tower])
    before = copy.deepcopy(method.clip.model.state_dict())
    learn(method, 0)
    for name, tensor in method.clip.model.state_dict().items():
        in_tower = name.startswith("visual.") == (tower == "image") and name != "logit_scale"
        assert torch.equal(tensor, before[name]) != in_tower, name


@pytest.mark.parametrize("cls", LOW_RANK)
@pytest.mark.parametrize(("maps", "towers"), [(["k", "v"], ["image"]), (["fc1"], ["text"])])
def test_targets_are_a_setting(cls: type[Method], maps: list[str], towers: list[str]) -> None:
    method = make(cls, maps=maps, towers=towers)
    before = weights(method)
    learn(method, 0)
    moved = {name for name, weight in weights(method).items() if not torch.equal(weight, before[name])}
    assert moved == {m.name for m in method.clip.select(maps, towers)}


@pytest.mark.parametrize("cls", LOW_RANK)
def test_a_rank_above_the_width_is_refused(cls: type[Method]) -> None:
    with pytest.raises(UserError, match=r"method.rank=49 is above the width 48 of text.0.q"):
        make(cls, rank=49)


@pytest.mark.parametrize("cls", LOW_RANK)
def test_no_target_is_refused(cls: type[Method]) -> None:
    for empty in ({"maps": []}, {"towers": []}):
        assert any("choose no linear map" in text for text in complaints(cls.Settings(**empty)))


@pytest.mark.parametrize("cls", LOW_RANK)
def test_output_is_unchanged_before_training_and_by_merging(cls: type[Method]) -> None:
    method = make(cls)
    task = data(method.clip)
    pixels = next(task.batches("look"))[0]

    def logits() -> torch.Tensor:
        return method.clip.logits(method.clip.encode_images(pixels), method.clip.encode_tokens(task.tokens)).detach()

    untrained = logits()
    method.begin_task(task)
    assert (logits() - untrained).abs().max() < 1e-4
    method.fit(task, TRAIN, nothing, nothing)
    trained = logits()
    assert (trained - untrained).abs().max() > 1e-3
    method.end_task(task)
    assert (logits() - trained).abs().max() < 1e-4
    assert all(m.update is None for m in method.clip.maps.values())


@pytest.mark.parametrize("cls", [InfLora, KeepLora])
def test_frozen_factor_stays_and_the_change_lies_in_its_span(cls: type[Method]) -> None:
    method = make(cls)
    task = data(method.clip)
    before = weights(method)
    method.begin_task(task)
    frozen = {m.name: m.update.A.clone() for m in method.targets if m.update}
    trained = method.fit(task, TRAIN, nothing, nothing)
    assert trained == sum(m.out_features * len(frozen[m.name]) for m in method.targets if m.update)
    for linear_map in method.targets:
        assert torch.equal(linear_map.update.A, frozen[linear_map.name])
        assert not linear_map.update.A.requires_grad
    method.end_task(task)
    for linear_map in method.targets:
        delta = (linear_map.weight - before[linear_map.name]).double()
        A = frozen[linear_map.name].double()
        inside = delta @ torch.linalg.pinv(A) @ A
        assert delta.norm() > 0
        assert (delta - inside).norm() < 1e-4 * delta.norm(), "rows of the change lie in the span of A"
        assert torch.linalg.matrix_rank(delta, rtol=1e-4) <= 4


@pytest.mark.parametrize("cls", ALL)
def test_state_round_trip_continues_with_the_same_bits(cls: type[Method]) -> None:
    straight = make(cls)
    learn(straight, 0)
    memory = {key: tensor.clone() for key, tensor in straight.state_dict().items()}
    model = copy.deepcopy(straight.clip.model.state_dict())
    learn(straight, 1)

    resumed = make(cls)
    resumed.clip.model.load_state_dict(model)
    resumed.load_state_dict(memory)
    learn(resumed, 1)
    assert resumed.clip.weights_sha256() == straight.clip.weights_sha256()
    for key, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


# ---- LoRA


def test_lora_starts_uniform_with_zero_up_projection_and_trains_both() -> None:
    method = make(Lora, alpha=8.0)
    task = data(method.clip)
    method.begin_task(task)
    for linear_map in method.targets:
        update = linear_map.update
        assert update.scale == 2.0
        assert update.B.abs().max() == 0
        bound = linear_map.in_features**-0.5
        assert 0.9 * bound < update.A.abs().max() <= bound
    start = {m.name: m.update.A.clone() for m in method.targets}
    assert len({float(a[0, 0]) for a in start.values()}) == len(start), "every map draws its own"
    method.fit(task, TRAIN, nothing, nothing)
    assert all(not torch.equal(m.update.A, start[m.name]) and m.update.B.abs().max() > 0 for m in method.targets)


# ---- KeepLoRA: keeplora.md section 8, with the numbers of its invariants


def transcribed_gradients(clip: Clip, task: TaskData, names: list[str]) -> dict[str, torch.Tensor]:
    """Gradient of the mean loss over all images at once, in float64, whole context, full weight matrices."""
    twin = tiny_clip()
    twin.model.load_state_dict(clip.model.state_dict())
    twin.model.double()
    pixels = clip.normalize(task.train.uint8(torch.arange(len(task.train)))).double()
    with twin.trainable(twin.maps[name].parameter for name in names):
        logits = twin.logits(twin.encode_images(pixels), twin.encode_tokens(task.tokens, cut=False))
        F.cross_entropy(logits, task.train.labels).backward()
        return {name: twin.maps[name].grad.clone() for name in names}


def transcribed_features(clip: Clip, task: TaskData, site: str) -> torch.Tensor:
    """All tokens that reach a site, one column each, in float64: [width, tokens]; text without padding."""
    seen: list[torch.Tensor] = []
    with torch.no_grad(), clip.recording({site: lambda x, _: seen.append(x.double())}):
        if site.startswith("image"):
            clip.encode_images(clip.normalize(task.train.uint8(torch.arange(len(task.train)))))
            return seen[0].flatten(0, 1).T
        clip.encode_tokens(task.tokens, cut=False)
        return torch.cat([x[: int(t.argmax()) + 1] for x, t in zip(seen[0], task.tokens, strict=True)]).T


def projector(basis: torch.Tensor) -> torch.Tensor:
    return basis @ basis.T


def test_keeplora_protects_the_input_side_of_the_pre_trained_weights() -> None:
    """Invariant 3, paper: the smallest p with energy(p) >= eps_w, p >= 1; right singular vectors of [out, in]."""
    method = make(KeepLora, maps=["q", "o", "fc1"], weight_energy=PerTower(0.6, 0.3))
    for linear_map in method.targets:
        _, s, vt = torch.linalg.svd(linear_map.weight.double(), full_matrices=False)
        energy = (s**2).cumsum(0) / (s**2).sum()
        wanted = 0.6 if linear_map.tower == "image" else 0.3
        basis = method.bases[linear_map.name]
        p = basis.shape[1]
        assert energy[p - 1] >= wanted and (p == 1 or energy[p - 2] < wanted)
        assert (projector(basis) - vt[:p].T @ vt[:p]).abs().max() < 1e-6


def test_keeplora_without_weight_energy_protects_nothing_at_first() -> None:
    method = make(KeepLora, weight_energy=PerTower(0.0, 0.0))
    assert all(basis.shape[1] == 0 for basis in method.bases.values())
    learn(method, 0)


def test_keeplora_factors_equal_their_definition() -> None:
    """Invariants 4, 5, 6: A spans the top of the residual gradient, s A B0 is its best approximation, W compensates."""
    method = make(KeepLora, weight_energy=PerTower(0.5, 0.4))
    learn(method, 0)
    task = data(method.clip, 1)
    gradients = transcribed_gradients(method.clip, task, [m.name for m in method.targets])
    before = weights(method)
    method.begin_task(task)
    for linear_map in method.targets:
        name, update = linear_map.name, linear_map.update
        basis = method.bases[name]
        residual = gradients[name].T - projector(basis) @ gradients[name].T
        u, s, vt = torch.linalg.svd(residual, full_matrices=False)
        rank = update.rank
        assert rank == min(4, int((s > 1e-6 * s[0]).sum())) or s[rank - 1] > 1e-5 * s[0]
        A = update.A.double()
        assert (A @ A.T - torch.eye(rank)).abs().max() < 1e-4
        assert (A @ basis).abs().max() < 1e-5
        if rank < len(s) and s[rank] < 0.95 * s[rank - 1]:  # where the gap is clear, the span is
            assert (torch.linalg.svdvals(A @ u[:, :rank]) > 0.999).all()
        best = u[:, :rank] @ torch.diag(s[:rank]) @ vt[:rank]
        product = A.T @ update.B.double().T
        assert abs(float((residual - product).norm() - (residual - best).norm())) < 1e-4 * residual.norm()
        assert update.scale == 1 / 4
        restored = linear_map.weight + update.delta()
        assert (restored - before[name]).abs().max() < 1e-6


def test_keeplora_keeps_outputs_inside_the_protected_subspace() -> None:
    """Invariant 7: whatever B has become, an input inside span(M) keeps its output."""
    method = make(KeepLora, weight_energy=PerTower(0.5, 0.4))
    learn(method, 0)
    before, bases = weights(method), dict(method.bases)
    learn(method, 1)
    for linear_map in method.targets:
        delta = (linear_map.weight - before[linear_map.name]).double()
        assert delta.norm() > 0
        assert (delta @ bases[linear_map.name]).norm() < 1e-5 * delta.norm().clamp(min=1e-2)


def test_keeplora_memory_grows_as_defined_and_only_appends() -> None:
    """Invariants 1 and 2, from all tokens as columns, with SVDs."""
    method = make(KeepLora, weight_energy=PerTower(0.5, 0.4), feature_energy=PerTower(0.9, 0.8))
    for index in range(3):
        before = dict(method.bases)
        task = learn(method, index)
        for linear_map in method.targets:
            old, new = before[linear_map.name], method.bases[linear_map.name]
            assert torch.equal(new[:, : old.shape[1]], old)
            assert (new.T @ new - torch.eye(new.shape[1])).abs().max() < 1e-4
            features = transcribed_features(method.clip, task, linear_map.site.name)
            wanted = 0.9 if linear_map.tower == "image" else 0.8
            total = features.norm() ** 2
            assert (new.T @ features).norm() ** 2 / total >= wanted - 1e-6
            if new.shape[1] > old.shape[1]:
                assert (new[:, :-1].T @ features).norm() ** 2 / total < wanted + 1e-6
            residual = features - projector(old) @ features
            u, _, _ = torch.linalg.svd(residual, full_matrices=False)
            added = new[:, old.shape[1] :]
            assert (projector(added) - projector(u[:, : added.shape[1]])).abs().max() < 1e-3


def test_keeplora_one_sgd_step_is_the_projected_gradient() -> None:
    """Invariant 9: plain gradient descent on B moves W by -eta s^2 G A^T A."""
    method = make(KeepLora)
    task = data(method.clip)
    gradients = transcribed_gradients(method.clip, task, [m.name for m in method.targets])
    before = weights(method)
    method.begin_task(task)
    factors = {m.name: m.update.A.double() for m in method.targets}
    step = Train(
        epochs=1, batch_size=len(task.train), lr=0.5, optimizer="sgd", momentum=0.0, schedule="constant", weight_decay=0
    )
    one_batch = Context(tasks=3, batch_size=len(task.train), init_seed=0, data_seed=0)
    method.fit(data(method.clip, 0, one_batch), step, nothing, nothing)
    method.clip.merge()
    for linear_map in method.targets:
        A = factors[linear_map.name]
        expected = -0.5 * (1 / 4) ** 2 * gradients[linear_map.name] @ A.T @ A
        delta = (linear_map.weight - before[linear_map.name]).double()
        assert (delta - expected).norm() < 1e-3 * expected.norm() + 1e-6


def test_keeplora_training_does_not_depend_on_where_b_starts() -> None:
    """Invariant 10: without weight decay, B0 and its compensation equal B0 = 0."""
    train = Train(epochs=1, batch_size=16, lr=0.02, weight_decay=0.0)
    results = []
    for zero in (False, True):
        method = make(KeepLora)
        task = data(method.clip)
        method.begin_task(task)
        if zero:
            for linear_map in method.targets:
                linear_map.add(linear_map.update.delta())
                linear_map.update.B.zero_()
        method.fit(task, train, nothing, nothing)
        method.clip.merge()
        results.append(weights(method))
    for name in results[0]:
        assert (results[0][name] - results[1][name]).abs().max() < 1e-4, name


def test_keeplora_drops_what_the_gradient_does_not_have() -> None:
    """Three classes: the last text block's q sees three end-of-text gradients at most, whatever the rank."""
    method = make(KeepLora, rank=16)
    task = data(method.clip)
    method.begin_task(task)
    assert method.effective_rank["text.1.q"] <= 3
    assert method.effective_rank["image.0.q"] == 16
    for linear_map in method.targets:
        assert linear_map.update.rank == method.effective_rank[linear_map.name]
        assert (linear_map.update.A.double() @ method.bases[linear_map.name]).abs().max() < 1e-5


def test_keeplora_with_everything_protected_changes_nothing() -> None:
    method = make(KeepLora, weight_energy=PerTower(1.0, 1.0))
    before = weights(method)
    learn(method, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(method).items())
    assert method.parameters() == []


# ---- InfLoRA: inflora.md, invariants


def test_inflora_factors_equal_their_definition() -> None:
    method = make(InfLora, energy_first=PerTower(0.6, 0.6), energy_last=PerTower(0.9, 0.9))
    learn(method, 0)
    task = data(method.clip, 1)
    memory = {name: (m.basis.clone(), m.complement) for name, m in method.memories.items()}
    method.begin_task(task)
    for linear_map in method.targets:
        site = linear_map.site.name
        A = linear_map.update.A.double()
        assert (3 * A @ A.T - torch.eye(len(A))).abs().max() < 1e-5
        assert abs(A.norm() - (len(A) / 3) ** 0.5) < 1e-5
        basis, complement = memory[site]
        protected = torch.eye(len(basis)) - projector(basis) if complement else projector(basis)
        assert (A @ protected).abs().max() < 1e-5
        features = transcribed_features(method.clip, task, site)
        moment = features @ features.T / features.shape[1]
        u, s, _ = torch.linalg.svd(moment - protected @ moment)
        if s[4] < 0.9 * s[3]:
            assert (projector((3**0.5 * A).T) - projector(u[:, :4])).abs().max() < 1e-3
        assert linear_map.update.B.abs().max() == 0 and linear_map.update.scale == 1.0
    q, k, v = (method.clip.maps[f"image.0.{kind}"].update.A for kind in "qkv")
    assert torch.equal(q, k) and torch.equal(k, v)


def test_inflora_keeps_outputs_of_protected_inputs() -> None:
    method = make(InfLora)
    learn(method, 0)
    before = weights(method)
    frees = {n: m.free(torch.eye(len(m.basis), dtype=torch.float64)) for n, m in method.memories.items()}
    learn(method, 1)
    for linear_map in method.targets:
        delta = (linear_map.weight - before[linear_map.name]).double()
        protected = torch.eye(linear_map.in_features) - frees[linear_map.site.name]
        assert (delta @ protected).norm() < 1e-4 * delta.norm().clamp(min=1e-2)


def test_inflora_threshold_rises_with_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """eps_t = eps_0 + (eps_end - eps_0) t / T, each tower with its own."""
    asked: list[tuple[int, float]] = []
    monkeypatch.setattr("bench.methods.inflora.DualMemory.update", lambda self, m, t: asked.append((len(m), t)))
    method = make(InfLora, energy_first=PerTower(0.6, 0.8), energy_last=PerTower(0.9, 1.0), maps=["q"])
    for index in range(3):
        method.end_task(data(method.clip, index))
    image = [t for width, t in asked if width == 64][::2]
    text = [t for width, t in asked if width == 48][::2]
    assert image == pytest.approx([0.6, 0.7, 0.8])
    assert text == pytest.approx([0.8, 0.8 + 0.2 / 3, 0.8 + 0.4 / 3])


def test_inflora_drops_rows_beyond_the_rank_of_the_inputs() -> None:
    """The last text block reads few distinct tokens once the first task's are protected: no row may lie inside M."""
    method = make(InfLora, rank=32)
    learn(method, 0)
    task = data(method.clip, 1)
    method.begin_task(task)
    ranks = {m.name: m.update.rank for m in method.targets if m.update}
    assert min(ranks.values()) < 32
    for linear_map in method.targets:
        if linear_map.update:
            free = method.memories[linear_map.site.name].free(linear_map.update.A.double().T)
            assert (free - linear_map.update.A.double().T).abs().max() < 1e-5
