"""Equal inputs give equal bytes, whatever computed before and however many cores there are."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch.nn.functional import scaled_dot_product_attention

from tda_dagster.numerics import UnfusedAttention, fixed_numerics, group_means, worker_pool

HISTORY = """
import hashlib, sys, torch
from tda_dagster.numerics import fixed_numerics, worker_pool

def digest(_=None):
    values = torch.rand(3, 400_001, generator=torch.Generator().manual_seed(0))
    result = torch.cat([values.sum(dim=1), (values @ values.T).flatten()])
    return hashlib.sha256(result.numpy().tobytes()).hexdigest()

with fixed_numerics():
    if "pool first" in sys.argv:
        with worker_pool(3) as pool:
            print(*pool.map(digest, range(6)))
    print(digest())
    if "pool last" in sys.argv:
        with worker_pool(2) as pool:
            print(*pool.map(digest, range(6)))
"""


def sum_with(threads: int) -> float:
    torch.set_num_threads(threads)
    try:
        return float(torch.rand(400_001, generator=torch.Generator().manual_seed(0)).sum())
    finally:
        torch.set_num_threads(1)


def test_the_order_of_computations_and_the_number_of_cores_change_no_bit() -> None:
    assert sum_with(1) != sum_with(4), "this sum does not depend on threads: it tests nothing"
    digests: set[str] = set()
    for order in ("pool first", "pool last"):
        for cores in ("1", "4"):
            done = subprocess.run(
                [sys.executable, "-c", HISTORY, order],
                env={"OMP_NUM_THREADS": cores, "OMP_WAIT_POLICY": "PASSIVE"},
                capture_output=True,
                text=True,
                check=True,
            )
            digests |= set(done.stdout.split())
    assert len(digests) == 1


def test_conditions_hold_inside_and_are_restored_outside() -> None:
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    blas = [pool["num_threads"] for pool in threadpool_info()]
    try:
        with fixed_numerics():
            assert torch.get_num_threads() == 1
            assert torch.get_default_dtype() == torch.float32
            assert torch.get_float32_matmul_precision() == "highest"
            assert {pool["num_threads"] for pool in threadpool_info()} == {1}
            # A new thread takes over what any other thread has set last.
            foreign = threading.Thread(target=torch.set_num_threads, args=(4,))
            foreign.start()
            foreign.join()
            with worker_pool(3) as pool:
                wait = threading.Barrier(3)
                counts = list(pool.map(lambda _: (wait.wait(), torch.get_num_threads()), range(3)))
            assert [count for _, count in counts] == [1, 1, 1]
        assert torch.get_num_threads() == 3
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
        assert [pool["num_threads"] for pool in threadpool_info()] == blas
    finally:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")


def test_unfused_attention_is_the_formula_and_stays_in_its_thread() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 65, 16, generator=generator)
    weights = torch.softmax(query.double() @ key.double().mT / 4, dim=-1)
    fused = scaled_dot_product_attention(query, key, value)
    inside, leave = threading.Event(), threading.Event()

    def stay_inside() -> torch.Tensor:
        with UnfusedAttention():
            inside.set()
            leave.wait(30)
            return scaled_dot_product_attention(query, key, value)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(stay_inside)
        assert inside.wait(30)
        here = scaled_dot_product_attention(query, key, value)
        leave.set()
    assert torch.equal(here, fused)
    assert not torch.equal(other.result(), fused), "the kernels agree: this tests nothing"
    torch.testing.assert_close(other.result(), (weights @ value.double()).float())


@pytest.mark.parametrize("seed", range(3))
def test_group_means_are_those_of_each_group(seed: int) -> None:
    chance = np.random.default_rng(seed)
    names = np.sort(chance.choice(["a", "b", "c", "d"], 40)).astype(object)
    parts = np.concatenate([np.sort(chance.integers(0, 3, (names == n).sum())) for n in "abcd"])
    values = chance.normal(size=40)
    starts, means, deviations, sizes = group_means([names, parts], values)
    groups = {
        (n, p): values[(names == n) & (parts == p)] for n, p in zip(names, parts, strict=True)
    }
    assert [(names[s], parts[s]) for s in starts] == list(groups)
    assert sizes.tolist() == [len(group) for group in groups.values()]
    np.testing.assert_allclose(means, [group.mean() for group in groups.values()])
    spread = [group.std(ddof=1) if len(group) > 1 else np.nan for group in groups.values()]
    np.testing.assert_allclose(deviations, spread)


def test_no_rows_have_no_groups() -> None:
    starts, means, deviations, sizes = group_means([np.empty(0)], np.empty(0))
    assert [len(part) for part in (starts, means, deviations, sizes)] == [0, 0, 0, 0]
