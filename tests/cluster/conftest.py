"""A real Kubernetes API server for the tests of this folder, where `KUBEBUILDER_ASSETS` names its binaries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from control_plane import ControlPlane, assets, control_plane
from kubelet_double import Kubelet, kubelet


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Started once for all of them."""
    folder = assets()
    if folder is None:
        pytest.skip("needs etcd and kube-apiserver: KUBEBUILDER_ASSETS is not set")
    with control_plane(folder, tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture(scope="session")
def node(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """Where its pods run."""
    with kubelet(plane.admin, tmp_path_factory.mktemp("node") / "pods") as found:
        yield found
