"""Certificates of the services: what they say, and how a process takes new ones while it runs."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from taskman_sdk.contract import CALLERS
from taskman_server.cli.certs import certs
from taskman_server.kit.tls import Identity, TlsError, issue, make_authority, service_of, spiffe_id, validity


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_authority(tmp_path)
    issue(tmp_path, "tasks")
    return tmp_path


def identity(folder: Path, clock: Clock) -> Identity:
    return Identity(folder / "tasks.crt", folder / "tasks.key", folder / "ca.crt", clock=clock)


def test_a_certificate_names_the_service_and_where_it_may_be(folder: Path) -> None:
    """OPS-2: SPIFFE id as URI SAN, the service's name, this machine, and what was asked for."""
    path = issue(folder, "users", names=["users.internal", "10.0.0.7"])
    names = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value  # fmt: skip
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://taskman/users"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "users", "users.internal"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.0.0.7"]


def test_keys_are_for_their_owner_alone(folder: Path) -> None:
    """OPS-4: 0600, whatever the umask."""
    for name in ("ca.key", "tasks.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_an_authority_is_never_overwritten(folder: Path) -> None:
    """OPS-2: every certificate rests on it."""
    before = (folder / "ca.crt").read_bytes()
    with pytest.raises(TlsError, match="is there already"):
        make_authority(folder)
    assert (folder / "ca.crt").read_bytes() == before


@pytest.mark.parametrize(
    ("names", "service"),
    [
        ([spiffe_id("iam")], "iam"),
        (["https://example.org", spiffe_id("gateway")], "gateway"),
        ([spiffe_id("stranger")], ""),
        ([spiffe_id("iam"), spiffe_id("tasks")], ""),
        (["spiffe://elsewhere/tasks"], ""),
        ([spiffe_id("tasks/extra")], ""),
        ([], ""),
    ],
)
def test_who_a_certificate_speaks_of(names: list[str], service: str) -> None:
    """OPS-2: exactly one of the eight, of our trust domain, or nobody."""
    assert service_of(names) == service


def test_a_replaced_pair_is_taken_when_it_is_whole(folder: Path) -> None:
    """OPS-4: half of a pair is no pair; a look at the files is made once a second at most."""
    clock = Clock()
    ours = identity(folder, clock)
    old = ours.material
    other = folder / "other"
    other.mkdir()
    for name in ("ca.crt", "ca.key"):
        (other / name).write_bytes((folder / name).read_bytes())
    issue(other, "tasks")
    (folder / "tasks.crt").write_bytes((other / "tasks.crt").read_bytes())
    assert not ours.refresh()  # not a second later
    clock.now = 1.0
    assert not ours.refresh()
    assert "is not the key of" in ours.problem
    assert ours.material == old
    (folder / "tasks.key").write_bytes((other / "tasks.key").read_bytes())
    clock.now = 2.0
    assert ours.refresh()
    assert (ours.problem, ours.version) == ("", 2)
    assert ours.material.certificate == (other / "tasks.crt").read_bytes()
    clock.now = 3.0
    assert not ours.refresh()  # nothing changed


def test_a_reload_that_is_asked_for_is_made_at_once(folder: Path) -> None:
    """OPS-4."""
    ours = identity(folder, Clock())
    issue(folder, "tasks")
    assert ours.reload()
    assert ours.version == 2


def test_the_certificate_of_another_service_is_not_taken(folder: Path) -> None:
    """OPS-2: files that were mixed up do not make us somebody else."""
    ours = identity(folder, Clock())
    issue(folder, "users")
    for end in ("crt", "key"):
        (folder / f"tasks.{end}").write_bytes((folder / f"users.{end}").read_bytes())
    assert not ours.reload()
    assert "'users'" in ours.problem
    assert ours.service == "tasks"


def test_files_that_do_not_fit_are_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """OPS-2: what is wrong, where, what to do; nothing of a key."""
    with pytest.raises(TlsError, match=r"users\.crt cannot be read .*certs init"):
        Identity.of_folder(folder, "users")
    foreign = tmp_path_factory.mktemp("foreign")
    make_authority(foreign)
    (folder / "broken.key").write_text("-----BEGIN PRIVATE KEY-----\nnonsense")
    with pytest.raises(TlsError, match=r"broken\.key is no PEM key") as caught:
        Identity(folder / "tasks.crt", folder / "broken.key", folder / "ca.crt")
    assert "nonsense" not in str(caught.value)
    with pytest.raises(TlsError, match="there is no service 'task'"):
        issue(folder, "task")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(certs, arguments)
    return result.exit_code, result.output


def test_the_command_makes_renews_and_shows(tmp_path: Path) -> None:
    """OPS-2, OPS-4: eight certificates, renewed with new keys under the same authority."""
    folder = tmp_path / "certs"
    where = ("--data", str(tmp_path))
    assert run("init", *where, "--days", "3")[0] == 0
    for service in CALLERS:
        assert Identity.of_folder(folder, service).service == service
    assert timedelta(days=2) < validity(folder / "iam.crt")[1] - datetime.now(UTC) < timedelta(days=4)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run("renew", "iam", *where)[0] == 0
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"iam.crt", "iam.key"}
    code, output = run("show", *where)
    assert (code, output.count("ok ")) == (0, 9)
    code, output = run("init", *where)
    assert code == 1
    assert "is there already" in output


def test_the_command_says_what_cannot_be_used(tmp_path: Path) -> None:
    """OPS-2: a certificate that ended or is missing ends the command with 1."""
    where = ("--certs", str(tmp_path))
    assert run("init", *where)[0] == 0
    issue(tmp_path, "tasks", days=1, now=datetime.now(UTC) - timedelta(days=2))
    (tmp_path / "audit.key").unlink()
    code, output = run("show", *where)
    assert code == 1
    assert "WRONG tasks" in output
    assert "audit.key cannot be read" in output
    code, output = run("renew", "task", *where)
    assert (code, "there is no service 'task'" in output) == (1, True)
