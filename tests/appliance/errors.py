"""The client's errors: names and packages of the vendor's, messages of our own."""

from __future__ import annotations


class ApplianceError(Exception):
    """What ends a client; `name` is the class the vendor's client has for it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name

    def traceback(self, release: tuple[int, int]) -> str:
        """What an uncaught exception leaves on standard error."""
        package = "cerebras_appliance" if release < (2, 1) else "cerebras.appliance"
        place = '  File "/venv/lib/python/site-packages/client.py", line 1, in run'
        return f"Traceback (most recent call last):\n{place}\n{package}.errors.{self.name}: {self}"


MESSAGES = {
    "ApplianceUnknownError": "an unknown error occurred on the cluster",
    "ApplianceCorruptionError": "a received message is corrupt",
    "ApplianceDeadlockError": "the run has stalled",
    "ApplianceHealthPollException": "the health poll of the coordinator failed",
    "ApplianceNanError": "the loss is nan",
    "ApplianceTensorDropped": "a tensor was dropped",
    "ApplianceRequestCancelled": "a request was cancelled",
    "ApplianceCompilationError": "the compilation failed: no layout was found",
    "ApplianceRuntimeServerError": "a server of the run failed",
    "ApplianceServiceInterrupted": "the service was interrupted",
    "ApplianceRuntimeJobTimeoutError": "the time limit of the job has passed",
    "ApplianceVersionError": "the client and the cluster have different versions",
    "ApplianceResourceExhausted": "the cluster has no more memory for this job",
    "ClusterConfigError": "the cluster is not configured",
    "ClusterJobCancelledByCsctl": "the job was cancelled by csctl",
    "ClusterJobScheduleError": "the job cannot be scheduled",
    "ClusterJobInitError": "the job could not be initialised",
    "CsctlError": "csctl failed",
    "UserVenvClusterVolumeError": "no volume allows virtual environments",
    "MissingVolumeError": "a mounted folder is on no volume of the cluster",
    "PicklableRpcError": "a remote call failed",
}


def failure(name: str) -> ApplianceError:
    """The error of a class.

    Raises:
        KeyError: the vendor's client has no such class.
    """
    return ApplianceError(name, MESSAGES[name])
