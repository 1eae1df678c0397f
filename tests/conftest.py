"""What every test may use, whatever it tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tests.parts.plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-long",
        action="store_true",
        help="run the chaos tests for as long as a release deserves, not as long as a change does",
    )
    parser.addoption(
        "--docker",
        action="store_true",
        help="build the image and start the Compose project in a Docker engine of the tests' own; needs root",
    )


class FailuresAtOnce:
    """Names each failure when it happens: a run that is cut off never comes to its summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            why = getattr(getattr(report.longrepr, "reprcrash", None), "message", None) or str(report.longrepr)
            terminal.write_line(f"\n{report.nodeid} ({report.when}): {why[:500]}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Only where results come together: an xdist worker has no terminal."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what has to be asked for."""
    if config.getoption("--docker"):
        return
    left = [item for item in items if item.get_closest_marker("docker")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture
def chaos_long(request: pytest.FixtureRequest) -> bool:
    """Whether `--chaos-long` was asked for."""
    return bool(request.config.getoption("--chaos-long"))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
