"""A stand-in for Kubeflow's Trainer on a real API server: makes the Job of each TrainJob, and copies how it ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from control_plane import NAMESPACE

from helpers import eventually
from regraft_worker.kubernetes.api import MERGE, Api, ApiError, UnreachableError
from trainer_double import Json, child, definition

TRAIN_JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
_JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@contextmanager
def trainer(api: Api, template: Json) -> Iterator[None]:
    """The definition is there and the controller at work, with the pod template of the only runtime."""
    made = api.call("POST", _DEFINITIONS, definition())
    eventually(lambda: _is_served(api), what="TrainJobs")
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(api, template, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        api.call("DELETE", f"{_DEFINITIONS}/{made['metadata']['name']}")


def _is_served(api: Api) -> bool:
    try:
        api.call("GET", TRAIN_JOBS)
    except ApiError:
        return False
    return True


def _run(api: Api, template: Json, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        with suppress(ApiError, UnreachableError):  # it has changed meanwhile: at the next look
            for one in api.call("GET", TRAIN_JOBS)["items"]:
                if "deletionTimestamp" not in one["metadata"] and not one["spec"]["suspend"]:
                    _see_to(api, one, template)


def _see_to(api: Api, one: Json, template: Json) -> None:
    wanted = child(one, template)
    try:
        job = api.call("GET", f"{_JOBS}/{wanted['metadata']['name']}")
    except ApiError:
        api.call("POST", _JOBS, wanted)
        return
    ended = [given for given in job["status"].get("conditions") or [] if given["type"] in ("Complete", "Failed")]
    if ended and not one.get("status"):
        path = f"{TRAIN_JOBS}/{one['metadata']['name']}/status"
        api.call("PATCH", path, {"status": {"conditions": ended}}, kind=MERGE)
