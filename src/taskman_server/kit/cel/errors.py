"""What can be wrong with an expression, said for the person who wrote it (AUTHZ-3, TASK-6)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """A place in an expression's text.

    `offset` counts code points from 0; `line` and `column` count from 1, as an editor shows them.
    """

    offset: int
    line: int
    column: int

    @classmethod
    def at(cls, text: str, offset: int) -> Position:
        """The place `offset` code points into `text`; an offset past either end is moved to that end."""
        offset = max(0, min(offset, len(text)))
        before = text[:offset]
        return cls(offset, before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)

    @classmethod
    def at_line(cls, text: str, line: int, column: int) -> Position:
        """The place at 1-based `line` and `column` of `text`."""
        lines = text.split("\n")
        offset = sum(len(part) + 1 for part in lines[: line - 1]) + column - 1
        return cls(max(0, min(offset, len(text))), line, column)


class CelError(ValueError):
    """An expression that cannot be used. `str()` is one sentence: what is wrong, where, what to do.

    `message` says what is wrong, `hint` what to do (may be empty), `expression` is the text as it was
    given (shortened when it is very long), `position` the place in it, None when no place can be named.
    """

    def __init__(self, message: str, *, expression: str = "", position: Position | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.expression = expression if len(expression) <= 4096 else expression[:4093] + "..."
        self.position = position
        self.hint = hint

    def __str__(self) -> str:
        where = f" at line {self.position.line}, column {self.position.column}" if self.position else ""
        return f"{self.message}{where}: {self.hint}" if self.hint else f"{self.message}{where}"


class CelSyntaxError(CelError):
    """The text is not an expression of this environment: grammar, a name it does not know, or a type."""


class CelTooComplex(CelError):
    """The expression passes a limit on length, size, depth or possible cost."""


class CelUnplannable(CelError):
    """A valid expression that cannot become SQL; `position` is the part that stands in the way."""


class CelEvaluationError(CelError):
    """The expression has no value for these bindings: an error inside it, or a variable that is missing."""
