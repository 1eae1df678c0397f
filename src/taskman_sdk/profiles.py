"""Profiles of the command line: which server, whose tokens (SDK-6, CLI-1).

`config.toml` in the user's configuration folder says the addresses. Tokens are in the keyring of the operating system;
on a machine without one, in `tokens.json` beside it, readable by its owner alone.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from taskman_sdk.credentials import Credentials

__all__ = ["Profile", "ProfileError", "Profiles"]

KEYRING_SERVICE: Final = "taskman"


class ProfileError(ValueError):
    """The configuration cannot be read or written; the message names the file."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A server and somebody's session there.

    Attributes:
        name: what it is called by `--profile`.
        url: the server.
        email: who signed in; for people to read.
        store: where its tokens are: `keyring`, `file`, or empty when there are none.
    """

    name: str
    url: str
    email: str = ""
    store: str = ""


class Profiles:
    """The profiles of this user.

    Args:
        folder: where they are kept; the platform's folder for configuration when not given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            from platformdirs import user_config_path

            folder = user_config_path("taskman", appauthor=False)
        self.folder = folder
        self._config = folder / "config.toml"
        self._tokens = folder / "tokens.json"

    def all(self) -> dict[str, Profile]:
        """Every profile by name.

        Raises:
            ProfileError: the file is damaged.
        """
        found: dict[str, Profile] = {}
        for name, entry in self._read().items():
            if isinstance(entry, dict):
                texts = {key: str(entry.get(key, "")) for key in ("url", "email", "store")}
                found[name] = Profile(name, **texts)
        return found

    def get(self, name: str) -> Profile | None:
        """One profile."""
        return self.all().get(name)

    def save(self, profile: Profile) -> None:
        """Adds or changes a profile."""
        self._write(self.all() | {profile.name: profile})

    def credentials(self, profile: Profile) -> Credentials:
        """The tokens of a profile; new ones are stored where the old ones were."""
        found = self._load(profile)
        return Credentials(
            access_token=str(found.get("access_token", "")),
            refresh_token=str(found.get("refresh_token", "")),
            expires_at=found.get("expires_at"),
            lifetime=float(found.get("lifetime", 0)),
            on_change=lambda changed: self._put(profile, changed),
        )

    def store(self, profile: Profile, credentials: Credentials) -> tuple[Profile, str]:
        """Stores tokens in the keyring, or in a file where there is none.

        Returns:
            The profile with where they are, and a line for the user when it is not the keyring.
        """
        note = ""
        try:
            _keyring().set_password(KEYRING_SERVICE, _account(profile), _dump(credentials))
            place = "keyring"
        except Exception as error:  # keyring backends raise whatever they like
            place = "file"
            note = f"no keyring on this machine ({type(error).__name__}); the tokens are in {self._tokens} (mode 0600)"
        stored = Profile(profile.name, profile.url, profile.email, place)
        if place == "file":
            self._put(stored, credentials)
        else:
            self._change_file(profile, None)
        self.save(stored)
        return stored, note

    def forget(self, profile: Profile) -> None:
        """Removes the tokens of a profile."""
        if profile.store == "keyring":
            try:
                _keyring().delete_password(KEYRING_SERVICE, _account(profile))
            except Exception as error:  # keyring backends raise whatever they like
                raise ProfileError(f"the keyring does not let go of the tokens: {type(error).__name__}") from None
        self._change_file(profile, None)
        self.save(Profile(profile.name, profile.url, profile.email))

    def _load(self, profile: Profile) -> dict[str, Any]:
        if profile.store == "keyring":
            try:
                text = _keyring().get_password(KEYRING_SERVICE, _account(profile))
            except Exception as error:  # keyring backends raise whatever they like
                raise ProfileError(
                    f"the keyring cannot be read ({type(error).__name__}); unlock it, or run `taskman login` again"
                ) from None
            return _parse(text or "")
        return self._tokens_file().get(_account(profile), {}) if profile.store == "file" else {}

    def _put(self, profile: Profile, credentials: Credentials) -> None:
        if profile.store == "keyring":
            _keyring().set_password(KEYRING_SERVICE, _account(profile), _dump(credentials))
        elif profile.store == "file":
            self._change_file(profile, json.loads(_dump(credentials)) if credentials.refresh_token else None)

    def _tokens_file(self) -> dict[str, Any]:
        try:
            return _parse(self._tokens.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ProfileError(f"{self._tokens} cannot be read: {error.strerror}") from None

    def _change_file(self, profile: Profile, tokens: dict[str, Any] | None) -> None:
        kept = self._tokens_file()
        if tokens is None and _account(profile) not in kept:
            return
        kept.pop(_account(profile), None)
        if tokens is not None:
            kept[_account(profile)] = tokens
        self._replace(self._tokens, json.dumps(kept))

    def _read(self) -> dict[str, Any]:
        try:
            found = tomllib.loads(self._config.read_text(encoding="utf-8")).get("profiles", {})
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ProfileError(f"{self._config} cannot be read: {error}") from None
        return found if isinstance(found, dict) else {}

    def _write(self, profiles: dict[str, Profile]) -> None:
        lines: list[str] = []
        for profile in profiles.values():
            lines.append(f"[profiles.{_quote(profile.name)}]")
            entries = {"url": profile.url, "email": profile.email, "store": profile.store}
            lines += [f"{key} = {_quote(value)}" for key, value in entries.items() if value]
            lines.append("")
        self._replace(self._config, "\n".join(lines))

    def _replace(self, path: Path, text: str) -> None:
        """Writes a file whole or not at all, for its owner alone."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{path.name}.")  # made with mode 0600
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ProfileError(f"{path} cannot be written: {error.strerror}") from None


def _keyring() -> Any:
    import keyring

    return keyring


def _account(profile: Profile) -> str:
    return f"{profile.name}@{profile.url}"


def _dump(credentials: Credentials) -> str:
    names = ("access_token", "refresh_token", "expires_at", "lifetime")
    return json.dumps({name: getattr(credentials, name) for name in names})


def _parse(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _quote(text: str) -> str:
    """A TOML basic string: JSON's escapes are among TOML's, once nothing is left as a surrogate pair."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
