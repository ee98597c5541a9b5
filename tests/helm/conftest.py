"""Whatever needs Helm runs under every Helm on PATH, and is skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from chart_rendering import HELMS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "helm" in metafunc.fixturenames:
        missing = [pytest.param("", marks=pytest.mark.skip(reason="no helm on PATH"))]
        metafunc.parametrize("helm", HELMS or missing, ids=[Path(path).name for path in HELMS] or ["none"])
