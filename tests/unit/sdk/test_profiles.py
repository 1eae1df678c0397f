"""Profiles and where their tokens are (SDK-6, CLI-1)."""

from __future__ import annotations

import stat
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest

from taskman_sdk import AsyncTaskMan
from taskman_sdk.credentials import Credentials
from taskman_sdk.profiles import Profile, ProfileError, Profiles

HERE = Profile("work", "http://tasks.test", "ada@example.org")


class Memory(keyring.backend.KeyringBackend):
    """A keyring of the test's own."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Broken(Memory):
    def set_password(self, service: str, username: str, password: str) -> None:
        raise keyring.errors.NoKeyringError


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    backend = Memory()
    for name in ("get_password", "set_password", "delete_password"):
        monkeypatch.setattr(keyring, name, getattr(backend, name))
    return backend


@pytest.fixture
def no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "set_password", Broken().set_password)


def tokens() -> Credentials:
    return Credentials("access-1", "refresh-1", 1e10, 900)


def test_tokens_are_in_the_keyring_and_in_no_file(memory: Memory, tmp_path: Path) -> None:
    """SDK-6"""
    stored, note = Profiles(tmp_path).store(HERE, tokens())
    assert (stored.store, note) == ("keyring", "")
    assert "refresh-1" in memory.kept["taskman", "work@http://tasks.test"]
    assert all("refresh-1" not in path.read_text() for path in tmp_path.iterdir())
    again = Profiles(tmp_path)
    found = again.get("work")
    assert found == Profile("work", "http://tasks.test", "ada@example.org", "keyring")
    assert again.credentials(found) == tokens()


def test_without_a_keyring_they_are_in_a_file_for_the_owner_alone(no_keyring: None, tmp_path: Path) -> None:
    """SDK-6: and one line tells so."""
    profiles = Profiles(tmp_path / "new")
    stored, note = profiles.store(HERE, tokens())
    file = tmp_path / "new" / "tokens.json"
    assert stored.store == "file"
    assert str(file) in note
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert profiles.credentials(stored) == tokens()


@pytest.mark.parametrize("place", ["keyring", "file"])
def test_new_tokens_are_stored_where_the_old_ones_were(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDK-6: a rotated refresh token that is not stored is a lost session."""
    backend = Memory() if place == "keyring" else Broken()
    for name in ("get_password", "set_password", "delete_password"):
        monkeypatch.setattr(keyring, name, getattr(backend, name))
    profiles = Profiles(tmp_path)
    stored, _ = profiles.store(HERE, tokens())
    profiles.credentials(stored).store("access-2", "refresh-2", 900)
    assert profiles.credentials(stored).refresh_token == "refresh-2"
    profiles.forget(stored)
    assert profiles.get("work") == HERE
    assert all("refresh" not in path.read_text() for path in tmp_path.iterdir())
    assert backend.kept == {}


def test_a_profile_is_for_the_sdk_too_and_its_tokens_for_its_server_alone(
    no_keyring: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDK-6"""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("TASKMAN_URL", "TASKMAN_TOKEN", "TASKMAN_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    Profiles().store(HERE, tokens())
    client = AsyncTaskMan(profile="work")
    assert (client.base_url, client.credentials.access_token) == ("http://tasks.test", "access-1")
    assert AsyncTaskMan("http://elsewhere.test", profile="work").credentials.access_token == ""
    with pytest.raises(ValueError, match="no profile 'home'"):
        AsyncTaskMan(profile="home")


def test_odd_names_survive_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    """CLI-1"""
    profiles = Profiles(tmp_path)
    odd = Profile('a "b".c\n', "http://x", "ü@example.org")
    profiles.save(odd)
    profiles.save(HERE)
    assert profiles.all() == {odd.name: odd, "work": HERE}
    (tmp_path / "config.toml").write_text("[[[")
    with pytest.raises(ProfileError, match=r"config\.toml cannot be read"):
        profiles.all()
