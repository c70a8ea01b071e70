"""Subspace mathematics against plain float64 transcriptions of the definitions, on tall matrices and with SVDs."""

import numpy as np
import pytest
import torch
from bench.methods.inflora import DualMemory
from bench.methods.subspace import (
    count_reaching,
    empty_basis,
    grow,
    leading,
    leading_directions,
    outside,
    side_by_side,
    spectrum,
)
from hypothesis import given, settings
from hypothesis import strategies as st

WIDTH = 12


def matrix(rows: int, columns: int, seed: int, decay: float = 0.7) -> np.ndarray:
    """A random matrix whose singular values fall geometrically."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    v, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    k = min(rows, columns)
    return u[:, :k] * decay ** np.arange(k) @ v[:, :k].T


def same_span(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-7) -> bool:
    return a.shape == b.shape and np.abs(a @ a.T - b @ b.T).max() < tolerance


def transcribed_growth(basis: np.ndarray, features: np.ndarray, energy: float) -> np.ndarray:
    """The gradient projection memory rule, written as in the papers: one direction at a time, SVD of tall features."""
    total = np.sum(np.linalg.svd(features, compute_uv=False) ** 2)
    residual = features - basis @ basis.T @ features
    u, s, _ = np.linalg.svd(residual, full_matrices=False)
    covered = (total - np.sum(s**2)) / total
    added = 0
    while covered < energy and basis.shape[1] + added < basis.shape[0] and added < len(s):
        covered += s[added] ** 2 / total
        added += 1
    return np.hstack([basis, u[:, :added]])


@given(st.integers(0, 10_000), st.floats(0.05, 0.999), st.sampled_from([5, 12, 40]))
@settings(max_examples=60, deadline=None)
def test_principal_subspace_is_the_smallest_that_reaches_the_energy(seed: int, energy: float, out: int) -> None:
    weight = matrix(out, WIDTH, seed)
    got = leading(*spectrum(torch.tensor(weight)), energy).numpy()
    _, s, vt = np.linalg.svd(weight, full_matrices=False)
    shares = np.cumsum(s**2) / np.sum(s**2)
    p = got.shape[1]
    assert p >= 1 and shares[p - 1] >= energy - 1e-9
    assert p == 1 or shares[p - 2] < energy + 1e-9
    assert same_span(got, vt[:p].T)


def test_principal_subspace_of_a_whole_weight_and_of_zero() -> None:
    assert leading(*spectrum(torch.tensor(matrix(20, WIDTH, 0))), 1.0).shape == (WIDTH, WIDTH)
    assert leading(*spectrum(torch.zeros(5, WIDTH)), 0.9).shape == (WIDTH, 0)


@pytest.mark.parametrize(
    ("shares", "threshold", "already", "count"),
    [
        ([0.5, 0.3, 0.2], 0.5, 0.0, 1),
        ([0.5, 0.3, 0.2], 0.6, 0.0, 2),
        ([0.2, 0.1], 0.6, 0.7, 0),
        ([0.2, 0.1], 1.0, 0.5, 2),
    ],
)
def test_count_reaching(shares: list[float], threshold: float, already: float, count: int) -> None:
    assert count_reaching(torch.tensor(shares, dtype=torch.float64), threshold, already) == count


@given(st.integers(0, 10_000), st.floats(0.3, 0.9999), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_growth_equals_its_transcription(seed: int, energy: float, before: int) -> None:
    basis = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(WIDTH, WIDTH)))[0][:, :before]
    features = matrix(WIDTH, 50, seed)
    got = grow(torch.tensor(basis), torch.tensor(features @ features.T), energy).numpy()
    expected = transcribed_growth(basis, features, energy)
    assert same_span(got, expected)
    assert np.array_equal(got[:, :before], basis), "columns are only appended"
    assert np.abs(got.T @ got - np.eye(got.shape[1])).max() < 1e-9
    covered = np.sum((got.T @ features) ** 2) / np.sum(features**2)
    assert covered >= energy - 1e-6
    if got.shape[1] > before:
        assert np.sum((got[:, :-1].T @ features) ** 2) / np.sum(features**2) < energy + 1e-9


def test_growth_ignores_the_scale_of_the_features() -> None:
    gram = torch.tensor(matrix(WIDTH, 30, 3))
    gram = gram @ gram.T
    a, b = grow(empty_basis(WIDTH, gram.device), gram, 0.9), grow(empty_basis(WIDTH, gram.device), 1e6 * gram, 0.9)
    assert same_span(a.numpy(), b.numpy())


def test_growth_stops_at_the_width_and_at_the_features_rank() -> None:
    thin = torch.tensor(matrix(WIDTH, 3, 5))
    basis = grow(empty_basis(WIDTH, thin.device), thin @ thin.T, 1.0)
    assert basis.shape[1] == 3
    full = torch.tensor(matrix(WIDTH, 40, 6, decay=1.0))
    basis = grow(basis, full @ full.T, 1.0)
    assert basis.shape[1] == WIDTH
    assert grow(basis, full @ full.T, 1.0) is basis
    assert grow(basis[:, :2], torch.zeros(WIDTH, WIDTH), 0.9).shape[1] == 2


@given(st.integers(0, 10_000), st.integers(1, 10), st.integers(0, 11))
@settings(max_examples=60, deadline=None)
def test_leading_directions_are_the_top_left_singular_vectors(seed: int, rank: int, protected: int) -> None:
    basis = torch.tensor(np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(WIDTH, WIDTH)))[0][:, :protected])
    residual = outside(basis, torch.tensor(matrix(WIDTH, 30, seed)))
    got = leading_directions(residual, rank, basis).numpy()
    u, _, _ = np.linalg.svd(residual.numpy(), full_matrices=False)
    expected = min(rank, WIDTH - protected)
    assert got.shape == (WIDTH, expected)
    assert same_span(got, u[:, :expected], 1e-6)
    assert np.abs(basis.numpy().T @ got).max(initial=0) < 1e-9


@pytest.mark.parametrize("rank_of_gradient", [0, 1, 4])
def test_surplus_directions_are_dropped_not_made_up(rank_of_gradient: int) -> None:
    """With fewer directions than asked for, a plain SVD fills up with vectors from inside the protected subspace."""
    basis = torch.tensor(np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0][:, :5])
    gradient = torch.tensor(matrix(WIDTH, 30, 7))[:, :rank_of_gradient]
    residual = outside(basis, gradient)
    got = leading_directions(residual, 6, basis)
    assert got.shape[1] == rank_of_gradient
    assert (basis.T @ got).abs().sum() < 1e-8
    if rank_of_gradient:
        u, _, _ = torch.linalg.svd(residual, full_matrices=True)
        assert (basis.T @ u[:, rank_of_gradient:6]).abs().max() > 0.1, "the trap that the guard avoids"


# ---- InfLoRA's memory


def transcribed_dual(memory: tuple[np.ndarray, bool], moment: np.ndarray, threshold: float, first: bool):
    """DualGPM on one second moment as its paper's code does it, one direction at a time; complement True = retain."""
    basis, complement = memory
    total = np.sum(np.linalg.svd(moment, compute_uv=False) ** 2)
    if first:
        u, s, _ = np.linalg.svd(moment)
        k = max(1, int(np.sum(np.cumsum(s**2) / np.sum(s**2) < threshold)))
        basis = u[:, :k]
    elif not complement:
        u, s, _ = np.linalg.svd(moment - basis @ basis.T @ moment)
        covered, j = (total - np.sum(s**2)) / total, 0
        while covered < threshold and basis.shape[1] + j < len(moment):
            covered += s[j] ** 2 / total
            j += 1
        basis = np.hstack([basis, u[:, :j]])
    else:
        u, s, _ = np.linalg.svd(basis @ basis.T @ moment)
        share, j = np.sum(s**2) / total, 0
        while share >= 1 - threshold and j < basis.shape[1]:
            share -= s[j] ** 2 / total
            j += 1
        if j:
            left, _, _ = np.linalg.svd(basis - u[:, :j] @ u[:, :j].T @ basis)
            basis = left[:, : basis.shape[1] - j]
    if not complement and basis.shape[1] > len(moment) / 2:
        left, _, _ = np.linalg.svd(basis)
        basis, complement = left[:, basis.shape[1] :], True
    return basis, complement


@given(st.integers(0, 10_000), st.lists(st.floats(0.5, 0.9999), min_size=2, max_size=4), st.floats(0.3, 0.95))
@settings(max_examples=80, deadline=None)
def test_dual_memory_equals_its_transcription(seed: int, thresholds: list[float], decay: float) -> None:
    memory = DualMemory(empty_basis(WIDTH, torch.device("cpu")))
    plain = (np.zeros((WIDTH, 0)), False)
    protected_before = np.zeros((WIDTH, WIDTH))
    for step, threshold in enumerate(sorted(thresholds)):
        features = matrix(WIDTH, 40, seed + step, decay**0.5)
        moment = features @ features.T
        memory.update(torch.tensor(moment), threshold)
        plain = transcribed_dual(plain, moment, threshold, first=step == 0)
        assert memory.complement == plain[1]
        assert same_span(memory.basis.numpy(), plain[0], 1e-6)
        basis = memory.basis.numpy()
        assert np.abs(basis.T @ basis - np.eye(basis.shape[1])).max(initial=0) < 1e-8
        assert basis.shape[1] <= WIDTH / 2, "never more than half of the width is stored"
        protected = np.eye(WIDTH) - basis @ basis.T if memory.complement else basis @ basis.T
        # The new protected subspace contains the old one.
        assert np.abs(protected @ protected_before - protected_before).max() < 1e-6
        if step:
            covered = np.sum((protected @ moment) ** 2) / np.sum(moment**2)
            assert covered >= threshold - 1e-6
        free = memory.free(torch.eye(WIDTH, dtype=torch.float64)).numpy()
        assert np.abs(free + protected - np.eye(WIDTH)).max() < 1e-8
        assert memory.free_dimension == round(np.trace(free))
        protected_before = protected


def test_dual_memory_switches_to_the_complement_the_right_way_round() -> None:
    """A first task that needs more than half of the width: what is stored is the rest, not the leading vectors."""
    features = matrix(WIDTH, 40, 1, decay=0.95)
    moment = torch.tensor(features @ features.T)
    memory = DualMemory(empty_basis(WIDTH, moment.device))
    memory.update(moment, 0.95)
    assert memory.complement
    assert memory.basis.shape[1] < WIDTH / 2
    first = torch.linalg.svd(moment)[0][:, 0]
    assert memory.free(first[:, None]).norm() < 1e-8


def test_dual_memory_protects_no_more_than_there_was() -> None:
    """Inputs of rank 3 and a threshold of 1: three directions, not noise up to the width."""
    thin = torch.tensor(matrix(WIDTH, 3, 5))
    memory = DualMemory(empty_basis(WIDTH, thin.device))
    for _ in range(2):
        memory.update(thin @ thin.T, 1.0)
    assert memory.free_dimension == WIDTH - 3


def test_work_side_by_side_is_in_order_has_one_thread_each_and_leaves_theirs_to_the_others() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = side_by_side(lambda n: (n * n, torch.get_num_threads()), range(7), torch.device("cpu"))
        assert found == [(n * n, 1) for n in range(7)]
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda n: 1 // n, [1, 0], torch.device("cpu"))
        assert torch.get_num_threads() == 3
        gram = [torch.randn(60, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(4)]
        several = side_by_side(lambda x: leading(*spectrum(x), 0.5), gram, torch.device("cpu"))
        torch.set_num_threads(1)
        assert all(torch.equal(leading(*spectrum(x), 0.5), basis) for x, basis in zip(gram, several, strict=True))
    finally:
        torch.set_num_threads(before)
