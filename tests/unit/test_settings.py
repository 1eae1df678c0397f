"""The settings tree: where values come from, and what is said of wrong ones (OPS-1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskman_server.settings import NO_FILE, RateLimit, Settings, SettingsError, load


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """OPS-1: flags, environment, taskman.toml, in this order."""
    file = tmp_path / "taskman.toml"
    file.write_text('port = 1\nhost = "127.0.0.2"\nmail_from = "a@example.org"\n')
    found = load({"port": 3, "host": None}, environ={"TASKMAN_PORT": "2", "TASKMAN_HOST": "127.0.0.3"}, config=file)
    assert (found.port, found.host, found.mail_from) == (3, "127.0.0.3", "a@example.org")


@pytest.mark.parametrize("variable", ["TASKMAN_DATBASE_URL", "TASKMAN_PROT", "TASKMAN_DATABASE_URLS"])
def test_a_name_that_is_no_setting_is_refused_at_start(variable: str) -> None:
    """OPS-1: a bad key is named, with the one that was probably meant."""
    with pytest.raises(SettingsError, match=variable):
        load(environ={variable: "x"}, config=NO_FILE)


def test_the_setting_that_was_probably_meant_is_named() -> None:
    """OPS-1."""
    with pytest.raises(SettingsError, match="Did you mean TASKMAN_DATABASE_URL"):
        load(environ={"TASKMAN_DATBASE_URL": "x"}, config=NO_FILE)


def test_a_wrong_name_in_the_file_is_refused(tmp_path: Path) -> None:
    """OPS-1."""
    file = tmp_path / "taskman.toml"
    file.write_text("prot = 8080\n")
    with pytest.raises(SettingsError, match=r"'prot' is no setting. Did you mean port"):
        load(environ={}, config=file)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"port": "eighty"}, "--port"),
        ({"port": 70000}, "--port"),
        ({"signup": "everyone"}, "--signup"),
        ({"rate_limit": "fast"}, "--rate-limit"),
        ({"rate_limit": "0/s"}, "--rate-limit"),
        ({"trusted_proxies": "10.0.0.0/99"}, "--trusted-proxies"),
        ({"admin_email": "a@example.org"}, "admin_email and admin_password go together"),
        ({"database_urls": {"billing": "x"}}, "there is no service 'billing'"),
    ],
)
def test_a_wrong_value_is_named_with_where_it_stands(flags: dict[str, object], named: str) -> None:
    """OPS-1: every complaint names the setting by the name that the person used."""
    with pytest.raises(SettingsError, match=named):
        load(flags, environ={}, config=NO_FILE)


def test_a_file_that_is_named_must_be_there_and_readable(tmp_path: Path) -> None:
    """OPS-1."""
    with pytest.raises(SettingsError, match="no such file"):
        load(environ={}, config=tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("port = = 1")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(environ={}, config=tmp_path / "bad.toml")


def test_variables_of_the_client_are_none_of_the_servers_business() -> None:
    """CLI-1: TASKMAN_URL and TASKMAN_TOKEN may be set where the server runs."""
    assert load(environ={"TASKMAN_URL": "http://x", "TASKMAN_TOKEN": "t"}, config=NO_FILE) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TASKMAN_DATABASE_URL", "mysql://db/x"),
        ("TASKMAN_DATABASE_URL", "postgresql://db"),
        ("TASKMAN_TASKS_DATABASE_URL", "sqlite:///x"),
        ("TASKMAN_REDIS_URL", "http://redis"),
        ("TASKMAN_BROKER_URL", "kafka://broker"),
        ("TASKMAN_SECRET_KEY", "short"),
        ("TASKMAN_PEER_ADDRESS", "{host}:1"),
    ],
)
def test_an_address_of_the_cluster_must_be_one(variable: str, value: str) -> None:
    """OPS-2: refused at start with the name of the setting, and a secret is not repeated."""
    name = "DATABASE_URLS: the URL of tasks" if variable.startswith("TASKMAN_TASKS") else variable
    with pytest.raises(SettingsError, match=name) as caught:
        load(environ={variable: value}, config=NO_FILE)
    assert value not in str(caught.value)


def test_the_name_of_a_service_is_put_into_its_urls() -> None:
    """OPS-2: one line for all databases, and one for the service that is elsewhere."""
    settings = load(
        environ={
            "TASKMAN_DATABASE_URL": "postgresql://db/taskman_{service}",
            "TASKMAN_AUDIT_DATABASE_URL": "postgresql://elsewhere/log",
            "TASKMAN_PEER_ADDRESS": "dns:///{service}:{port}",
            "TASKMAN_TASKS_ADDRESS": "10.0.0.1:1,10.0.0.2:1",
        },
        config=NO_FILE,
    )
    assert settings.cluster
    assert settings.database_of("users") == "postgresql://db/taskman_users"
    assert settings.database_of("audit") == "postgresql://elsewhere/log"
    assert settings.address_of("users") == "dns:///users:50053"
    assert settings.address_of("tasks") == "10.0.0.1:1,10.0.0.2:1"
    with pytest.raises(SettingsError, match="TASKMAN_BROKER_URL is not set"):
        settings.broker()


def test_a_process_of_the_cluster_says_which_database_it_misses() -> None:
    """OPS-2."""
    with pytest.raises(SettingsError, match="TASKMAN_TASKS_DATABASE_URL"):
        Settings().database_of("tasks")


@pytest.mark.parametrize("url", ["http://mail", "mail.example.org:25", "smtp://", "smtp://host:notaport"])
def test_an_address_of_a_mail_server_must_be_one(url: str) -> None:
    """NOTIFY-1: refused at start, not with the first mail."""
    with pytest.raises(SettingsError, match="TASKMAN_SMTP_URL"):
        load(environ={"TASKMAN_SMTP_URL": url}, config=NO_FILE)


def test_who_may_sign_up_depends_on_who_can_reach_the_server() -> None:
    """Open on loopback, by invitation elsewhere, unless said."""
    assert load(environ={}, config=NO_FILE).signup == "open"
    assert load({"host": "0.0.0.0"}, environ={}, config=NO_FILE).signup == "invite"
    assert load({"host": "0.0.0.0", "signup": "open"}, environ={}, config=NO_FILE).signup == "open"


def test_rate_limits_are_written_as_people_say_them() -> None:
    """GATE-3."""
    for text, limit in {"5/s": (5, 1), "100/min": (100, 60), "9/h": (9, 3600)}.items():
        assert load({"rate_limit": text}, environ={}, config=NO_FILE).rate_limit == RateLimit(
            requests=limit[0], seconds=limit[1]
        )
    assert load({"rate_limit": "off"}, environ={}, config=NO_FILE).rate_limit is None


def test_a_password_is_not_shown() -> None:
    """No secret in a log or a repr."""
    flags = {"admin_email": "a@example.org", "admin_password": "correct horse"}
    assert "correct horse" not in repr(load(flags, environ={}, config=NO_FILE))


def test_the_public_address_follows_from_the_port_that_was_taken() -> None:
    """OPS-1: links in mails lead to the server that is running."""
    settings = load(environ={}, config=NO_FILE).with_port(1234)
    assert (settings.public_url, settings.issuer) == ("http://127.0.0.1:1234", "http://127.0.0.1:1234")
    named = load({"public_url": "https://tasks.example/"}, environ={}, config=NO_FILE).with_port(1234)
    assert named.public_url == "https://tasks.example"
