"""`taskman login|logout|whoami|register`."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from taskman_sdk.cli._app import command, state
from taskman_sdk.cli._output import note, result, show


def _ask(email: str | None, password_stdin: bool, *, confirm: bool = False) -> tuple[str, str]:
    if not email:
        if not sys.stdin.isatty() or password_stdin:
            raise click.UsageError("Say who: --email ADDRESS.")
        email = str(click.prompt("E-mail", err=True))
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))
    else:
        raise click.UsageError("There is no terminal to ask for the password on. Pipe it in with --password-stdin.")
    if not password:
        raise click.UsageError("The password is empty.")
    return email, password


@command("login", short_help="Sign in and keep the session.")
@click.option("--email", help="Who; asked for on a terminal.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of stdin.")
def login(email: str | None, password_stdin: bool) -> None:
    """Sign in. The tokens are kept in the keyring of the system, or in a file that you alone can read.

    \b
    Examples:
      taskman login --url https://tasks.example
      echo "$PASSWORD" | taskman login --email ada@example.org --password-stdin
      taskman login --profile work --url https://tasks.work.example
    """
    from taskman_sdk.profiles import Profile

    current = state()
    current.signing_in = True
    email, password = _ask(email, password_stdin)
    with current.anonymous() as client:
        client.auth.login(email=email, password=password)
        profile = Profile(current.profile, client.base_url, email)
        stored, remark = current.profiles.store(profile, client.credentials)
    if remark:
        note(f"Note: {remark}.")
    result(
        {"profile": stored.name, "url": stored.url, "email": email, "store": stored.store},
        f"Signed in to {stored.url} as {email}.",
        lambda _: email,
    )


@command("logout", short_help="End the session and forget it.")
@click.option("--everywhere", is_flag=True, help="End your sessions on all devices.")
def logout(everywhere: bool) -> None:
    """End the session on the server and remove its tokens from this machine.

    \b
    Examples:
      taskman logout
      taskman logout --everywhere
    """
    from taskman_sdk.errors import UnauthenticatedError

    current = state()
    profile = current.current()
    if not profile.store and not current.token:
        note("You were not signed in.")
        return
    ended = 0
    with suppress(UnauthenticatedError):  # over already; what is left is to forget it
        ended = current.client().auth.logout(everywhere=everywhere).ended_sessions
    if profile.store:
        current.profiles.forget(profile)
    result({"ended_sessions": ended}, f"Signed out of {profile.url}.", lambda _: str(ended))


@command("whoami", short_help="Show who you are signed in as.")
def whoami() -> None:
    """Show who you are signed in as, and where.

    \b
    Examples:
      taskman whoami
      taskman whoami -o quiet
    """
    current = state()
    client = current.client()
    show(
        client.users.get_me(),
        [
            ("Name", lambda u: u.display_name),
            ("E-mail", lambda u: u.email),
            ("Id", lambda u: u.id),
            ("Server", lambda _: client.base_url),
            ("Profile", lambda _: current.profile),
        ],
        lambda u: str(u.email),
    )


@command("register", short_help="Sign up on a server.")
@click.option("--email", help="Your address; asked for on a terminal.")
@click.option("--name", help="The name that others see; the address' first part when not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of stdin.")
def register(email: str | None, name: str | None, password_stdin: bool) -> None:
    """Sign up, on a server that lets everyone in.

    \b
    Examples:
      taskman register --url http://127.0.0.1:8080
      echo "$PASSWORD" | taskman register --email ada@example.org --name Ada --password-stdin
    """
    current = state()
    current.signing_in = True
    email, password = _ask(email, password_stdin, confirm=True)
    with current.anonymous() as client:
        answer = client.auth.register(email=email, password=password, display_name=name or email.partition("@")[0])
    result(answer, answer.next_step or f"Signed up as {answer.email}. Now `taskman login`.", lambda a: str(a.email))
