"""The run itself: our own model is trained on the processor, from the data the params file names.

The arithmetic is that of `regraft run CPU`, used as a library; log lines and the way in which checkpoints come to be
are the appliance's. HDF5 format 0.4, which releases 2.0 to 2.2 write, cannot be written here: theirs are torch files.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from appliance.errors import ApplianceError, failure
from appliance.log import saving_line, step_line
from regraft.errors import RegraftError
from regraft_worker.zoo import run as zoo_run
from regraft_worker.zoo.log import score_lines
from regraft_worker.zoo.mdl import Position, write_mdl
from regraft_worker.zoo.params import Params, read_params
from regraft_worker.zoo.progress import TrainProgress

if TYPE_CHECKING:
    from appliance.client import Client

_MODES = {"fit": "train", "validate": "eval", "validate_all": "eval_all"}
_CLUSTER = ("job_labels", "mount_dirs", "python_paths", "credentials_path", "mgmt_address", "mgmt_namespace")
_CLUSTER += ("num_csx", "job_priority", "job_time_sec", "num_workers_per_csx", "num_wgt_servers", "num_act_servers")
_CLUSTER += ("compile_dir", "cbcore_image", "disable_version_check", "debug_args", "debug_args_path", "ini")
_CLUSTER += ("wsc_log_level", "logging")


def run(client: Client, job: str) -> None:
    """Train, or score.

    Raises:
        ApplianceError: it failed, or the job was cancelled.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    params = _params(client)
    client.log.addFilter(_not_done)

    class Told(_Progress):
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **more)
            self.client, self.job = client, job
            for number, handler in handlers.items():
                signal.signal(number, handler)

    ours, labels = zoo_run.TrainProgress, zoo_run._LABELS
    zoo_run.TrainProgress, zoo_run._LABELS = Told, {"cpu": "CSX"}  # type: ignore[misc]
    where: dict[str, Any] = {"device": "cpu", "model_dir": client.model_dir, "stamp": "events"}
    try:
        if client.trains:
            zoo_run._train(params, client.log, **where)
        else:
            every = client.given.mode in ("eval_all", "validate_all")
            zoo_run._score_all(params, client.log, **where, every=every)
    except RegraftError as error:
        name = "ApplianceNanError" if error.reason == "loss_not_finite" else "ApplianceUnknownError"
        raise ApplianceError(name, str(error)) from error
    finally:
        zoo_run.TrainProgress, zoo_run._LABELS = ours, labels  # type: ignore[misc]
        client.log.removeFilter(_not_done)


def _not_done(record: logging.LogRecord) -> bool:
    """False for our own marker of success; the appliance has one, too."""
    return "completed successfully" not in record.getMessage().lower()


class _Progress(TrainProgress):
    """The trainer's reports in the appliance's words, and what goes wrong on request."""

    client: Client
    job: str

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        if step <= self.start:
            return
        if "train_loss" in metrics and self._is_new("Train", step):
            self._at_step(step)
            if step % self.params.control.log_steps == 0 or step == self.training.max_steps:
                self._line("Train", step, metrics["train_loss"])
        if "val_loss" in metrics and self._is_new("Eval", step):
            self._line("Eval", step, metrics["val_loss"])
            names = ("loss", "perplexity", "accuracy")
            for line in score_lines({name: metrics[f"val_{name}"] for name in names}, era=self.params.era):
                self.logger.info(line)

    def should_stop(self) -> bool:
        super().should_stop()  # the clock of the steps
        self.client.check_job(self.job)
        return False

    def save(self, folder: Path, step: int) -> None:
        if step in self._steps:
            return
        self._steps.add(step)
        release = self.client.release
        self.logger.info(saving_line(step, release))
        path = self.model_dir / f"checkpoint_{step}.mdl"
        if path.exists():
            path = self.model_dir / f"checkpoint_{step}_{time.strftime('%Y%m%d_%H%M%S')}.mdl"
        made = self.client.folder / f"made_{step}.mdl"
        write_mdl(
            made,
            folder,
            step=step,
            training=self.training,
            era=self.params.era,
            position=Position(
                samples=step * self.training.batch_size,
                seed=self.training.seed,
                map_style=self.reader.map_style,
                shuffle=self.training.shuffle,
            ),
            hdf5=release >= (2, 6),
        )
        self._appear(made, path, step)
        self.saved.append(path)
        self.logger.info(f"Saved checkpoint {path}")
        self._prune()

    def _appear(self, made: Path, path: Path, step: int) -> None:
        """In place, as releases up to 2.5 do, or under another name first; slowly, when that is asked for."""
        atomic = self.client.release >= (2, 6)
        target = Path(f"{path}.{secrets.token_hex(4)}.tmp") if atomic else path
        content = made.read_bytes()
        with target.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            self._half_way(step)
            file.write(content[len(content) // 2 :])
        if atomic:
            target.rename(path)
        made.unlink()

    def _half_way(self, step: int) -> None:
        control = self.client.control
        if control.read()["die_in_checkpoint"] == step:
            control.take("die_in_checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        while control.read()["hold_checkpoint"] == step:
            self.client.check_job(self.job)
            time.sleep(0.02)

    def _at_step(self, step: int) -> None:
        control, asked = self.client.control, self.client.control.read()
        if asked["drop_at_step"] == step and control.take("drop_at_step"):
            self.client.drop()
        self.client.check_job(self.job)
        for _ in range(asked["noise_bytes"] // 100):
            self.logger.info("x" * 70)
        if asked["nan_at_step"] == step and control.take("nan_at_step"):
            self._line("Train", step, float("nan"))
            raise failure("ApplianceNanError")
        name = control.failure("step", step=step)
        if name is not None:
            raise failure(name)
        time.sleep(asked["step_seconds_real"])

    def _line(self, kind: str, step: int, loss: float) -> None:
        assert self._rates is not None, "asked for before the first step"
        rates = self._rates.at((step - self.start) * self.training.batch_size)
        self.logger.info(step_line(kind, release=self.client.release, step=step, loss=loss, rates=rates))


def _params(client: Client) -> Params:
    """The params file as our own code reads it, without what is the cluster's."""
    file = client.folder / "params.yaml"
    file.write_text(yaml.safe_dump(_without_cluster(client.content)))
    given = {key: value for key, value in client.given.values.items() if key not in _CLUSTER}
    mode = _MODES.get(client.given.mode, client.given.mode)
    if client.given.mode == "fit" and client.content["trainer"]["fit"].get("val_dataloader"):
        mode = "train_and_eval"
    try:
        return read_params(file, mode=mode, device="cpu", given=given)  # type: ignore[arg-type]
    except RegraftError as error:
        raise ApplianceError("ApplianceUnknownError", str(error)) from error


def _without_cluster(content: Mapping[str, Any]) -> dict[str, Any]:
    if "trainer" not in content:
        kept = {key: value for key, value in content["runconfig"].items() if not key.endswith("_only")}
        return {**content, "runconfig": {**kept, "checkpoint_path": kept.get("checkpoint_path")}}
    trainer = content["trainer"]
    return {"trainer": {**trainer, "init": {key: value for key, value in trainer["init"].items() if key != "backend"}}}
