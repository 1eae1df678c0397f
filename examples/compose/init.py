"""Makes the secrets of this Compose project: passwords, and for each process a folder with what that process may know.

Usage: `init.py FOLDER [--rotate]`. Only the standard library is needed. What exists is kept, so that it can be run
again after an upgrade; `--rotate` makes new passwords (README.md says what has to be restarted then).

The folder is closed to others (0700), the files in it can be read by all (0444): that is how a container's own user
gets to read a file that is mounted into it, and nobody else on the machine does.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

SERVICES = ("authentication", "authorization", "users", "iam", "tasks", "audit", "notifications")
PROCESSES = (*SERVICES, "gateway")
# Who else has a password here.
OTHERS = ("postgres", "grafana", "openbao", "elastic", "kibana", "filebeat", "monitoring")
DATABASES = {"audit": "timescaledb"}  # the rest are on `postgres`


def password() -> str:
    """256 bits; letters, digits, - and _, so that it can stand in any URL and configuration file."""
    return secrets.token_urlsafe(32)


def rabbitmq_hash(text: str) -> str:
    """A password as RabbitMQ keeps it: salt and salted SHA-256, in base64."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + text.encode()).digest()).decode()


def redis_users(passwords: dict[str, str]) -> str:
    """Redis' ACL: each process its own keys and channels; `health` may ping, and that is all it may."""
    lines = ["user default off resetchannels -@all", "user health on nopass resetchannels resetkeys -@all +ping"]
    for name in PROCESSES:
        digest = hashlib.sha256(passwords[f"redis/{name}"].encode()).hexdigest()
        lines.append(
            f"user {name} on #{digest} resetkeys ~taskman:{name}:* resetchannels &taskman:* "
            "-@all +@connection +@read +@write +@scripting +@pubsub +@transaction -@dangerous +time"
        )
    return "\n".join(lines) + "\n"


def rabbitmq_definitions(passwords: dict[str, str]) -> str:
    """RabbitMQ's virtual host and a user for each service, who may use the exchanges and queues of services alone.

    Exchanges, queues and bindings are declared by the processes themselves.
    """
    users = [
        {"name": name, "password_hash": rabbitmq_hash(passwords[f"rabbitmq/{name}"]),
         "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [], "limits": {}}
        for name in SERVICES
    ]  # fmt: skip
    # Each process declares the queues of all, so that no event is lost to a service that has never run; to declare one
    # with dead letters takes the right to read it. Those go through the default exchange, which is only written to.
    own = rf"taskman\.[a-z]+|({'|'.join(SERVICES)})\..+|amq\.gen-.+"
    rights = {"configure": f"^({own})$", "write": rf"^({own}|amq\.default)$", "read": f"^({own})$"}
    permissions = [{"user": name, "vhost": "taskman", **rights} for name in SERVICES]
    definitions = {"vhosts": [{"name": "taskman"}], "users": users, "permissions": permissions}
    return json.dumps(definitions, indent=2) + "\n"


def settings_of(name: str, passwords: dict[str, str]) -> str:
    """The secret part of a process's settings, as its `taskman.toml`."""
    values = {"secret_key": passwords["secret_key"]}
    values["redis_url"] = f"redis://{name}:{quote(passwords[f'redis/{name}'])}@redis:6379"
    if name in SERVICES:
        host = DATABASES.get(name, "postgres")
        account = f"taskman_{name}:{quote(passwords[f'database/{name}'])}"
        values["database_urls"] = f"postgresql://{account}@{host}:5432/taskman_{name}"
        values["broker_url"] = f"amqp://{name}:{quote(passwords[f'rabbitmq/{name}'])}@rabbitmq:5672/taskman"
    if name == "authentication" and (email := os.environ.get("TASKMAN_ADMIN_EMAIL")):
        values |= {"admin_email": email, "admin_password": passwords["administrator"]}
    if name == "notifications":
        values["smtp_url"] = os.environ.get("TASKMAN_SMTP_URL") or "smtp://mailpit:1025"
    lines = []
    for key, value in values.items():
        text = json.dumps(value)  # a TOML basic string, as nothing here needs more escaping than JSON has
        lines.append(f"database_urls = {{ {name} = {text} }}" if key == "database_urls" else f"{key} = {text}")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Puts a file in place at once, so that nobody reads half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.write_text(text, encoding="utf-8")
    partial.chmod(0o444)
    partial.replace(path)


def make(folder: Path, *, rotate: bool = False) -> list[str]:
    """Makes what is missing; all anew with `rotate`.

    Returns:
        The names of the passwords that are new.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    kept = folder / "passwords.json"
    passwords: dict[str, str] = {} if rotate or not kept.exists() else json.loads(kept.read_text(encoding="utf-8"))
    names = [
        *OTHERS, "secret_key", "administrator",
        *(f"database/{name}" for name in SERVICES),
        *(f"rabbitmq/{name}" for name in SERVICES),
        *(f"redis/{name}" for name in PROCESSES),
    ]  # fmt: skip
    new = [name for name in names if name not in passwords]
    passwords |= {name: password() for name in new}
    write(kept, json.dumps(passwords, indent=2) + "\n")
    kept.chmod(0o400)  # no container gets this one
    for name in ("others", "databases", "processes", *(f"processes/{name}" for name in PROCESSES)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name).chmod(0o755)
    for name in OTHERS:
        write(folder / "others" / name, passwords[name])
    for name in SERVICES:
        write(folder / "databases" / name, passwords[f"database/{name}"])
    for name in PROCESSES:
        write(folder / "processes" / name / "taskman.toml", settings_of(name, passwords))
    write(folder / "redis.acl", redis_users(passwords))
    # The hashes have a new salt each time: only a changed password is worth a changed file.
    if any(name.startswith("rabbitmq/") for name in new) or not (folder / "rabbitmq.json").exists():
        write(folder / "rabbitmq.json", rabbitmq_definitions(passwords))
    write(folder / "kibana.yml", kibana(passwords))
    return new


def kibana(passwords: dict[str, str]) -> str:
    """Kibana's configuration, which holds its password."""
    keys = hashlib.sha256(("kibana " + passwords["secret_key"]).encode()).hexdigest()
    return (
        'server.host: "0.0.0.0"\n'
        'elasticsearch.hosts: ["http://elasticsearch:9200"]\n'
        "elasticsearch.username: kibana_system\n"
        f"elasticsearch.password: {json.dumps(passwords['kibana'])}\n"
        f"xpack.encryptedSavedObjects.encryptionKey: {keys}\n"
        "telemetry.enabled: false\n"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rotate", action="store_true", help="new passwords, all of them")
    arguments = parser.parse_args()
    new = make(arguments.folder, rotate=arguments.rotate)
    done = f"{len(new)} new passwords in {arguments.folder}" if new else f"{arguments.folder} is complete"
    sys.stdout.write(done + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
