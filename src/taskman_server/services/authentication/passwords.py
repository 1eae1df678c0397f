"""Passwords that people choose: checked against what attackers try first (AUTHN-7)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from taskman_sdk.errors import FieldViolation, InvalidArgumentError
from taskman_server.services.authentication.rules import password_problem

__all__ = ["check_password", "common_passwords"]


@cache
def common_passwords() -> frozenset[str]:
    """The passwords that attackers try first, case-folded; shipped with the package."""
    text = files("taskman_server.services.authentication").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(text.splitlines())


def check_password(password: str, *, email: str, display_name: str = "", field: str = "password") -> None:
    """Refuses a password that would be guessed.

    Args:
        password: the choice.
        email: the account's address.
        display_name: the person's name, where it is known.
        field: the field of the request that it stood in.

    Raises:
        InvalidArgumentError: with the reason, never with the password.
    """
    personal = (email, email.partition("@")[0], display_name)
    problem = password_problem(password, common_passwords(), personal)
    if problem is not None:
        raise InvalidArgumentError(
            f"{field} cannot be used: {problem.description}.",
            reason=problem.reason,
            field_violations=[FieldViolation(field, problem.description, problem.reason.lower())],
        )
