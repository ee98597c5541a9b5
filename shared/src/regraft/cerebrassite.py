"""Where a site's Cerebras cluster is and how it is reached, read from the environment (prefix `REGRAFT_CEREBRAS_`).

A site has one release of the vendor's client; what a job may choose is in its target's specification. Everything the
client would else find out for itself is said here, because in a pod of another cluster it finds the wrong thing.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CerebrasSite(BaseSettings):
    """One value per environment variable, e.g. `mgmt_address` is `REGRAFT_CEREBRAS_MGMT_ADDRESS`."""

    model_config = SettingsConfigDict(env_prefix="REGRAFT_CEREBRAS_", extra="ignore", use_attribute_docstrings=True)

    client: str = ""
    """Command of the vendor's client: `/opt/cerebras/venv/bin/cszoo`, or before release 2.4
    `/opt/cerebras/venv/bin/python /opt/modelzoo/.../run.py`. Empty: this machine has none."""
    release: str = ""
    """Its release, such as 2.4."""
    csctl: str = "csctl"
    """Command of the cluster's job control."""
    mgmt_address: str = ""
    """Management node as host:port."""
    mgmt_namespace: str = ""
    """Namespace of the cluster's jobs."""
    credentials_path: str = ""
    """TLS certificate of the management node. Empty: the client's own configuration."""
    mount_dirs: str = ""
    """Folders that the cluster's workers mount at the same path, separated by commas: storage, sources, environment."""
    python_paths: str = ""
    """Folders for the cluster's workers to import from, separated by commas."""
    compile_dir: str = ""
    """Folder of compiled programs, below the cluster's own root. Empty: the client's default."""
    model_dir: str = ""
    """Folder that gets one folder for each run of the client. Empty: beside the job's checkpoints."""
    systems: int = Field(1, ge=1)
    """CS systems that one job may have."""
    poll_seconds: float = Field(10.0, gt=0)
    """How often the cluster is asked about a job."""
    settle_seconds: float = Field(120.0, ge=0)
    """A checkpoint is read when its file has not changed for so long; those that carry a mark of success at once."""
    ask_seconds: float = Field(30.0, gt=0)
    """How long an answer of csctl may take before the cluster counts as unreachable."""
    backoff_seconds: float = Field(5.0, gt=0)
    """Wait before an unreachable cluster is asked again; doubled each time."""
    backoff_max_seconds: float = Field(300.0, gt=0)
    """The longest such wait."""
    interrupt_seconds: float = Field(60.0, ge=0)
    """How long the client may take to end after SIGINT; then it is killed."""

    @property
    def client_command(self) -> list[str]:
        """`client` as words."""
        return shlex.split(self.client)

    @property
    def csctl_command(self) -> list[str]:
        """`csctl` as words."""
        return shlex.split(self.csctl)

    @property
    def mounts(self) -> tuple[Path, ...]:
        """`mount_dirs` as folders."""
        return tuple(Path(part) for part in _parts(self.mount_dirs))

    @property
    def paths(self) -> tuple[str, ...]:
        """`python_paths` as a list."""
        return tuple(_parts(self.python_paths))

    def missing(self) -> list[str]:
        """What is not there or cannot be run; empty: this machine can be a client. Starts nothing."""
        found = []
        if not self.client_command:
            found.append("REGRAFT_CEREBRAS_CLIENT is not set")
        elif (word := _not_there(self.client_command)) is not None:
            found.append(f"the client cannot be run: {word}")
        if not self.release:
            found.append("REGRAFT_CEREBRAS_RELEASE is not set")
        if not self.csctl_command or shutil.which(self.csctl_command[0]) is None:
            found.append(f"csctl cannot be run: {self.csctl or 'it is not set'}")
        found += [f"there is no folder {folder}" for folder in self.mounts if not folder.is_dir()]
        return found


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _not_there(command: list[str]) -> str | None:
    """The word of a command that names nothing: the program, or a script that it is given."""
    if shutil.which(command[0]) is None:
        return command[0]
    scripts = [word for word in command[1:] if word.endswith(".py")]
    return next((word for word in scripts if not os.access(word, os.R_OK)), None)
