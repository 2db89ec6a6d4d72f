"""What every part of the settings is: a model of known keys, whose mistakes are named in one line.

What belongs here: the base class and validation. Which settings there are is said by `settings`,
and by the methods for their own.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tda_dagster.errors import SettingsError
from tda_dagster.quoting import brief, named, shown
from tda_dagster.store import canonical_json

_SHOWN_PROBLEMS = 10
_OWN_WORDS = {  # where pydantic's message names a Python class
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
}


class Section(BaseModel):
    """A part of the settings; unknown keys, infinity, NaN and integers of more than 64 bits are
    refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _fits_64_bits(cls, value: object) -> object:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("must lie between -2^63 and 2^63 - 1")
        return value

    def digest(self) -> str:
        """sha256 of the section's canonical JSON, hex."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


def validated(model: type[Section], raw: Any, source: str) -> Any:
    """`raw` as the model; the problems (at most ten of them) are named by the paths of their keys,
    in one line."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        total = error.error_count()
        problems = [_told(model, problem) for problem in error.errors()[:_SHOWN_PROBLEMS]]
        if total > _SHOWN_PROBLEMS:
            problems.append(f"and {total - _SHOWN_PROBLEMS:,} more problems")
        raise SettingsError(f"{source}: " + "; ".join(problems)) from None


def _told(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    path = ".".join(named(part) for part in problem["loc"]) or "(all)"
    if problem["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(model, problem["loc"][:-1]))
        return f"{path}: unknown key; known here: {known}"
    message = _OWN_WORDS.get(problem["type"]) or brief(problem["msg"].removeprefix("Value error, "))
    return f"{path}: {message} (got {shown(problem['input'])})"


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return []
        model = field.annotation
    return sorted(model.model_fields)
