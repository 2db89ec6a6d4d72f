import json
import math
import subprocess
import sys
from collections import OrderedDict
from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from tda_dagster.store import StoreError, canonical_json, digest_of


def test_order_of_keys_does_not_matter_and_order_of_lists_does() -> None:
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == b'{"a":{"c":3,"d":2},"b":1}'
    assert canonical_json(OrderedDict(a={"c": 3, "d": 2}, b=1)) == canonical_json(
        {"b": 1, "a": {"d": 2, "c": 3}}
    )
    assert canonical_json([1, 2]) != canonical_json([2, 1])


def test_text_is_utf8_and_sorted_by_code_point() -> None:
    assert canonical_json({"é": "Dvořák", "z": "🎵"}) == '{"z":"🎵","é":"Dvořák"}'.encode()


@pytest.mark.parametrize(
    "value", [0.1, 1e-300, 1 / 3, 5e-324, 1e22, -0.0, 1.0, 123456789.123456789]
)
def test_floats_read_back_as_the_same_number(value: float) -> None:
    back = json.loads(canonical_json([value]))[0]
    assert math.copysign(1, back) == math.copysign(1, value)
    assert back == value


def test_values_that_only_look_like_json_types_are_written_as_those() -> None:
    class Mode(StrEnum):
        SHARED = "shared"

    assert canonical_json((Mode.SHARED, np.float64(0.5), (True, None))) == (
        b'["shared",0.5,[true,null]]'
    )
    assert canonical_json(1) != canonical_json(1.0) != canonical_json(True)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"config": {"steps": [1, math.nan]}}, r"config\.steps\[1\] is nan"),
        ({"config": {"lr": math.inf}}, r"config\.lr is inf"),
        ({"a": {"b": {1, 2}}}, r"a\.b is a builtins\.set"),
        ({"a": {3: "x"}}, r"a has the key 3"),
        ({"a": b"bytes"}, r"a is a builtins\.bytes"),
        ({"a": ["\ud800"]}, r"a\[0\] is not valid Unicode"),
        (np.float32(1), r"the value is a numpy\.float32"),
    ],
)
def test_what_has_no_json_form_is_refused_by_name(value: Any, path: str) -> None:
    with pytest.raises(StoreError, match=path):
        canonical_json(value)


def test_bytes_are_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "from tda_dagster.store import canonical_json;"
        "import sys; sys.stdout.buffer.write("
        "canonical_json({k: {k: 0.1} for k in set('abcdefgé')}))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {canonical_json({key: {key: 0.1} for key in "abcdefgé"})}


def test_digest_is_sha256() -> None:
    # FIPS 180-2, appendix B.1
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
