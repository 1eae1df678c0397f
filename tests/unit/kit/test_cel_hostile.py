"""An expression written to hurt: it is refused or answered quickly, and the process lives (AUTHZ-3)."""

from __future__ import annotations

from typing import Any

import pytest

from taskman_server.kit.cel import (
    BOOL,
    INT,
    MAP,
    STRING,
    CelError,
    CelTooComplex,
    Environment,
    Limits,
    Program,
    list_of,
    nullable,
)

ENVIRONMENT = Environment(
    {"b": BOOL, "n": INT, "s": STRING, "t": nullable(STRING), "labels": list_of(STRING), "m": MAP}
)
LONG = "a" * 64_000
BINDINGS: dict[str, Any] = {"b": True, "n": 1, "s": LONG + "b", "t": LONG, "labels": ["a" * 100] * 500, "m": {"m": 1}}
# What would stall a service runs for minutes or for ever; all of these together take a second or two.
pytestmark = pytest.mark.timeout(30)


def within_bounds(text: str) -> Program | CelError:
    """Compile, and evaluate when that is allowed; both must end (see `pytestmark`)."""
    outcome: Program | CelError
    try:
        outcome = ENVIRONMENT.compile(text)
        outcome.test(BINDINGS)
    except CelError as error:
        outcome = error
    assert isinstance(outcome, Program) or len(str(outcome)) < 500
    return outcome


@pytest.mark.parametrize(
    "text",
    [
        " || ".join(["s == 'x'"] * 20_000),
        "s == '" + "a" * 10_000_000 + "'",
        "(" * 20_000 + "b" + ")" * 20_000,
        "(" * 2_000 + "b" + ")" * 2_000,
        "[" * 4_096,
        "{1:" * 1_000 + "1" + "}" * 1_000,
        "m" + "[m" * 1_000 + "]" * 1_000 + " == 1",
        "m" + ".a" * 2_000 + " == 1",
        "+".join(["n"] * 2_000) + " == 1",
        "&&".join(["b"] * 1_300),
        "b?b:" * 1_000 + "b",
        "size(" * 800 + "s" + ")" * 800 + " == 1",
        "[" + ",".join(["n"] * 2_000) + "] == []",
        "labels.exists(a, labels.exists(c, labels.exists(d, a + c + d == s)))",
        "labels.exists(x," * 250 + "b" + ")" * 250,
        "labels.map(x, x + x).map(x, x + x).map(x, x + x).size() == 1",
        "[[1]].map(x, [x, x]).map(x, [x, x]) == [[[[1]]]]",
        "labels.filter(x, b).exists(x, b)",
        "[" + ",".join(["s"] * 100) + "].exists(x, x + s + s + s == t)",
        " + ".join(["s"] * 20) + " == t",
        "labels.exists(x, s.matches('a+b'))",
        "[s, s, s].exists(x, x.matches('a+b'))",
        "s.matches('(?:.?){1000}x')",
        "s.matches('(.{0,100}){10}x')",
        "s.matches('a{0,1000}b')",
        "s.matches('" + "a?" * 400 + "')",
        " || ".join(["s.matches('" + "a?" * 60 + "')"] * 5),
        "s.matches(t)",
    ],
)
def test_what_would_cost_too_much_is_refused(text: str) -> None:
    """AUTHZ-3: size, depth, macros over macros, joined strings and large patterns have limits."""
    assert isinstance(within_bounds(text), CelTooComplex)


@pytest.mark.parametrize(
    "text",
    [
        "!" * 4_090 + "b",
        "-" * 4_080 + "n == 1",
        "'" * 4_095,
        "'a" * 2_000,
        '"""' * 1_300,
        "r'" * 2_000,
        '"' + "\\\\" * 2_000,
        "has(" * 1_000 + ")" * 1_000,
        "has(m.m)" * 500,
        "//" * 2_000,
        "/*" * 2_000,
        "." * 4_000,
        "?" * 4_000,
        "a{" * 2_000,
        "\n" * 4_000 + "b",
        "b" + "\u2028" * 100,
        "s.matches('(a+)+$')",
        "s.matches('(a|a)*(a|a)*(a|a)*c')",
        "s.matches('((a{100}){100}){100}')",
        "labels.all(x, x.matches('(a*)*b'))",
        "s.contains(t) && t.contains(s) && s.startsWith(t) && s.endsWith(t)",
        "labels.all(x, s.contains(x) && t.contains(x))",
        "[" + ",".join(["s"] * 200) + "].all(x, x == s)",
        "timestamp('" + "9" * 4_000 + "') == timestamp('" + "9" * 10 + "')",
        "duration('" + "1h" * 1_900 + "') == duration('1h')",
        "n == " + "9" * 4_000,
        "1e" + "9" * 4_000 + " == 1.0",
        "s == '" + "\\u0041" * 600 + "'",
        "-9223372036854775808 / -1 == n || -9223372036854775808 % -1 == n",
    ],
)
def test_what_only_looks_dangerous_is_answered_quickly(text: str) -> None:
    """AUTHZ-3: whatever the answer, it comes at once and the process goes on."""
    assert isinstance(within_bounds(text), Program | CelError)
    assert ENVIRONMENT.compile("b && n == 1").test(BINDINGS)


def test_an_ordinary_long_policy_is_within_the_limits() -> None:
    """AUTHZ-3: the limits leave room for what people write."""
    texts = [f"(s == 'state-{n}' && n > {n} && 'label-{n}' in labels)" for n in range(40)]
    assert ENVIRONMENT.compile(" || ".join(texts)).test({**BINDINGS, "s": "state-0", "labels": ["label-0"]})
    assert ENVIRONMENT.compile("s.matches('^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{12}$') || b").test(BINDINGS)
    assert ENVIRONMENT.compile("labels.exists(l, l.matches('^v[0-9]+$')) || b").test(BINDINGS)


def test_limits_can_be_set_for_an_environment() -> None:
    """AUTHZ-3: a deployment with long generated policies may allow more, a public filter less."""
    small = Environment({"n": INT}, limits=Limits(text_length=20, nodes=5))
    with pytest.raises(CelTooComplex, match="at most 20"):
        small.compile("n == 1 || n == 2 || n == 3")
    with pytest.raises(CelTooComplex, match="more than 5 parts"):
        small.compile("n==1||n==2")
    assert small.compile("n == 1").test({"n": 1})
