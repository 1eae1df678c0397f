"""Pydantic models of every message that a public RPC answers, or takes inside its request."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tools.sdkgen.image import Enum, Field, GenerationError, Image, Message, Method
from tools.sdkgen.text import Imports, docstring, module, wrap

BASE = "taskman_sdk.models._base"


def reachable(image: Image) -> list[Message]:
    """The messages that become models, each after those it is made of."""
    found: dict[str, Message] = {}

    def visit(full_name: str) -> None:
        if full_name in found:
            return
        message = image.messages[full_name]
        for field in message.fields:
            if field.kind == "message" and field.type != full_name:
                visit(field.type)
        found[full_name] = message

    for method in image.methods:
        visit(method.output)
        for name in nested_inputs(image, method):
            visit(name)
    return list(found.values())


def nested_inputs(image: Image, method: Method) -> Iterator[str]:
    """The messages that a caller gives as values: those inside the request, without the flattened body."""
    request = image.messages[method.input]
    for field in request.fields:
        if field.kind == "message" and field.name == method.body:
            yield from (f.type for f in image.messages[field.type].fields if f.kind == "message")
        elif field.kind == "message":
            yield field.type


def scalar(field: Field, image: Image, imports: Imports, area: str) -> str:
    """The annotation of one value of the field."""
    if field.kind == "unknown":
        raise GenerationError(f"the SDK has no words for the field {field.name!r} of type {field.type!r}")
    if field.kind == "map":
        return f"dict[str, {field.type}]"
    if field.kind == "timestamp":
        return imports.add("datetime", "datetime")
    if field.kind == "struct":
        return f"dict[str, {imports.add('typing', 'Any')}]"
    if field.kind == "mask":
        return imports.add(BASE, "Paths")
    if field.kind == "bytes":
        return imports.add("pydantic", "Base64Bytes")
    if field.kind == "enum":
        return _local(image.enums[field.type], imports, area)
    if field.kind == "message":
        return _local(image.messages[field.type], imports, area)
    rules = field.rules.type.value if field.rules.type is not None else None
    if field.kind == "str" and (choices := list(getattr(rules, "in_", ()))):
        return f"{imports.add('typing', 'Literal')}[{', '.join(map(_quote, choices))}] | str"
    return field.kind


def _local(thing: Message | Enum, imports: Imports, area: str) -> str:
    return thing.name if thing.area == area else imports.add(f"taskman_sdk.models.{thing.area}", thing.name)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _long(text: str) -> str:
    """A string literal that ruff can break where it is too long for a line."""
    pieces = textwrap.wrap(text, 90, drop_whitespace=False, break_on_hyphens=False)
    return " ".join(map(_quote, pieces)) or '""'


def constraints(field: Field) -> list[str]:
    """What pydantic can say of the field's rules. An empty value passes where the contract lets it."""
    rules = field.rules.type.value if field.rules.type is not None else None
    found: list[str] = []
    if field.repeated:
        if getattr(rules, "max_items", 0):
            found.append(f"max_length={getattr(rules, 'max_items', 0)}")
    elif field.kind == "str" and not getattr(rules, "in_", ()):
        if getattr(rules, "max_len", 0):
            found.append(f"max_length={getattr(rules, 'max_len', 0)}")
        if pattern := str(getattr(rules, "pattern", "")):
            found.append(f"pattern={_quote('^$|' + pattern)}")
    elif field.kind == "int" and (bound := getattr(rules, "greater_than", None)) is not None and bound.field == "gte":
        found.append(f"ge={bound.value}")
    return found


def _default(field: Field, image: Image) -> str:
    if field.repeated or field.kind in ("struct", "mask", "map"):
        factory = "dict" if field.kind in ("struct", "map") and not field.repeated else "list"
        return f"default_factory={factory}"
    if field.optional or field.kind in ("timestamp", "message"):
        return "default=None"
    if field.kind == "enum":
        return f"default={_quote(image.enums[field.type].values[0])}"
    return {"str": 'default=""', "int": "default=0", "float": "default=0.0", "bool": "default=False"}.get(
        field.kind, 'default=b""'
    )


def _class(message: Message, image: Image, imports: Imports) -> list[str]:
    base = imports.add(BASE, "Model")
    attributes = ["    Attributes:"]
    fields: list[str] = []
    for field in message.fields:
        annotation = scalar(field, image, imports, message.area)
        if field.repeated:
            annotation = f"list[{annotation}]"
        elif (field.optional or field.kind in ("timestamp", "message")) and field.kind not in ("struct", "mask", "map"):
            annotation = f"{annotation} | None"
        parts = [_default(field, image), *constraints(field), *(["repr=False"] if field.secret else [])]
        parts.append(f"description={_long(field.comment)}")
        fields.append(f"    {field.name}: {annotation} = {imports.add('pydantic', 'Field')}({', '.join(parts)})")
        attributes += wrap(field.comment, "        ", f"{field.name}: ")
    sections = [attributes] if fields else []
    return [f"class {message.name}({base}):", *docstring("    ", message.comment, sections), "", *fields, "", ""]


def _enum(enum: Enum, imports: Imports) -> list[str]:
    literal = f"{imports.add('typing', 'Literal')}[{', '.join(map(_quote, enum.values))}]"
    annotated = imports.add("typing", "Annotated")
    name = imports.add(BASE, "enum_name")
    comment = docstring("", f"{enum.comment} A newer server may answer other values.")
    return [f"{enum.name} = {annotated}[{literal} | str, {name}]", *comment, "", ""]


def generate(image: Image) -> dict[str, str]:
    """The modules of `taskman_sdk/models`, by path."""
    messages = reachable(image)
    used = {f.type for m in messages for f in m.fields if f.kind == "enum"}
    used |= {f.type for method in image.methods for f in image.messages[method.input].fields if f.kind == "enum"}
    enums = [enum for name, enum in image.enums.items() if name in used]
    files: dict[str, str] = {}
    names: dict[str, str] = {}
    for area in dict.fromkeys([m.area for m in messages] + [e.area for e in enums]):
        imports = Imports()
        body: list[str] = []
        local = sorted([m.name for m in messages if m.area == area] + [e.name for e in enums if e.area == area])
        names |= dict.fromkeys(local, area)
        body += ["__all__ = [", *(f'    "{name}",' for name in local), "]", "", ""]
        for enum in enums:
            if enum.area == area:
                body += _enum(enum, imports)
        for message in messages:
            if message.area == area:
                body += _class(message, image, imports)
        files[f"models/{area}.py"] = module(f"Models of the area `{area}`.", imports, body)
    files["models/__init__.py"] = _package(names)
    return files


def _package(names: dict[str, str]) -> str:
    imports = Imports()
    imports.add("importlib", "import_module")
    imports.add("typing", "TYPE_CHECKING")
    imports.add("typing", "Any")
    imports.add(BASE, "Model")
    typed = Imports()
    for name, area in names.items():
        typed.add(f"taskman_sdk.models.{area}", name)
    body = [
        "if TYPE_CHECKING:",
        *(f"    {line}" for line in typed.lines()),
        "",
        "__all__ = [",
        *(f'    "{name}",' for name in sorted([*names, "Model"])),
        "]",
        "_AREAS = {",
        *(f'    "{name}": "{area}",' for name, area in sorted(names.items())),
        "}",
        "",
        "",
        "def __getattr__(name: str) -> Any:",
        "    if (area := _AREAS.get(name)) is None:",
        '        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")',
        '    return getattr(import_module(f"{__name__}.{area}"), name)',
    ]
    return module("The models of all areas; each is loaded when it is first asked for.", imports, body)
