"""The verbs: one typed method a public RPC, async, and its sync twin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tools.sdkgen.image import Field, GenerationError, Image, Message, Method
from tools.sdkgen.models import scalar
from tools.sdkgen.names import resources, singular
from tools.sdkgen.text import Imports, docstring, module, wrap

OPTIONS = {
    "idempotency_key": ("str | None", "under this key the call takes effect once; made for you when not given."),
    "timeout": ("float | None", "seconds for the whole call with its retries; the client's when not given."),
    "extra_headers": ("Mapping[str, str] | None", "headers to send beside the SDK's own."),
}
RESERVED = {*OPTIONS, "self"}
Shape = Literal["unary", "pages", "stream"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb; `path` is the field it fills, for example `task.title`."""

    name: str
    path: str
    annotation: str
    comment: str
    positional: bool
    required: bool
    changes: bool


@dataclass(frozen=True, slots=True)
class Verb:
    """One method of a resource."""

    name: str
    method: Method
    shape: Shape
    arguments: tuple[Argument, ...]
    output: str
    item: str
    items: str


def _annotation(field: Field, image: Image, imports: Imports) -> str:
    if field.kind == "struct":
        one = f"{imports.add('collections.abc', 'Mapping')}[str, {imports.add('typing', 'Any')}]"
    elif field.kind == "map":
        one = f"{imports.add('collections.abc', 'Mapping')}[str, {field.type}]"
    elif field.kind == "message":
        model = scalar(field, image, imports, "")
        mapping = imports.add("collections.abc", "Mapping")
        one = f"{model} | {mapping}[str, {imports.add('typing', 'Any')}]"
    elif field.kind == "mask":
        return f"{imports.add('collections.abc', 'Sequence')}[str]"
    else:
        one = scalar(field, image, imports, "")
    if field.repeated:
        return f"{imports.add('collections.abc', 'Sequence')}[{one}]"
    return f"{one} | None" if field.kind in ("timestamp", "message") or field.optional else one


def _needed(field: Field) -> bool:
    rules = field.rules
    if rules.required:
        return True
    inner = rules.type.value if rules.type is not None else None
    if inner is None or rules.ignore.value:
        return False
    well_known = getattr(inner, "well_known", None)
    return bool(
        getattr(inner, "min_len", 0)
        or getattr(inner, "min_items", 0)
        or getattr(inner, "in_", ())
        or (well_known is not None and well_known.field == "email")
    )


def _changeable(request: Message) -> set[str]:
    """The fields that the comment of `update_mask` names; empty when it names none."""
    mask = request.field("update_mask")
    return set(re.findall(r"`(\w+)`", mask.comment)) if mask is not None else set()


def _arguments(method: Method, image: Image, imports: Imports) -> tuple[Argument, ...]:
    request = image.messages[method.input]
    found: list[Argument] = []
    for path in method.parameters:
        head, _, tail = path.partition(".")
        field = request.field(head)
        assert field is not None
        leaf = image.messages[field.type].field(tail) if tail else field
        assert leaf is not None
        comment = "the id or key." if tail else leaf.comment
        found.append(Argument(head, path, "str", comment, True, True, False))
    body = request.field(method.body) if method.body not in ("", "*") else None
    if body is not None:
        changeable = _changeable(request)
        for field in image.messages[body.type].fields:
            path = f"{body.name}.{field.name}"
            etag = bool(changeable) and field.name == "etag"
            if path in method.parameters or field.server_set or (field.name == "etag" and not etag):
                continue
            if changeable and not etag and field.name not in changeable:
                continue
            annotation = _annotation(field, image, imports)
            found.append(
                Argument(field.name, path, annotation, field.comment, False, False, bool(changeable) and not etag)
            )
    for field in request.fields:
        if field is body or field.name in method.parameters or (field.name == "update_mask" and body is not None):
            continue
        annotation = _annotation(field, image, imports)
        found.append(Argument(field.name, field.name, annotation, field.comment, False, _needed(field), False))
    names = [each.name for each in found]
    if len(set(names)) != len(names) or RESERVED & set(names):
        raise GenerationError(f"{method.service}.{method.name}: two arguments would share a name in {sorted(names)}")
    found.sort(key=lambda each: (not each.positional, not each.required))
    return tuple(found)


def _verb(name: str, method: Method, image: Image, imports: Imports) -> Verb:
    output = image.messages[method.output]
    imports.add(f"taskman_sdk.models.{output.area}", output.name)
    request = image.messages[method.input]
    lists = [field for field in output.fields if field.repeated and field.kind == "message"]
    shape: Shape = "stream" if method.streaming else "unary"
    item = items = ""
    if request.field("page_token") and output.field("next_page_token") and len(lists) == 1:
        shape, items = "pages", lists[0].name
        item = imports.add(
            f"taskman_sdk.models.{image.messages[lists[0].type].area}", image.messages[lists[0].type].name
        )
    return Verb(name, method, shape, _arguments(method, image, imports), output.name, item, items)


def _optional(argument: Argument, imports: Imports) -> str:
    given = imports.add("taskman_sdk.resources._base", "NotGiven")
    missing = imports.add("taskman_sdk.resources._base", "NOT_GIVEN")
    annotation = argument.annotation.removesuffix(" | None")
    none = "" if annotation == argument.annotation else " | None"
    return f"{argument.name}: {annotation} | {given}{none} = {missing},"


def _signature(verb: Verb, imports: Imports) -> list[str]:
    imports.add("collections.abc", "Mapping")
    lines = ["self,", *(f"{each.name}: {each.annotation}," for each in verb.arguments if each.positional), "*,"]
    lines += [
        f"{each.name}: {each.annotation}," if each.required else _optional(each, imports)
        for each in verb.arguments
        if not each.positional
    ]
    lines += [f"{name}: {annotation} = None," for name, (annotation, _) in OPTIONS.items()]
    return [f"        {line}" for line in lines]


def _raises(method: Method, image: Image) -> list[str]:
    found = ["InvalidArgumentError: a field is wrong; see `field_violations`."]
    if method.access != "public":
        found.append("UnauthenticatedError: no token, or one that is not good.")
    if method.rule.permission:
        found.append(f"PermissionDeniedError: the permission `{method.rule.permission}` is missing.")
    if method.parameters:
        found.append("NotFoundError: it is not there, or not for the caller to know.")
    request = image.messages[method.input]
    if request.field("etag") or (request.field("update_mask") and method.body):
        found.append("AbortedError: it changed since `etag` was read.")
    return [*found, "TaskManError: every other error of the tree in `taskman_sdk.errors`."]


def _doc(verb: Verb, image: Image) -> list[str]:
    method = verb.method
    needs = {
        "public": "Open to everyone.",
        "authenticated": "For everyone who is signed in.",
    }.get(method.access, f"Needs the permission `{method.rule.permission}`.")
    arguments = ["        Args:"]
    for each in verb.arguments:
        arguments += wrap(each.comment, " " * 12, f"{each.name}: ")
    for name, (_, comment) in OPTIONS.items():
        arguments += wrap(comment, " " * 12, f"{name}: ")
    raises = ["        Raises:"]
    for line in _raises(method, image):
        raises += wrap(line, " " * 12)
    route = wrap(f"`{method.verb} {method.template}` · `{method.service}.{method.name}`. {needs}", " " * 8)
    return docstring("        ", method.comment, [route, arguments, raises])


def _call(verb: Verb) -> list[str]:
    lines = [f'            "{verb.method.area}",', f'            "{verb.method.name}",', f"            {verb.output},"]
    if verb.shape == "pages":
        lines.append(f'            "{verb.items}",')
    fields = ", ".join(f'"{a.path}": {a.name}' for a in verb.arguments if not a.changes)
    lines.append(f"            {{{fields}}},")
    if changes := ", ".join(f'"{a.path}": {a.name}' for a in verb.arguments if a.changes):
        lines.append(f"            changes={{{changes}}},")
    return [*lines, *(f"            {name}={name}," for name in OPTIONS), "        )"]


def _method_async(verb: Verb, image: Image, imports: Imports) -> list[str]:
    if verb.shape == "unary":
        begin, answer, helper = "async def", verb.output, "await self._unary"
    elif verb.shape == "pages":
        pager = imports.add("taskman_sdk.resources._pages", "AsyncPager")
        begin, answer, helper = "def", f"{pager}[{verb.output}, {verb.item}]", "self._pages"
    else:
        answer = f"{imports.add('collections.abc', 'AsyncIterator')}[{verb.output}]"
        begin, helper = "def", "self._stream"
    head = [f"    {begin} {verb.name}(", *_signature(verb, imports), f"    ) -> {answer}:"]
    return [*head, *_doc(verb, image), f"        return {helper}(", *_call(verb), ""]


def _method_sync(verb: Verb, image: Image, imports: Imports) -> list[str]:
    if verb.shape == "unary":
        answer, helper = verb.output, "self._wait"
    elif verb.shape == "pages":
        pager = imports.add("taskman_sdk.resources._pages", "Pager")
        answer, helper = f"{pager}[{verb.output}, {verb.item}]", "self._pages"
    else:
        answer = f"{imports.add('collections.abc', 'Iterator')}[{verb.output}]"
        helper = "self._stream"
    head = [f"    def {verb.name}(", *_signature(verb, imports), f"    ) -> {answer}:"]
    positional = [each.name for each in verb.arguments if each.positional]
    keywords = [each.name for each in verb.arguments if not each.positional] + list(OPTIONS)
    given = ", ".join([*positional, *(f"{name}={name}" for name in keywords)])
    call = f"        return {helper}(lambda: self._aio.{verb.name}({given}))"
    return [*head, *_doc(verb, image), call, ""]


def _class_name(resource: str) -> str:
    return "".join(word.capitalize() for word in resource.split("_"))


def generate(image: Image) -> dict[str, str]:
    """The modules of `taskman_sdk/resources` and `taskman_sdk/_sync`, by path."""
    files: dict[str, str] = {}
    grouped = resources(image.methods)
    for resource, verbs in grouped.items():
        name = _class_name(resource)
        services = ", ".join(dict.fromkeys(f"`{method.service}`" for method in verbs.values()))
        for twin in (False, True):
            imports = Imports()
            built = [_verb(verb, method, image, imports) for verb, method in verbs.items()]
            base = imports.add(
                f"taskman_sdk.{'_sync' if twin else 'resources'}._base", "Resource" if twin else "AsyncResource"
            )
            if twin:
                asynchronous = imports.add(f"taskman_sdk.resources.{resource}", f"Async{name}")
                base = f"{base}[{asynchronous}]"
            kind = name if twin else f"Async{name}"
            body = [f'__all__ = ["{kind}"]', "", "", f"class {kind}({base}):"]
            body += [*docstring("    ", f"`client.{resource}`: the verbs of {services}."), ""]
            write = _method_sync if twin else _method_async
            for verb in built:
                body += write(verb, image, imports)
            folder = "_sync" if twin else "resources"
            about = f"What one does with {singular(resource) if resource != 'auth' else 'sign-in'}, "
            files[f"{folder}/{resource}.py"] = module(about + ("sync." if twin else "async."), imports, body)
    files["resources/__init__.py"] = _package(list(grouped), twin=False)
    files["_sync/__init__.py"] = _package(list(grouped), twin=True)
    return files


def _package(names: list[str], *, twin: bool) -> str:
    folder, prefix = ("_sync", "") if twin else ("resources", "Async")
    imports = Imports()
    imports.add("functools", "cached_property")
    imports.add("typing", "TYPE_CHECKING")
    typed = Imports()
    typed.add(f"taskman_sdk.{folder}._base", "Owner" if twin else "Caller")
    for name in names:
        typed.add(f"taskman_sdk.{folder}.{name}", f"{prefix}{_class_name(name)}")
    group = f"{prefix}Resources"
    body = [
        "if TYPE_CHECKING:",
        *(f"    {line}" for line in typed.lines()),
        "",
        f'__all__ = ["{group}"]',
        "",
        "",
        f"class {group}:",
        '    """One attribute a resource, each loaded when it is first used."""',
        "",
        "    _owner: Owner" if twin else "    _caller: Caller",
        "",
    ]
    for name in names:
        kind = f"{prefix}{_class_name(name)}"
        what = f'self._owner, "{name}"' if twin else "self._caller"
        body += [
            "    @cached_property",
            f"    def {name}(self) -> {kind}:",
            f'        """The verbs of `{name}`."""',
            f"        from taskman_sdk.{folder}.{name} import {kind}",
            "",
            f"        return {kind}({what})",
            "",
        ]
    return module("All resources of the client.", imports, body)
