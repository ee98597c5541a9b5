"""What docker-compose.yml, the Dockerfiles and the files around them promise; without an engine."""

from __future__ import annotations

import importlib.util
import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine

from regraft.jobstore import Keys, Scope, Workers
from regraft.settings import Settings
from regraft_api.hub import Hub
from regraft_api.prometheus import Deployment

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
PARSED = yaml.safe_load(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = PARSED["services"]
DOCKERFILES = [*sorted(ROOT.glob("services/**/Dockerfile*")), ROOT / "compose/s3/Dockerfile"]
ONE_SHOT = {"migrate", "keys", "cli", "cli-dataprep"}
OF_OTHERS = {"postgres", "redis", "prometheus", "grafana"}
VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_locked_down_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service.get("cap_add", [])) <= ({"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"})
    assert not service.get("privileged")
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert limits["pids"]
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_what_stays_up_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"]
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


def test_the_order_of_the_start() -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in SERVICES[name]["depends_on"].items()}

    assert waits("migrate") == {"postgres": "service_healthy"}
    assert waits("keys") == {"migrate": "service_completed_successfully"}
    for name in ("api", "dispatcher", "dataprep", "worker", "worker-gpu", "worker-cerebras"):
        bucket = SERVICES[name]["depends_on"]["s3"]
        assert bucket == {"condition": "service_healthy", "required": False}, "without its profile nobody waits for it"
        assert waits(name)["keys"] == "service_completed_successfully"
        assert waits(name)["postgres"] == waits(name)["redis"] == "service_healthy"


def test_profiles() -> None:
    profiles = {name: service["profiles"][0] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {
        "worker-gpu": "gpu",
        "worker-cerebras": "cerebras",
        "s3": "s3",
        "prometheus": "observability",
        "grafana": "observability",
        "cli": "tools",
        "cli-dataprep": "tools",
    }


def test_a_stopped_worker_has_longer_than_a_stage_may_take_to_save() -> None:
    for name in ("dataprep", "worker", "worker-gpu", "worker-cerebras"):
        grace = filled(SERVICES[name]["stop_grace_period"])
        assert int(grace.removesuffix("s")) >= Settings().stop_seconds + 20


def filled(text: str, **given: str) -> str:
    """With its variables as given, or else their defaults."""
    return VARIABLE.sub(lambda match: given.get(match[1], match[2] or ""), text)


def mounted(name: str, **given: str) -> dict[str, str]:
    """What a service sees where, with whether it may write."""
    parts = [filled(one, **given).split(":") for one in SERVICES[name]["volumes"]]
    return {where: f"{what}:{'ro' if rest else 'rw'}" for what, where, *rest in parts}


def test_a_cerebras_worker_is_the_user_whom_the_cluster_knows() -> None:
    site = {"CEREBRAS_UID": "4711", "CEREBRAS_GID": "4700", "CEREBRAS_USER": "news", "CEREBRAS_PASSWD": "/srv/passwd"}
    service, mounts = SERVICES["worker-cerebras"], mounted("worker-cerebras", **site)
    assert filled(service["user"], **site) == "4711:4700"
    assert mounts["/etc/passwd"] == "/srv/passwd:ro"
    assert mounts["/etc/group"] == "/etc/group:ro"
    # The image has a USER of its own, which Python asks before the numbers.
    assert {filled(service["environment"][name], **site) for name in ("USER", "LOGNAME")} == {"news"}
    assert service["environment"].items() >= SERVICES["worker"]["environment"].items()


def test_the_token_program_is_where_the_client_looks_for_it() -> None:
    folder = "/usr/local/cerebras/bin"
    assert mounted("worker-cerebras", CEREBRAS_BIN="/srv/bin")[folder] == "/srv/bin:ro"
    image = (ROOT / "services/worker/Dockerfile.cerebras").read_text()
    assert f"ln -s {folder}/get-cerebras-token /opt/cerebras-links/" in image
    assert "COPY --from=vendor /opt/cerebras-links/ /usr/local/bin/" in image
    assert f":{folder}:" in re.findall(r"^ENV PATH=(\S+)", image, re.MULTILINE)[0]  # for csctl


def test_artifacts_lie_where_a_cluster_reads_them() -> None:
    """By one path in every container and on the cluster; without the settings for it, in the volume."""
    here = "/srv/projects/regraft"
    site = {"CEREBRAS_NFS": "/srv/projects", "STATE": here, "STATE_PATH": here}
    assert mounted("worker-cerebras", **site)["/srv/projects"] == "/srv/projects:rw"
    for name in ("api", "dataprep", "worker", "worker-gpu", "worker-cerebras"):
        home = SERVICES[name]["environment"]["REGRAFT_HOME"]
        assert mounted(name, **site)[filled(home, **site)].startswith(f"{here}:"), name
        assert Settings(home=Path(filled(home, **site))).storage_root == f"file://{here}/storage"
        assert mounted(name)[filled(home)].startswith("state:"), name


def test_nothing_is_reachable_from_outside_and_servers_not_even_from_here() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert filled(port).startswith("127.0.0.1:"), name
    assert not any("ports" in SERVICES[name] for name in ("postgres", "redis", "s3"))
    assert all(SERVICES[name]["networks"] == ["backend"] for name in ("postgres", "redis", "s3"))
    assert PARSED["networks"]["backend"] == {"internal": True}


def test_corpora_are_read_only_to_what_runs_jobs() -> None:
    for name, service in SERVICES.items():
        mounts = [one for one in service.get("volumes", []) if one.startswith("${DATA")]
        writes = [one for one in mounts if not one.endswith(":ro")]
        assert bool(writes) == name.startswith("cli"), name


def test_every_variable_has_its_default_in_the_example() -> None:
    shown = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = VARIABLE.findall(COMPOSE)
    assert len(used) > 30
    for name, default in used:
        assert name in shown, name
        fixed = name in {"REGRAFT_ALLOWED_ROOTS"}  # empty in the example, a fixed folder in containers
        assert fixed or shown[name] == default, name
    section = (ROOT / ".env.example").read_text().partition("docker-compose.yml only")[2]
    assert set(re.findall(r"^(\w+)=", section, re.MULTILINE)) <= {name for name, _ in used}


def test_every_setting_that_is_given_exists_and_no_secret_is_in_an_environment() -> None:
    known = {f"REGRAFT_{name.upper()}" for name in Settings.model_fields}
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert not name.startswith("REGRAFT_") or {name, name.removesuffix("_FILE")} & known
            if re.search("PASSWORD|_KEY|DATABASE_URL|REDIS_URL|CREDENTIALS", name):
                assert value == "" or value.startswith("/run/secrets/"), name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_dockerfile_keeps_the_rules(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"^#\s*syntax=", text, re.MULTILINE), "pulls an image that sites may not have"
    assert ":latest" not in text
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert base.startswith("${") or base in re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE)
    assert defaults["BASE_IMAGE"] == filled("${BASE_IMAGE:-python:3.11-slim-bookworm}")
    assert "PIP_INDEX_URL" in text
    assert "apt-get" not in text
    assert "org.opencontainers.image.title" in text
    if path.name == "Dockerfile":
        assert re.search(r"^USER \$\{UID\}:\$\{GID\}$", text, re.MULTILINE)
        assert "HEALTHCHECK" in text
        assert 'ENTRYPOINT ["dumb-init"' in text
        assert "-c requirements.lock" in text or "-c /tmp/requirements.lock" in text


def test_each_service_is_built_from_stages_of_its_own() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "services/Dockerfile").read_text(), re.MULTILINE)
    for name, service in SERVICES.items():
        if service.get("build", {}).get("dockerfile") == "services/Dockerfile":
            made = service["build"]["args"]["SERVICE"]
            assert {made, f"{made}-environment"} <= set(stages), name
            assert re.search(rf"/{made}(-cuda)?:", service["image"]), name
            assert (ROOT / "services" / made / "pyproject.toml").exists()


def test_images_are_never_the_newest_of_somebody() -> None:
    for name, service in SERVICES.items():
        image = filled(service["image"])
        assert re.search(r":v?\d", image), image
        assert ("build" in service) == (name not in OF_OTHERS)


def requirements_script() -> Any:
    spec = importlib.util.spec_from_file_location("requirements_script", ROOT / "services/requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_an_image_installs_first_is_what_its_distributions_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    script = requirements_script()
    api = script.third_party(["./shared", "./services/api"])
    assert "psycopg[binary]>=3.2" in api
    assert not [one for one in api if re.match("torch|numpy|h5py|regraft", one)]
    worker = script.third_party(["./shared", "./services/worker[adamw8bit]"])
    assert {"torch>=2.6", "torchao>=0.18", "h5py>=3.13"} <= set(worker)


def test_a_package_that_the_lock_does_not_name_is_found(tmp_path: Path) -> None:
    script = requirements_script()
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    (tmp_path / "lock").write_text("\n".join(line for line in lines if not line.startswith(("celery", "typer"))))
    found = script.unlocked((tmp_path / "lock").read_text())
    assert {one.split("==")[0] for one in found} - {"pip", "setuptools", "wheel"} == {"celery", "typer"}


def closure(name: str) -> dict[str, int]:
    """Every distribution that installing `name` brings, with the bytes of its files."""
    found: dict[str, int] = {}
    waiting = [Requirement(name)]
    while waiting:
        asked = waiting.pop()
        one = distribution(asked.name)
        key = f"{asked.name.lower()}[{','.join(sorted(asked.extras))}]"
        if key in found:
            continue
        found[key] = sum(file.size or 0 for file in one.files or [])
        for text in one.requires or []:
            requirement = Requirement(text)
            extras = asked.extras or {""}
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(requirement)
    return found


def test_what_the_api_needs_is_small_and_has_no_tensor_library() -> None:
    found = closure("regraft-api")
    names = {key.partition("[")[0] for key in found}
    assert {"regraft", "fastapi", "celery", "sqlalchemy"} <= names
    assert not names & {"torch", "numpy", "h5py", "safetensors", "tokenizers", "pyarrow", "transformers"}
    assert 20e6 < sum(found.values()) < 120e6
    assert {"torch", "numpy"} <= {key.partition("[")[0] for key in closure("regraft-worker")}, "the walk sees nothing"


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    command = ["sh", str(ROOT / "compose/secrets.sh"), str(tmp_path / "secrets")]
    subprocess.run(command, check=True, capture_output=True)
    made = {path.name: path.read_text().strip() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(PARSED["secrets"])
    assert made["database_url"] == f"postgresql://regraft:{made['postgres_password']}@postgres:5432/regraft"
    assert made["redis_url"] == f"redis://:{made['redis_conf'].split()[1]}@redis:6379/0"
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o444}
    (tmp_path / "secrets" / "redis_url").unlink()
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert again == "made redis_url\n"
    assert {path.name: path.read_text().strip() for path in (tmp_path / "secrets").iterdir()} == made


def test_the_keys_that_the_script_makes_are_keys(tmp_path: Path, engine: Engine) -> None:
    subprocess.run(["sh", str(ROOT / "compose/secrets.sh"), str(tmp_path)], check=True, capture_output=True)
    for name, scope in (("api_key", "admin"), ("metrics_key", "read")):
        assert f"{scope}=/run/secrets/{name}" in SERVICES["keys"]["command"]
        key = (tmp_path / name).read_text().strip()
        Keys(engine).adopt(key, name=name, scope=Scope(scope))
        assert Keys(engine).find(key) is not None


def expressions() -> Iterator[str]:
    rules = yaml.safe_load((ROOT / "helm/regraft/files/alerts.yaml").read_text())
    for rule in rules["groups"][0]["rules"]:
        assert rule["annotations"]["summary"]
        yield rule["expr"]
    for panel in json.loads((ROOT / "compose/grafana/dashboards/regraft.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == datasource()["uid"]
            yield target["expr"]


def datasource() -> dict[str, Any]:
    path = ROOT / "compose/grafana/provisioning/datasources/prometheus.yml"
    found: dict[str, Any] = yaml.safe_load(path.read_text())["datasources"][0]
    return found


def test_dashboards_and_alerts_ask_for_metrics_that_the_api_has(settings: Settings, engine: Engine) -> None:
    registry = CollectorRegistry()
    registry.register(Deployment(engine, Workers(engine), Hub(engine, settings.database_url, on_keys=lambda _: None)))
    told = set(re.findall(r"^# TYPE (\w+)", generate_latest(registry).decode(), re.MULTILINE))
    told |= {"regraft_http_request_seconds", "regraft_leases_lost"}
    wanted = {name for text in expressions() for name in re.findall(r"\bregraft_\w+", text)}
    assert len(wanted) > 8
    for name in wanted:
        assert name in told or re.sub("_(bucket|count|sum|total)$", "", name) in told, name


def test_compose_files_and_scripts_are_where_the_file_says() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            if mount.startswith("./"):
                assert (ROOT / mount.partition(":")[0]).exists()
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).exists()
    prometheus = yaml.safe_load((ROOT / "compose/prometheus/prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == ["api:8000"]


def test_a_build_is_sent_only_what_it_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = {source for path in DOCKERFILES for source in re.findall(r"^COPY ([a-z]\S+) ", path.read_text(), re.M)}
    let_in = tuple(line[1:] for line in ignored if line.startswith("!"))
    assert copied
    assert all(source.startswith(let_in) for source in copied)


def test_python_alone_is_enough_to_list_requirements() -> None:
    command = [sys.executable, "-I", "-S", "services/requirements.py", "list", "./shared", "./services/api"]
    assert "fastapi" in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
