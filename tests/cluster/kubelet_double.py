"""A stand-in for a node and its kubelet, for a real API server.

It binds every pod to its one node. A pod of Regraft's trainings is run as a process of this machine, its status is
reported, and its output is served where the API server asks a kubelet for logs. Of any other pod it says that it runs,
or, where it is to end, that it has succeeded: no image is pulled and no container started.
"""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pod_processes import Json, Pod
from regraft.embedded import free_port
from regraft_worker.kubernetes.api import MERGE, Api, ApiError, UnreachableError

NODE = "node-1"
INDEX = "batch.kubernetes.io/job-completion-index"
_TRAINING = "regraft-training"


class Kubelet:
    """One node's, which sees to the pods of all namespaces by one thread."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api, self._folder = api, folder
        self.pods: dict[str, Pod] = {}
        self._said: dict[str, object] = {}
        self._told: set[str] = set()
        self._port = free_port()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, port: int) -> None:
        """Report the node, whose kubelet listens on `port`, and begin."""
        self._api.call("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a stand-in"}]
        status = {"addresses": addresses, "conditions": ready, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}
        self._api.call("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status}, kind=MERGE)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for pod in self.pods.values():
            pod.kill()

    def named(self, name: str) -> Pod | None:
        return next((pod for pod in self.pods.values() if pod.name == name), None)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            with suppress(UnreachableError):
                for pod in self._api.call("GET", "/api/v1/pods")["items"]:
                    with suppress(ApiError):  # it has changed meanwhile: at the next look
                        self._see_to(pod)

    def _see_to(self, found: Json) -> None:
        metadata, uid = found["metadata"], found["metadata"]["uid"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if "deletionTimestamp" in metadata:
            self._end(uid, path, until=datetime.fromisoformat(metadata["deletionTimestamp"]))
        elif not found["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            self._api.call("POST", f"{path}/binding", {"metadata": {"name": metadata["name"]}, "target": target})
        elif metadata.get("labels", {}).get("app.kubernetes.io/name") == _TRAINING:
            self._report(uid, path, self._running(found, path).shown()["status"])
        else:
            self._report(uid, path, _pretended(found))

    def _running(self, found: Json, path: str) -> Pod:
        uid, metadata = found["metadata"]["uid"], found["metadata"]
        if uid not in self.pods:
            index = metadata.get("annotations", {}).get(INDEX)
            if index is None:  # the Job controller of before 1.21 gives pods no number
                owner = metadata["labels"]["controller-uid"]
                index = str(sum(pod.labels["controller-uid"] == owner for pod in self.pods.values()))
                self._api.call("PATCH", path, {"metadata": {"annotations": {INDEX: index}}}, kind=MERGE)
            pod = Pod({"metadata": metadata, "spec": {"template": found}}, int(index), self._folder, self._port)
            pod.name, pod.job = metadata["name"], metadata["labels"]["job-name"]
            pod.start()
            self.pods[uid] = pod
        return self.pods[uid]

    def _report(self, uid: str, path: str, status: Json) -> None:
        if self._said.get(uid) != status:
            self._api.call("PATCH", f"{path}/status", {"status": status}, kind=MERGE)
            self._said[uid] = status

    def _end(self, uid: str, path: str, *, until: datetime) -> None:
        """SIGTERM, SIGKILL after the grace period, and the pod is gone from the API server once its process is."""
        pod = self.pods.get(uid)
        if pod is not None and pod.phase == "Running":
            if datetime.now(UTC) > until:
                pod.kill()
            elif uid not in self._told:
                self._told.add(uid)
                pod.terminate()
            return
        gone = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        self._api.call("DELETE", path, gone)


def _pretended(found: Json) -> Json:
    states = {"Always": ("Running", {"running": {}})}
    ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    phase, state = states.get(found["spec"]["restartPolicy"], ("Succeeded", ended))
    running = phase == "Running"
    containers = [
        {"name": one["name"], "image": one["image"], "imageID": "", "restartCount": 0, "ready": running, "state": state}
        for one in found["spec"]["containers"]
    ]
    ready = [{"type": kind, "status": "True" if running else "False"} for kind in ("Ready", "ContainersReady")]
    return {"phase": phase, "conditions": ready, "containerStatuses": containers}


class _Handler(BaseHTTPRequestHandler):
    """`/containerLogs/<namespace>/<pod>/<container>`, as the API server asks for it."""

    kubelet: Kubelet

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        pod = self.kubelet.named(parts.path.split("/")[3]) if parts.path.startswith("/containerLogs/") else None
        self.send_response(404 if pod is None else 200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        if pod is not None:
            with suppress(OSError):  # who read it may be gone
                follow = asked.get("follow") == "true"
                for line in pod.lines(since=asked.get("sinceTime", ""), follow=lambda: follow):
                    self.wfile.write(line)
                    self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def kubelet(api: Api, folder: Path) -> Iterator[Kubelet]:
    """Running until the end of the block."""
    folder.mkdir()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    wanted = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node-1", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", *wanted], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    found = Kubelet(api, folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kubelet": found}))
    server.daemon_threads = True
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    found.start(server.server_port)
    try:
        yield found
    finally:
        found.close()
        server.shutdown()
        server.server_close()
        serving.join()
