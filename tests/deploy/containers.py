"""A deployment by docker-compose.yml on a real engine, from a clean clone of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from helpers import eventually
from regraft.client import Client
from regraft.embedded import free_port
from regraft.jobs import JOB_ENDED

ROOT = Path(__file__).parents[2]
PROJECT = "regraft-test"
OF_OURS = ("api", "dispatcher", "dataprep", "worker")


def clean_clone(folder: Path) -> Path:
    """HEAD as a stranger gets it; and the wheels that this site may have put into `wheels/`."""
    source = folder / "regraft"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    for wheel in (ROOT / "wheels").glob("*.whl"):
        shutil.copy(wheel, source / "wheels")
    return source


class Compose:
    """`docker compose` in a folder; raises with the output of a command that fails."""

    def __init__(self, source: Path, settings: dict[str, str]) -> None:
        self.source = source
        self._settings: dict[str, str] = {}
        self.configure(**settings)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REGRAFT_")}
        self._environment = {**kept, "COMPOSE_PROJECT_NAME": PROJECT, "DOCKER_BUILDKIT": "1"}

    def configure(self, **settings: str) -> None:
        """Further lines in `.env`, or others in the place of those of the same name."""
        self._settings |= settings
        (self.source / ".env").write_text("".join(f"{name}={value}\n" for name, value in self._settings.items()))

    def __call__(self, *arguments: str, stdin: str | None = None, seconds: float = 300) -> str:
        return self._run("docker", "compose", *arguments, stdin=stdin, seconds=seconds)

    def docker(self, *arguments: str) -> str:
        """`docker` itself."""
        return self._run("docker", *arguments, stdin=None, seconds=120)

    def shell(self, script: str) -> str:
        """A script for the shell."""
        return self._run("sh", "-ec", script, stdin=None, seconds=300)

    def fails(self, *arguments: str) -> bool:
        """Whether a command fails."""
        try:
            self(*arguments)
        except AssertionError:
            return True
        return False

    def _run(self, *command: str, stdin: str | None, seconds: float) -> str:
        done = subprocess.run(
            command,
            cwd=self.source,
            env=self._environment,
            input=stdin or "",
            text=True,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


README_INPUTS = {
    "cli-dataprep": "regraft sample trc2 --output corpus.v2 --stories 5000",
    "cli": "regraft sample checkpoint gptj --output gptj-tiny --tokenizer-text corpus.v2 --max-position-embeddings 256",
}
README_JOB = """
dataset: {uri: corpus.v2, max_sequence_length: 128}
base_checkpoint: {uri: gptj-tiny}
target: {kind: cpu}
training: {max_steps: 100, learning_rate: 1.0e-3}
"""


class Deployed:
    """What the tests do with it."""

    def __init__(self, compose: Compose, port: int) -> None:
        self.compose = compose
        key = (compose.source / "secrets" / "api_key").read_text().strip()
        self.client = Client(f"http://127.0.0.1:{port}", key=key)

    def up(self) -> None:
        """`docker compose up`, and wait until all is healthy and the workers are known."""
        self.compose("up", "--detach", "--wait", "--no-build")
        eventually(self.offers_cpu, seconds=180, what="a worker offering the target cpu")

    def offers_cpu(self) -> bool:
        """Whether workers of both kinds are heard of."""
        found = self.client.get("/capabilities")
        return bool(found["targets"]) and bool(found["sources"])

    def make_inputs(self) -> None:
        """The README's corpus and checkpoint, made by its commands in containers."""
        for service, command in README_INPUTS.items():
            self.compose("run", "--rm", "--no-TTY", "--no-deps", service, *command.split())

    def run_readme_job(self, *, target: str = "cpu", **training: Any) -> str:
        """Post the README's job and return its id; paths are those that the command line would make of them."""
        job = yaml.safe_load(README_JOB)
        job["dataset"]["uri"] = "file:///data/corpus.v2"
        job["base_checkpoint"]["uri"] = "file:///data/gptj-tiny"
        job["target"] = {"kind": target}
        job["training"] |= {"checkpoint": {"every_steps": 10}, "log_every_steps": 5, **training}
        return str(self.client.create_job(job)["id"])

    def stage(self, job_id: str, name: str) -> dict[str, Any]:
        """One stage of a job."""
        return next(stage for stage in self.client.get_job(job_id)["stages"] if stage["name"] == name)

    def await_end(self, job_id: str, *, seconds: float = 600) -> dict[str, Any]:
        """The job, once it has ended."""
        ended = {str(status) for status in JOB_ENDED}

        def reached() -> dict[str, Any] | None:
            job = self.client.get_job(job_id)
            return job if job["status"] in ended else None

        found: dict[str, Any] = eventually(reached, seconds=seconds, what="the end of the job")
        return found

    def weights(self, job: dict[str, Any]) -> str:
        """The digest of the trained weights, computed where they lie."""
        uri = next(stage for stage in job["stages"] if stage["name"] == "train")["result"]["uri"]
        path = f"{uri.removeprefix('file://')}/model.safetensors"
        return self.compose("exec", "-T", "api", "sha256sum", path).split()[0]


@contextmanager
def deployed(
    source: Path, *more_images: str, between: Callable[[], None] = lambda: None, **more_settings: str
) -> Iterator[Deployed]:
    """Images built, everything up; taken down with its volumes at the end.

    `between`: done when the services' images are built and before the others are; a wheel that is put into `wheels/`
    earlier would have the former built anew.
    """
    port = free_port()
    settings = {"IMAGE_PREFIX": PROJECT, "IMAGE_TAG": "0.1.0", "REGRAFT_API_PORT": str(port)}
    settings |= {"REGRAFT_LEASE_SECONDS": "5", "REGRAFT_RETRY_SECONDS": "0.5", "REGRAFT_STOP_SECONDS": "60"}
    compose = Compose(source, settings | more_settings)
    subprocess.run(["sh", "compose/secrets.sh"], cwd=source, check=True, capture_output=True)
    try:
        for image in ("api", "dataprep", "worker"):
            compose("build", image, seconds=1500)
        between()
        for image in more_images:
            compose("--profile", "*", "build", image, seconds=1500)
        running = Deployed(compose, port)
        running.up()
        yield running
        running.client.__exit__()
    finally:
        compose("--profile", "*", "down", "--volumes", "--timeout", "20")
