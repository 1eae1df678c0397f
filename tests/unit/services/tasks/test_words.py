"""How texts are cut into words for the search (TASK-6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_server.services.tasks.store.search import fold, phrases, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fix: Kanban-Board!", "fix kanban board"),
        ("WEB-42", "web 42"),
        ("Ångström naïve Straße", "angstrom naive strasse"),
        ("A\u030angstro\u0308m", "angstrom"),
        ("snake_case (v2.0)", "snake case v2 0"),
        ("ΑΘΗΝΑΣ", "αθηνασ"),
        ("任务 задача", "任务 задача"),
        ("--- !? ***", ""),
    ],
)
def test_words_are_folded_runs_of_letters_and_digits(text: str, expected: str) -> None:
    """TASK-6: the same whatever the case, the diacritics and their encoding."""
    assert words(text) == expected


def test_a_query_asks_for_each_word_once() -> None:
    """TASK-6: what has neither letter nor digit asks for nothing."""
    assert phrases('fix "WEB-42" * FIX - (kanban)') == ["fix", "web 42", "kanban"]
    assert phrases('" * - ( ) ^ : +') == []


@given(st.text())
def test_nothing_in_a_word_is_syntax(text: str) -> None:
    """TASK-6: hostile queries lose all that FTS5 could read as more than words."""
    for phrase in phrases(text):
        assert phrase
        assert all(piece.isalnum() for piece in phrase.split(" "))


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    """TASK-6: so that a title is found by itself."""
    assert fold(fold(text)) == fold(text)
    assert words(words(text)) == words(text)
