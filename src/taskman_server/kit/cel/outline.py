"""A condition that was planned once, for all constants that make the same SQL of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement

from taskman_server.kit.cel.errors import CelEvaluationError
from taskman_server.kit.cel.operators import unsearchable
from taskman_server.kit.cel.parts import Folded, Trace

if TYPE_CHECKING:
    from taskman_server.kit.cel.environment import Program

__all__ = ["Outline"]


class Outline:
    """A condition whose values that hang on the constants (who asks, and when) are named parameters.

    `condition`: true for exactly the rows that `Program.test` accepts, with the constants that the parameters are for.
    """

    def __init__(self, program: Program, condition: ColumnElement[bool], made_for: Sequence[Folded]) -> None:
        """`made_for`: the traced values of the plan."""
        self.condition = condition
        self._program = program
        self._traced = [(part.trace, _shape(part)) for part in made_for if part.trace is not None]

    def parameters(self, constants: Mapping[str, Any]) -> dict[str, Any] | None:
        """The parameters for other constants, by name; None where these ask for another condition.

        Some may not stand in it: their part can have fallen away.
        """
        values: dict[str, Any] = {}
        for trace, shape in self._traced:
            part = fold(self._program, trace, constants)
            if _shape(part) != shape:
                return None
            for name in trace.parameters:
                values[name] = part.raw
        return values


def fold(program: Program, trace: Trace, constants: Mapping[str, Any]) -> Folded:
    """The value of the traced part of a program."""
    try:
        return Folded(program.evaluate_part(trace.node, constants, trace.local), False, trace)
    except CelEvaluationError:
        return Folded(None, True, trace)


def _shape(part: Folded) -> tuple[Any, ...]:
    """What the SQL hangs on: of a value that only stands in it as a parameter its kind, else the value itself."""
    assert part.trace is not None
    # repr, as 1, 1.0 and True are equal
    seen = repr(part.raw) if part.trace.looked else ""
    return part.failed, part.kind, part.null, unsearchable(part.raw) is not None, seen
