"""Dagster config schemas made from the settings models, so that the launchpad shows the same keys,
descriptions and defaults as `params.yaml`."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel

from tda_dagster.settings import Settings


def dagster_schema(settings: Settings, keys: tuple[str, ...]) -> dict[str, dg.Field]:
    """The config schema of the dotted `keys` with their present values as defaults."""
    tree: dict[str, Any] = {}
    for key in keys:
        *sections, name = key.split(".")
        owner: BaseModel = settings
        target = tree
        for section in sections:
            owner = getattr(owner, section)
            target = target.setdefault(section, {})
        target[name] = _field(owner, name)
    return {name: _wrap(value) for name, value in tree.items()}


def _wrap(value: Any) -> dg.Field:
    if isinstance(value, dict):
        return _section({name: _wrap(inner) for name, inner in value.items()})
    assert isinstance(value, dg.Field)
    return value


def _field(owner: BaseModel, name: str) -> dg.Field:
    value = getattr(owner, name)
    info = type(owner).model_fields[name]
    if isinstance(value, BaseModel):
        inner = {key: _field(value, key) for key in type(value).model_fields}
        return _section(inner, (type(value).__doc__ or "").strip())
    kind = _kind(info.annotation)
    default = list(value) if isinstance(value, tuple) else value
    return dg.Field(kind, default_value=default, is_required=False, description=info.description)


def _section(fields: dict[str, dg.Field], description: str | None = None) -> dg.Field:
    shape = dg.Shape(fields)  # type: ignore[no-untyped-call]
    return dg.Field(shape, is_required=False, description=description)


def _kind(annotation: Any) -> Any:
    """Dagster's config type for a field's annotation."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return dg.Noneable(_kind(inner[0]))
    if origin is Literal:
        return dg.Enum(
            "_".join(get_args(annotation)),
            [dg.EnumValue(choice) for choice in get_args(annotation)],
        )
    if origin is tuple:
        return [_kind(get_args(annotation)[0])]
    if origin is dict:
        named, value = get_args(annotation)
        if value is Any:
            return dg.Permissive()  # type: ignore[no-untyped-call]
        return dg.Map(named, _kind(value))  # type: ignore[no-untyped-call]
    return {int: int, float: float, bool: bool, str: str}[annotation]
