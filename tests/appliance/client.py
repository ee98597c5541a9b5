"""What `run.py CSX` and `cszoo fit` do: check the params file, compile on the cluster, then run there.

The client must live as long as its jobs: a thread of it sends heartbeats, and its death is the jobs' end.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from appliance import flags
from appliance.board import ENDED, Board, new_id
from appliance.control import Control
from appliance.errors import ApplianceError, failure
from appliance.kinds import BadParamsError
from appliance.log import done_line, open_log
from appliance.meta import RunMeta, compile_key
from appliance.schema import check, release_of
from appliance.settings import ClusterSettings, check_places, cluster_settings

_TICK = 0.02


class Client:
    """One run."""

    def __init__(self, state: Path, given: flags.Given, content: dict[str, Any], settings: ClusterSettings) -> None:
        self.board, self.control = Board(state), Control(state)
        self.given, self.content, self.settings = given, content, settings
        asked = self.control.read()
        self.release = release_of(asked["release"])
        mode = "train" if given.mode == "fit" else given.mode
        self.model_dir = settings.model_dir
        self.log, self.folder = open_log(self.model_dir, release=self.release, mode=mode, split=asked["split_lines"])
        self.meta = RunMeta(self.model_dir / "cerebras_logs" / "run_meta.json")
        self.workflow = f"wflow-{new_id()}"
        self.began = self.control.now()
        self.live: list[str] = []
        self._dropped = False
        self._over = threading.Event()

    def go(self) -> None:
        """From the first connection to the last step.

        Raises:
            ApplianceError: it failed.
        """
        threading.Thread(target=self._beat, daemon=True).start()
        self.reach()
        self._fail_if_asked("submit")
        self._check_cluster()
        self._compile()
        if self.settings.compile_only or self.settings.validate_only:
            return
        self._execute()
        if not self.control.read()["no_marker"]:
            self.log.info(done_line("Training" if self.trains else "Evaluation", self.release))

    @property
    def trains(self) -> bool:
        """False when a checkpoint is scored."""
        return self.given.mode.startswith(("train", "fit"))

    def check_job(self, job: str) -> None:
        """See that the job goes on.

        Raises:
            ApplianceError: it was cancelled, or the cluster cannot be reached for long.
        """
        self.reach()
        found = self.board.job(job)
        assert found is not None, "jobs stay"
        if found["phase"] == "CANCELLED":
            self.live.remove(job)
            names = {
                "time limit": "ApplianceRuntimeJobTimeoutError",
                "cancelled by csctl": "ClusterJobCancelledByCsctl",
            }
            raise failure(names.get(found["message"], "ApplianceServiceInterrupted"))

    def reach(self) -> None:
        """Wait for a cluster that does not answer, as long as the client tries.

        Raises:
            ApplianceError: it did not come back.
        """
        began = time.monotonic()
        asked = self.control.read()
        drop = asked["drop_seconds_real"]
        while not asked["reachable"]:
            waited = time.monotonic() - began
            if self._dropped and waited > drop:
                self._dropped = False
                self.control.set(reachable=True)
            elif waited > asked["retry_seconds_real"]:
                raise ApplianceError("ApplianceServiceInterrupted", "the cluster server is UNAVAILABLE")
            elif waited < 2 * _TICK:
                self.log.warning("the cluster server is UNAVAILABLE, trying again")
            time.sleep(_TICK)
            asked = self.control.read()

    def drop(self) -> None:
        """Lose the connection, once."""
        self._dropped = True
        self.control.set(reachable=False)

    def cancel(self) -> None:
        """Cancel what still runs."""
        for job in self.live:
            self.board.end(job, "CANCELLED", message="cancelled by the client")

    def end(self, phase: str) -> None:
        """Say how the jobs of a failed run ended."""
        for job in self.live:
            self.board.end(job, phase)
            self.meta.ended(job, self.control.now())

    def close(self) -> None:
        """No more heartbeats, no more lines."""
        self._over.set()
        for handler in self.log.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()

    def _beat(self) -> None:
        while not self._over.wait(0.2):
            if self.control.read()["reachable"]:
                for job in list(self.live):
                    self.board.beat(job)

    def _fail_if_asked(self, where: str, *, step: int = 0) -> None:
        name = self.control.failure(where, step=step)
        if name is not None:
            raise failure(name)

    def _check_cluster(self) -> None:
        asked = self.control.read()
        server = asked["server_version"]
        if server and server != asked["release"] and not self.settings.disable_version_check:
            message = f"the client is of release {asked['release']}, the cluster of {server}"
            raise ApplianceError("ApplianceVersionError", message)
        named = self.settings.mgmt_namespace
        if named not in asked["namespaces"] and (named or len(asked["namespaces"]) > 1):
            raise ApplianceError("ClusterConfigError", f"mgmt_namespace must be one of {asked['namespaces']}")

    def _compile(self) -> None:
        self.log.info("Compiling the model. This may take a few minutes.")
        self.log.info("Initiating a new compile wsjob against the cluster server.")
        job = self._submit("compile", systems=0)
        cached = self.control.state / "compiled" / self.settings.compile_dir / compile_key(self.content)
        began, known = self.control.now(), cached.exists()
        while not known and self.control.now() < began + self.control.read()["compile_seconds"]:
            self.check_job(job)
            time.sleep(_TICK)
        self._fail_if_asked("compile")
        if not self.settings.validate_only:
            cached.mkdir(parents=True, exist_ok=True)
        self._finish(job)
        self.log.info("Compile was successful!" if not self.settings.validate_only else "Validation was successful!")

    def _execute(self) -> None:
        self.log.info("Initiating a new execute wsjob against the cluster server.")
        job = self._submit("execute", systems=self.settings.num_csx)
        self._fail_if_asked("execute")
        from appliance.training import run  # only now, so that what fails before is quick

        run(self, job)
        self._finish(job)

    def _submit(self, kind: str, *, systems: int) -> str:
        """Submit a job and wait until it runs."""
        settings = self.settings
        fields = {"labels": settings.job_labels, "priority": settings.job_priority, "workflow": self.workflow}
        fields |= {"time_limit": settings.job_time_sec, "workflow_began": self.began, "systems": systems}
        job = self.board.submit(kind, **fields)
        self.live.append(job)
        namespace = settings.mgmt_namespace or self.control.read()["namespaces"][0]
        path = f"/n1/wsjob/workdir/{namespace}/{job}"
        words = f"Job id: {job}, workflow id: {self.workflow}, namespace: {namespace}, remote log path: {path}"
        self.log.info(words)
        self.meta.add(kind, job, self.workflow, namespace=namespace, path=path, now=self.control.now())
        said = ""
        while True:
            self.check_job(job)
            found = self.board.job(job)
            assert found is not None, "jobs stay"
            if found["phase"] != said:
                said = found["phase"]
                ready = said == "RUNNING"
                self.log.info("Poll ingress success: job ingress ready" if ready else f"Poll ingress status: {said}")
            if said == "RUNNING":
                return job
            assert said not in ENDED, f"{job} is {said}"
            time.sleep(_TICK)

    def _finish(self, job: str) -> None:
        self.board.end(job, "SUCCEEDED")
        self.meta.ended(job, self.control.now())
        self.live.remove(job)


def main(program: str, state: Path, words: list[str]) -> int:
    """Run the program; its exit status."""
    control = Control(state)
    release = release_of(control.read()["release"])
    given = (flags.cszoo if program == "cszoo" else flags.run_py)(words, release)
    client: Client | None = None
    try:
        content = yaml.safe_load(given.params.read_text())
        check(content, release)
        settings = cluster_settings(content, given.values, model_dir=given.model_dir)
        check_places(content, settings)
        client = Client(state, given, content, settings)
        _handle(control.read()["sigint"])
        client.go()
    except (ApplianceError, BadParamsError, OSError, KeyboardInterrupt) as error:
        _fail(error, client, release)
        return 1
    finally:
        if client is not None:
            client.close()
    return 0


def _handle(interrupt: str) -> None:
    """SIGINT as asked; SIGTERM kills, as it does there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN if interrupt == "ignored" else signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _fail(error: BaseException, client: Client | None, release: tuple[int, int]) -> None:
    logger = client.log if client else logging.getLogger("appliance")
    name = type(error).__name__
    known = isinstance(error, ApplianceError)
    text = error.traceback(release) if known else f"Traceback (most recent call last):\n{name}: {error}"
    logger.error("Uncaught exception:\n%s", text)
    print(text, file=sys.stderr)
    if client is None or not client.control.read()["reachable"]:
        return  # the cluster learns nothing of it, and runs on for the length of the lease
    if isinstance(error, KeyboardInterrupt):
        if client.control.read()["sigint"] == "cancels":
            client.cancel()
    else:
        client.end("FAILED")
