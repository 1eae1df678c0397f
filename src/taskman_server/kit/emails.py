"""E-mail addresses in one normal form, so that an account is found however its address is typed (OPEN-POINTS 3)."""

from __future__ import annotations

import unicodedata
from typing import Final

import email_validator

from taskman_sdk.errors import FieldViolation, InvalidArgumentError

__all__ = ["MAX_LENGTH", "normal_email"]

MAX_LENGTH: Final = 254
# Names for private networks (RFC 6761, RFC 6762): no mail reaches them from outside, and an office may well use them.
_PRIVATE: Final = ("localhost", "local", "test")


def normal_email(text: str, field: str = "email") -> str:
    """The normal form: NFC, lower case, the domain in its ASCII form. It is a fixed point of this function.

    Checked by syntax alone (RFC 5321, RFC 5322 without comments and quoting); no DNS is asked.

    Args:
        text: an address as somebody typed it.
        field: the field of the request that it stood in.

    Raises:
        InvalidArgumentError: it is not an address.
    """
    address = unicodedata.normalize("NFC", text.strip())
    # The library refuses private names; under another ending it checks the rest all the same.
    ending = ".com" if address.lower().rpartition("@")[2].rpartition(".")[2] in _PRIVATE else ""
    try:
        checked = email_validator.validate_email(
            address + ending, check_deliverability=False, allow_smtputf8=False, globally_deliverable=False
        )
    except email_validator.EmailNotValidError as error:
        raise _not_an_address(str(error), field) from None
    ascii_form = checked.ascii_email
    if ascii_form is None or len(ascii_form) > MAX_LENGTH:
        raise _not_an_address("The address is too long.", field)
    return ascii_form.casefold().removesuffix(ending)


def _not_an_address(problem: str, field: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field} is not an e-mail address: {problem}",
        reason="EMAIL_INVALID",
        field_violations=[FieldViolation(field, problem, "string.email")],
    )
