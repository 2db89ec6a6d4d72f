"""Randomness of the reference study: every choice is keyed by what it is for, never by order.

Only the generator lives here; what is chosen with it belongs to the module that chooses.
"""

import hashlib

import numpy as np


def generator_for(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on `seed` and `names` alone.

    Rendering one track, or all of them in any order or process, therefore draws the same numbers.
    """
    key = "\x1f".join(str(part) for part in (seed, *names)).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))
