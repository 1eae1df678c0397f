"""The texts of mails: shipped templates, rendered in a sandbox (NOTIFY-4).

`templates/<name>.txt` begins with the subject, an empty line follows, then the text; `<name>.html` is the same for
programs that show HTML. What people typed is escaped there and is one line everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final
from urllib.parse import urlsplit

from jinja2 import DictLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_server.services.notifications.rules import one_line

__all__ = ["Rendered", "Templates"]

# The variables that each text needs. All may be given `display_name`, `email`, `public_url` beside them.
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "welcome": (),
    "welcome_invited": (),
    "task_assigned": ("task", "key", "title"),
    "registration_repeated": (),
    "password_reset": ("link",),
    "set_up": ("link",),
}
_OPTIONAL: Final = ("display_name", "email", "public_url", "due", "valid_minutes")
# A name that could be taken for a link: a sign-up must not make us mail a stranger somebody's advertisement.
_LINKLIKE: Final = re.compile(r"[/@:]|\w\.\w")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A mail's subject (one line), its text and its HTML."""

    subject: str
    text: str
    html: str


class Templates:
    """All texts, read and compiled at start."""

    def __init__(self) -> None:
        folder = resources.files(__package__).joinpath("templates")
        sources = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.is_file()}
        loader = DictLoader(sources)
        html = ImmutableSandboxedEnvironment(loader=loader, autoescape=True, undefined=StrictUndefined)
        text = ImmutableSandboxedEnvironment(loader=loader, autoescape=False, undefined=StrictUndefined)
        # Imported by a template it would be looked for at each rendering, which takes longer than the rest of a mail.
        html.globals["button"] = html.get_template("parts.html").module.button  # type: ignore[attr-defined]
        self._parts = {}
        for name in _NEEDED:
            subject, _, body = sources[f"{name}.txt"].partition("\n\n")
            self._parts[name] = (
                text.from_string(subject),
                text.from_string(body),
                html.get_template(f"{name}.html"),
            )

    def check(self, name: str, variables: Mapping[str, str]) -> None:
        """Refuses what could not be rendered, without naming a value.

        Raises:
            InvalidArgumentError: there is no such template, or a variable is missing, unknown or not a link.
        """
        needed = _NEEDED.get(name)
        if needed is None:
            known = ", ".join(_NEEDED)
            raise _bad(f"there is no template {name!r}; there are {known}", "MAIL_TEMPLATE_UNKNOWN", "template")
        if missing := [each for each in needed if not variables.get(each)]:
            raise _bad(f"the template {name} needs {', '.join(missing)}", "MAIL_VARIABLE_MISSING", "variables")
        if unknown := sorted(set(variables) - {*needed, *_OPTIONAL}):
            raise _bad(f"the template {name} has no {', '.join(unknown)}", "MAIL_VARIABLE_UNKNOWN", "variables")
        link = variables.get("link")
        if link is not None and not _is_link(link):
            raise _bad("`link` must be an http or https URL", "MAIL_VARIABLE_INVALID", "variables")

    def render(self, name: str, variables: Mapping[str, str]) -> Rendered:
        """The mail. Raises InvalidArgumentError as `check` does."""
        self.check(name, variables)
        values = dict.fromkeys(_OPTIONAL, "") | {
            key: value if key == "link" else one_line(value, 500) for key, value in variables.items()
        }
        if _LINKLIKE.search(values["display_name"]):
            values["display_name"] = ""
        subject, text, html = self._parts[name]
        return Rendered(one_line(subject.render(values)), text.render(values), html.render(values))


def _is_link(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable() and " " not in text


def _bad(problem: str, reason: str, field: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"The mail cannot be made: {problem}.",
        reason=reason,
        field_violations=[FieldViolation(field, problem, "mail")],
    )
