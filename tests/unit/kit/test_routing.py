"""Topic patterns and exchanges (EVENT-2, OPEN-POINTS 10 and 11)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_server.kit.broker.routing import ALL_EXCHANGES, exchange_of, exchanges_for, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("#", "task.created", True),
        ("#", "task", True),
        ("*", "task", True),
        ("*", "task.created", False),
        ("task.*", "task.created", True),
        ("task.*", "task", False),
        ("task.*", "task.comment.created", False),
        ("task.#", "task", True),
        ("task.#", "task.comment.created", True),
        ("task.#", "tasks.created", False),
        ("*.created", "user.created", True),
        ("#.created", "iam.role.created", True),
        ("#.created", "created", True),
        ("iam.#.created", "iam.created", True),
        ("iam.#.created", "iam.a.b.created", True),
        ("iam.#.created", "iam.a.b.updated", False),
        ("#.#", "task", True),
        ("#.*", "task", True),
        ("*.#.*", "task", False),
        ("#.a.#.a.#", "a.b", False),
        ("#.a.#.a.#", "b.a.b.a.b", True),
    ],
)
def test_patterns_mean_what_rabbitmq_says(pattern: str, name: str, expected: bool) -> None:
    """EVENT-2: `*` is one word, `#` any number of words."""
    assert matches(pattern, name) is expected


WORDS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6).map(".".join)
PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6).map(".".join)


@given(PATTERNS, WORDS)
def test_a_match_agrees_with_a_regular_expression(pattern: str, name: str) -> None:
    """EVENT-2: the same rule said in another way (each word with a dot after it)."""
    parts = {"*": r"[^.]+\.", "#": r"([^.]+\.)*"}
    expression = "".join(parts.get(word, re.escape(word) + r"\.") for word in pattern.split("."))
    assert matches(pattern, name) is (re.fullmatch(expression, name + ".") is not None)


def test_every_event_has_the_exchange_of_its_context() -> None:
    """OPEN-POINTS 11; projects are the task context's, decisions the IAM context's."""
    assert exchange_of("project.created") == exchange_of("task.created") == "taskman.task"
    assert exchange_of("authz.denied") == exchange_of("iam.role.created") == "taskman.iam"
    assert exchange_of("auth.login.succeeded") == "taskman.auth"
    assert exchange_of("weather.changed") is None
    assert exchanges_for("#") == ALL_EXCHANGES
    assert exchanges_for("*.created") == ALL_EXCHANGES
    assert exchanges_for("project.*") == ("taskman.task",)


@pytest.mark.parametrize("pattern", ["", "task.", ".task", "task..x", "Task.*", "task.cre*", "weather.*", "ta sk"])
def test_a_bad_binding_is_refused_by_name(pattern: str) -> None:
    """A misspelt binding would be a queue that hears nothing."""
    with pytest.raises(ValueError, match="binding"):
        exchanges_for(pattern)
