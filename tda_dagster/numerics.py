"""The numerical conditions of every computation, so that equal inputs give equal bytes.

What belongs here: whatever is global to a process or a thread and changes the last bits of a
result. How many threads an operation is split among is the most important one: it decides in which
order numbers are added. Work is therefore parallel over shards, never inside an operation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  (loads its BLAS library, whose threads are limited below)
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.nn import functional
from torch.overrides import TorchFunctionMode

THREADS = 1
"""Threads inside one operation. One, because results must not depend on the machine's cores, and
because small operations gain little from more (training the reference model: 1.0 to 1.3 times)."""


@contextmanager
def fixed_numerics() -> Iterator[None]:
    """Compute under fixed conditions inside the block; the earlier ones are restored at its end.

    Fixes the number of threads inside an operation (torch, BLAS, OpenMP), torch's default dtype
    and precision of matrix products, and that denormal numbers are kept. Threads that are started
    inside the block need `fix_thread`, because torch's number of threads belongs to the thread.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    precision = torch.get_float32_matmul_precision()
    with threadpool_limits(limits=THREADS):
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        fix_thread()
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)


def fix_thread() -> None:
    """Fix what belongs to the calling thread alone; see `fixed_numerics`.

    A thread that has not computed yet takes torch's number of threads from whichever thread set it
    last, so each thread must set its own.
    """
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(False)


def worker_pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool of `workers` threads, each of which computes under `fix_thread`."""
    return ThreadPoolExecutor(workers, initializer=fix_thread)


class UnfusedAttention(TorchFunctionMode):
    """Inside the block, this thread computes attention by its plain formula, without fused kernels.

    `torch.nn.attention.sdpa_kernel` would make the choice for the whole process: the numbers of
    another thread would then depend on whether this one happens to be inside.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            func = _plain_attention
        return func(*args, **(kwargs or {}))


def _plain_attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    attended: torch.Tensor = torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
    return attended


def group_means(
    keys: Sequence[NDArray[Any]], values: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Mean and sample standard deviation of each group of consecutive rows with equal `keys`.

    The rows must be sorted by the keys. Values are added from the first to the last, whereas data
    frames add them in an order that depends on the number of threads.

    Returns: index of each group's first row, mean, standard deviation (NaN for a single row),
    number of rows; each [groups].
    """
    count = len(values)
    new = np.zeros(count, dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, count))
    if not count:
        return starts, np.empty(0), np.empty(0), sizes
    means = np.add.reduceat(values, starts) / sizes
    squares = np.add.reduceat((values - np.repeat(means, sizes)) ** 2, starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.sqrt(squares / (sizes - 1))
    return starts, means, deviations, sizes
