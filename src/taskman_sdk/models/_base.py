"""What all models share: reading answers leniently, and the shapes that hide protobuf's own types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from taskman_sdk import codec

__all__ = ["Model", "Paths", "enum_name", "parse", "to_json_value"]

M = TypeVar("M", bound="Model")


class Model(BaseModel):
    """The base of all models. Fields that a newer server adds are passed over (SDK-4)."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return [re.sub(r"[A-Z]", lambda m: f"_{m[0].lower()}", path) for path in value.split(",") if path]
    return value


Paths = Annotated[list[str], BeforeValidator(_split), PlainSerializer(lambda paths: _mask(paths), return_type=str)]
# An enum value that this version has no name for comes as its number.
enum_name: Final = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)


def _mask(paths: Any) -> str:
    return ",".join(re.sub(r"_([a-z0-9])", lambda m: m[1].upper(), path) for path in paths)


def parse(kind: type[M], message: codec.Message[Any]) -> M:
    """The model of an answer.

    The constraints of the contract are for what a caller gives; an answer that breaks them (a newer server may have
    wider ones) is taken as it is.
    """
    data = codec.to_json(message)
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return _lenient(kind, codec.to_value(message))


def _lenient(kind: type[M], value: dict[str, Any]) -> M:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        wrong: dict[str, Any] = {}
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(each["loc"][0])
            wrong[name] = value.get(name)
    model = kind.model_validate({name: each for name, each in value.items() if name not in wrong})
    for name, raw in wrong.items():
        model.__dict__[name] = _lenient_field(kind, name, raw)
        model.__pydantic_fields_set__.add(name)
    return model


def _lenient_field(kind: type[Model], name: str, raw: Any) -> Any:
    annotation = kind.model_fields[name].annotation
    inner = [each for each in (annotation, *getattr(annotation, "__args__", ())) if isinstance(each, type)]
    nested = next((each for each in inner if issubclass(each, Model)), None)
    if nested is None:
        return raw
    return [_lenient(nested, each) for each in raw] if isinstance(raw, list) else _lenient(nested, raw)


def to_json_value(value: Any) -> Any:
    """A Python value as ProtoJSON: aware date-times in UTC, models and mappings as objects.

    Raises:
        ValueError: a date-time has no time zone.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone; give one, for example tzinfo=datetime.UTC")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        raise ValueError(f"{value.isoformat()} is a date; give a date-time with a time zone")
    if isinstance(value, Model):
        set_fields = {name: getattr(value, name) for name in value.model_fields_set}
        return {name: to_json_value(each) for name, each in set_fields.items()}
    if isinstance(value, Mapping):
        return {str(name): to_json_value(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json_value(each) for each in value]
    return value
