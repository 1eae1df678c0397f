"""The README's commands and the documentation's form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DECISIONS = sorted((REPO / "docs" / "decisions").glob("[0-9]*.md"))
PARTS = ["Context", "Decision", "Consequences"]


def commands(text: str) -> list[str]:
    """The lines of the `bash` blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_has_two_commands_one_to_run_and_one_to_check() -> None:
    """OPS-1: each is one line, to be pasted."""
    run, check = commands((REPO / "README.md").read_text(encoding="utf-8"))
    assert run.endswith(".venv/bin/taskman-server up")
    assert check.endswith(".venv/bin/nox")


def test_continuous_integration_runs_the_readmes_command() -> None:
    """OPS-10: what is green there is what the README promises, so the two are one string."""
    script = (REPO / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    body = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert body == [commands((REPO / "README.md").read_text(encoding="utf-8"))[1]]
    assert (REPO / ".ci" / "run").stat().st_mode & 0o111


def test_every_check_that_the_documents_name_exists() -> None:
    """A `nox -s name` in a document is a session of the noxfile."""
    noxfile = (REPO / "noxfile.py").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^@nox\.session\ndef (\w+)", noxfile, flags=re.MULTILINE))
    documents = [REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").rglob("*.md")]
    text = "".join(path.read_text(encoding="utf-8") for path in documents)
    named = set(re.findall(r"nox -s (\w+)", text))
    assert named
    assert named <= sessions


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_the_uniform_form(path: Path) -> None:
    """Number and title, a status, the same parts in the same order, at most forty lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert re.fullmatch(rf"# {int(path.name[:4])}\. .+", lines[0])
    assert re.search(r"^Status: (accepted|superseded by \d{4})", text, flags=re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == PARTS
    assert len(lines) <= 40


def test_decisions_are_numbered_without_gap_and_listed() -> None:
    """The index names each once, in order."""
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    index = (REPO / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"\((\d{4}-[\w-]+\.md)\)", index) == [path.name for path in DECISIONS]


def test_no_page_needs_the_network() -> None:
    """The site is read offline: no fonts, scripts or pictures from elsewhere."""
    config = (REPO / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config
    assert not re.search(r"^\s*-\s*(social|privacy)\b", config, flags=re.MULTILINE)
    remote = [
        f"{path.relative_to(REPO)}: {match}"
        for path in (REPO / "docs").rglob("*.md")
        for match in re.findall(
            r"!\[[^]]*\]\(https?:[^)]*\)|<(?:img|script|link)[^>]*https?:[^>]*>", path.read_text("utf-8")
        )
    ]
    assert remote == []
