"""The normal form of e-mail addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk.errors import InvalidArgumentError
from taskman_server.kit.emails import normal_email


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("  Ann.Example@Example.COM ", "ann.example@example.com"),
        ("x@BÜCHER.de", "x@xn--bcher-kva.de"),
        ("admin@localhost", "admin@localhost"),
        ("root@office.local", "root@office.local"),
        ("ann+tag@mail.TEST", "ann+tag@mail.test"),
    ],
)
def test_an_address_has_one_form_however_it_is_typed(typed: str, normal: str) -> None:
    """OPEN-POINTS 3: case-folded and normalized."""
    assert normal_email(typed) == normal


@pytest.mark.parametrize(
    "text",
    ["", "ann", "@example.com", "ann@", "a b@example.com", "ann@exa mple.com", "\"q\"@x.de", "a@[1.2.3.4]",
     "a" * 250 + "@x.de", "ann@example.com\nBcc: b@x.de", "ünï@example.com", "ann@-x.de", "ann@x..de", "a@b@c.de"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_its_field(text: str) -> None:
    """USER-1."""
    with pytest.raises(InvalidArgumentError) as caught:
        normal_email(text, "user.email")
    assert caught.value.reason == "EMAIL_INVALID"
    assert caught.value.field_violations[0].field == "user.email"


@given(st.text(max_size=40), st.sampled_from(["example.com", "localhost", "Straße.de", "a.TEST", "x"]))
def test_the_normal_form_is_a_fixed_point(local: str, domain: str) -> None:
    """OPEN-POINTS 3: what was normalised stays as it is."""
    try:
        once = normal_email(f"{local}@{domain}")
    except InvalidArgumentError:
        return
    assert normal_email(once) == once
    assert once == once.casefold()
