"""A stand-in for a Kubernetes API server and what stands behind it.

An HTTP server that refuses objects which do not fit Kubernetes' own published schemas, keeps them, serves watches and
logs, and runs the pods of Jobs as processes of this machine. There is no kubelet, scheduler or network in it: names of
pods resolve to 127.0.0.1, and images are not looked at.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate

import trainer_double
from pod_processes import Pod
from regraft.embedded import free_port

VERSION = "1.31"
TOKEN = "the-token-of-the-worker"
NAMESPACE = "training"
Json = dict[str, Any]
_GROUPS = "apis/batch/v1|api/v1|apis/trainer.kubeflow.org/v1alpha1"
_PLACES = re.compile(rf"/(?:{_GROUPS})/namespaces/{NAMESPACE}/(jobs|trainjobs|services|pods)(?:/([^/]+))?(/log)?$")


class RefusalError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Double:
    """The server's state, and the controllers' work, done by one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Json] = {}
        """And TrainJobs."""
        self.runtime: Json = {}
        """Pod template of the runtime that TrainJobs name."""
        self.services: dict[str, Json] = {}
        self.pods: dict[str, list[Pod]] = {}
        self.created: list[Json] = []
        self.has_room = True
        """Whether pods find a node."""
        self.out_of_order = False
        """Answers nothing, as an API server that is being replaced."""
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self._version = 0
        self._watches: list[queue.Queue[Json]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._control, daemon=True)
        self._thread.start()

    def lose_node(self, index: int) -> None:
        """A pod is gone with its machine."""
        (pods,) = self.pods.values()
        pods[index].reason = "DeletionByTaintManager"
        pods[index].kill()

    def strand(self, index: int) -> None:
        """A node is gone without a word, and with it the pod's only witness: it stays until it is forced away."""
        (pods,) = self.pods.values()
        with self.lock:
            pods[index].strand()

    def force_away(self) -> None:
        """What an operator does then."""
        for pods in self.pods.values():
            for pod in pods:
                pod.stranded = False

    def admit(self) -> None:
        """What Kueue does: the queue has room."""
        for job in self.jobs.values():
            job["spec"]["suspend"] = False
            self.changed(job)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for pods in self.pods.values():
            for pod in pods:
                pod.kill()

    def changed(self, job: Json, kind: str = "MODIFIED") -> None:
        with self.lock:
            self._version += 1
            job["metadata"]["resourceVersion"] = str(self._version)
            for watch in self._watches:
                watch.put({"type": kind, "object": json.loads(json.dumps(job))})

    def create(self, kind: str, body: Json) -> Json:
        try:
            if kind == "trainjobs":
                jsonschema.validate(body, trainer_double.SCHEMA)
            else:
                kubernetes_validate.validate(body, VERSION, strict=True)
        except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
            raise RefusalError(422, str(error.message)) from error
        store = self.services if kind == "services" else self.jobs
        name = body["metadata"]["name"]
        with self.lock:
            if name in store:
                raise RefusalError(409, "it exists")
            body["metadata"]["uid"] = str(uuid.uuid4())
            store[name] = body
            self.created.append(json.loads(json.dumps(body)))
            if kind != "services":
                self.changed(body, "ADDED")
        return body

    def patch(self, name: str, body: Json) -> Json:
        with self.lock:
            job = self._job(name)
            metadata, change = job["metadata"], body["metadata"]
            for guard in ("uid", "resourceVersion"):
                if change.pop(guard, metadata[guard]) != metadata[guard]:
                    raise RefusalError(409, f"the {guard} is another")
            for part, values in change.items():
                metadata.setdefault(part, {}).update(values)
            self.changed(job)
            return job

    def delete(self, name: str, options: Json) -> Json:
        with self.lock:
            job = self._job(name)
            for guard, wanted in options["preconditions"].items():
                if wanted != job["metadata"][guard]:
                    raise RefusalError(409, f"the {guard} is another")
            assert options["propagationPolicy"] == "Foreground"
            job["metadata"]["deletionTimestamp"] = "now"
            self.changed(job)
            for pod in self.pods.get(name, ()):
                pod.terminate()
            return job

    def watch(self, name: str, seconds: float) -> Iterator[Json]:
        mine: queue.Queue[Json] = queue.Queue()
        with self.lock:
            self._watches.append(mine)
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not self.out_of_order:
                try:
                    event = mine.get(timeout=0.1)
                except queue.Empty:
                    continue
                if event["object"]["metadata"]["name"] == name:
                    yield event
        finally:
            self._watches.remove(mine)

    def pod(self, name: str, container: str) -> Pod:
        for pods in self.pods.values():
            for pod in pods:
                if (pod.name, pod.container) == (name, container):
                    return pod
        raise RefusalError(404, "there is no such pod, or it has no such container")

    def _job(self, name: str) -> Json:
        if name not in self.jobs:
            raise RefusalError(404, "there is no such Job")
        return self.jobs[name]

    def _control(self) -> None:
        while not self._stop.wait(0.1):
            with self.lock:
                for name, job in list(self.jobs.items()):
                    self._reconcile(name, job)

    def _reconcile(self, name: str, job: Json) -> None:
        pods = self.pods.get(name)
        if "deletionTimestamp" in job["metadata"]:
            if all(pod.phase != "Running" for pod in pods or ()):
                self.pods.pop(name, None)
                del self.jobs[name]
                owners = {key: value["metadata"]["ownerReferences"][0]["uid"] for key, value in self.services.items()}
                for key in [key for key, owner in owners.items() if owner == job["metadata"]["uid"]]:
                    del self.services[key]
                self.changed(job, "DELETED")
            return
        if job["spec"]["suspend"] or _has_ended(job):
            return
        if pods is None:
            port, made = free_port(), trainer_double.child(job, self.runtime) if job["kind"] == "TrainJob" else job
            assert made["spec"]["backoffLimit"] == 0
            self.pods[name] = [Pod(made, index, self.folder, port) for index in range(made["spec"]["completions"])]
            return
        for pod in pods if self.has_room else ():
            pod.start()
        phases = [pod.phase for pod in pods]
        if "Failed" in phases and any(pod.stranded for pod in pods):
            self._fail_later(job, pods)
        elif "Failed" in phases:
            for pod in pods:
                pod.kill()
            self._end(job, "Failed")
        elif set(phases) == {"Succeeded"}:
            self._end(job, "Complete")

    def _fail_later(self, job: Json, pods: list[Pod]) -> None:
        """As from 1.31 on: it has failed once the last of its pods has ended."""
        for pod in pods:
            pod.terminate()
        if "status" not in job:
            job["status"] = {"conditions": [{"type": "FailureTarget", "status": "True", "message": "as it will end"}]}
            self.changed(job)

    def _end(self, job: Json, kind: str) -> None:
        job["status"] = {"conditions": [{"type": kind, "status": "True", "message": "as it ended"}]}
        self.changed(job)


def _has_ended(job: Json) -> bool:
    return any(one["type"] in ("Complete", "Failed") for one in job.get("status", {}).get("conditions", ()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: Double

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PATCH(self) -> None:
        self._answer("PATCH")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self, verb: str) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        self.close_connection = True
        if self.double.out_of_order:
            return
        try:
            found = _PLACES.fullmatch(parts.path)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise RefusalError(401, "who are you?")
            if found is None:
                raise RefusalError(403, "the service account may not do that")
            kind, name = found[1], found[2]
            self.double.requests.append((verb, kind + (found[3] or "")))
            if found[3] and self.double.pod(name, asked["container"]).phase == "Pending":
                self.send_response(204)  # it has no node to ask
                self.end_headers()
            elif found[3]:
                self._stream(self._log(name, asked))
            elif asked.get("watch"):
                wanted = asked["fieldSelector"].removeprefix("metadata.name=")
                events = self.double.watch(wanted, float(asked["timeoutSeconds"]))
                self._stream(json.dumps(event).encode() + b"\n" for event in events)
            else:
                self._send(200, self._call(verb, kind, name, asked, body))
        except RefusalError as refusal:
            self._send(refusal.status, {"kind": "Status", "message": str(refusal)})

    def _call(self, verb: str, kind: str, name: str | None, asked: dict[str, str], body: Json) -> Json:
        double = self.double
        if verb == "POST":
            return double.create(kind, body)
        if verb == "PATCH" and name:
            return double.patch(name, body)
        if verb == "DELETE" and name:
            return double.delete(name, body)
        with double.lock:
            if name:
                return double._job(name)
            wanted = dict(one.split("=") for one in asked["labelSelector"].split(","))
            pods = [pod.shown() for pods in double.pods.values() for pod in pods]
            items = pods if kind == "pods" else list(double.jobs.values())
            return {"items": [item for item in items if wanted.items() <= item["metadata"]["labels"].items()]}

    def _log(self, name: str, asked: dict[str, str]) -> Iterator[bytes]:
        def goes_on() -> bool:
            return asked["follow"] == "true" and not self.double.out_of_order

        pod = self.double.pod(name, asked["container"])
        if pod.stranded:
            raise RefusalError(502, "its node does not answer")
        return pod.lines(since=asked.get("sinceTime", ""), follow=goes_on)

    def _send(self, status: int, body: Json) -> None:
        with self.double.lock:
            content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, chunks: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):  # who read it may be gone
            for chunk in chunks:
                self.wfile.write(chunk)
                self.wfile.flush()


@contextmanager
def kubernetes_double(folder: Path) -> Iterator[tuple[Double, dict[str, str]]]:
    """The double, and what a worker needs in its environment to use it."""
    double = Double(folder)
    handler = type("Handler", (_Handler,), {"double": double})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    account = folder / "account"
    account.mkdir()
    (account / "token").write_text(TOKEN)
    (account / "namespace").write_text(NAMESPACE)
    try:
        yield (
            double,
            {
                "REGRAFT_KUBERNETES_API": f"http://127.0.0.1:{server.server_port}",
                "REGRAFT_KUBERNETES_ACCOUNT": str(account),
            },
        )
    finally:
        double.close()
        server.shutdown()
        server.server_close()
        serving.join()
