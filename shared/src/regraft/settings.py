"""Settings of every process, read from the environment (prefix `REGRAFT_`) by whoever composes a process.

Nothing here is global: `Settings()` is called in a composition root and handed down. Each can be given as a file too:
`REGRAFT_DATABASE_URL_FILE` names one that holds the database URL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from regraft.environment import from_file

PREFIX = "REGRAFT_"


class FileSource(PydanticBaseSettingsSource):
    """Settings from the files that `REGRAFT_<NAME>_FILE` name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Of one setting; None where no file is named."""
        return from_file(PREFIX + field_name.upper()) or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Of all that have a file."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """One value per environment variable, e.g. `database_url` is `REGRAFT_DATABASE_URL`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    home: Path = Path("~/.regraft")
    """Folder for everything that a machine keeps: artifacts, logs, the embedded servers' data."""
    database_url: str = ""
    """PostgreSQL, e.g. `postgresql://user:password@host/regraft`. Empty: `regraft up` starts its own."""
    redis_url: str = ""
    """Redis or Valkey, e.g. `redis://:password@host:6379/0`. Empty: `regraft up` starts its own."""
    storage_uri: str = ""
    """Where artifacts go: a folder that every service sees, or `s3://bucket/prefix`. Empty: `storage` under `home`."""
    cache_bytes: int = Field(0, ge=0)
    """With storage on S3: what copies of artifacts may take on a worker's disk; those that nothing uses are deleted
    beyond it. 0: no limit."""
    api_host: str = "127.0.0.1"
    """Address the API listens on."""
    api_port: int = Field(8000, ge=0, le=65535)
    """Port the API listens on."""
    api_url: str = "http://127.0.0.1:8000"
    """Where the command line finds the API."""
    api_key: str = ""
    """Key that the command line sends. Empty: the one that `regraft up` keeps in `api-key` under `home`."""
    allowed_roots: str = ""
    """Folders that corpora and checkpoints of jobs may lie in, separated by commas; symbolic links are followed first.
    Empty: none, except under `regraft up`, which belongs to one user: there everything that the user can read."""
    allowed_schemes: str = "file"
    """Schemes of corpora, separated by commas, e.g. `file,s3,hf`."""
    max_body_bytes: int = Field(1_048_576, ge=1024)
    """Largest body of a request; a larger one is refused before it is read."""
    check_files: bool = True
    """Let `POST /jobs` look at corpus and checkpoint. Switch off where the API does not mount them."""
    lease_seconds: float = Field(30.0, gt=0)
    """How long a worker may be silent before its stage is given to another."""
    max_attempts: int = Field(3, ge=1)
    """Tries of one stage in a row that fail for a reason that a retry can mend and leave nothing durable behind."""
    retry_seconds: float = Field(5.0, ge=0)
    """Wait before the second try; doubled for each further one."""
    retry_max_seconds: float = Field(600.0, ge=0)
    """The longest wait between two tries."""
    capacity_attempts: int = Field(10, ge=1)
    """Tries of one stage in a row when a disk is full."""
    capacity_seconds: float = Field(60.0, ge=0)
    """Wait before the second of them; doubled for each further one."""
    retry_budget: int = Field(100, ge=1)
    """Attempts of one stage in all, whatever they achieved."""
    announce_seconds: float = Field(15.0, gt=0)
    """A ready stage that nobody has taken is announced again after this long."""
    stop_seconds: float = Field(120.0, gt=0)
    """How long a stage may take to save when it is asked to stop; then it is killed."""
    hang_seconds: float = Field(1800.0, gt=0)
    """A stage process that reports no progress for so long is killed and tried again."""
    poll_seconds: float = Field(5.0, gt=0)
    """An idle worker looks for ready stages in the database this often, whatever the broker does."""
    kubernetes_pod: str = ""
    """YAML file with the PodTemplateSpec of training pods: with it, a worker offers the target `kubernetes`."""
    kubernetes_runtime: str = ""
    """Instead of it: a TrainingRuntime of Kubeflow's Trainer, or `ClusterTrainingRuntime/<name>`."""
    kubernetes_nodes: int = Field(1, ge=1)
    """Pods that one job may have."""
    kubernetes_node_devices: int = Field(8, ge=1)
    """Devices that a pod may have."""
    kubernetes_device: Literal["gpu", "cpu"] = "gpu"
    """The target that computes in a pod."""
    kubernetes_queue: str = ""
    """Kueue's LocalQueue that Jobs are created for, suspended. Empty: they start at once."""
    kubernetes_namespace: str = ""
    """Where Jobs are created. Empty: the namespace of the worker's service account."""
    kubernetes_api: str = "https://kubernetes.default.svc"
    """The API server."""
    kubernetes_account: str = "/var/run/secrets/kubernetes.io/serviceaccount"
    """Folder with the service account's `token`, `ca.crt` and `namespace`."""
    log_bytes: int = Field(16 * 1024**2, ge=4096)
    """Size at which the log of a stage process is rotated; four older parts are kept."""
    pulse_path: str = ""
    """File that dispatcher and workers touch while they turn, for health checks of containers. Empty: none."""
    log_level: str = "INFO"
    """Level of the processes' own logs."""
    log_format: Literal["json", "text"] = "json"
    """`json`: one object a line, with the ids of job, stage and attempt. `text`: for people."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before the environment before files named in it."""
        return init_settings, env_settings, FileSource(settings_cls)

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with the driver this project uses."""
        scheme, _, rest = self.database_url.partition("://")
        return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else self.database_url

    @property
    def storage_root(self) -> str:
        """`storage_uri`, or its default."""
        return self.storage_uri or (self.home / "storage").as_uri()

    @property
    def cache_folder(self) -> Path:
        """Where a machine keeps its copies of artifacts, with storage on S3."""
        return self.home / "cache"

    @property
    def roots(self) -> tuple[Path, ...]:
        """`allowed_roots` as folders."""
        return tuple(Path(part.strip()).expanduser() for part in self.allowed_roots.split(",") if part.strip())

    @property
    def schemes(self) -> frozenset[str]:
        """`allowed_schemes` as names."""
        return frozenset(part.strip() for part in self.allowed_schemes.split(",") if part.strip())

    @property
    def log_folder(self) -> Path:
        """Where the output of stage processes goes."""
        return self.home / "logs"
