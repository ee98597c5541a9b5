"""The process that looks into a file: what is no matter of the file is not blamed on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from container_files import pickled, rebuilt, storage, torch_zip

from regraft.errors import InvalidDataError, RegraftError
from regraft_worker.conversion.containers._child import look_into

PACKAGES = os.pathsep.join(path for path in sys.path if path)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return torch_zip(tmp_path / "a.mdl", pickled({"a": rebuilt(storage(), 0, (4,), (1,), False, {})}))


def test_a_process_that_does_not_find_its_program(whole: Path) -> None:
    with whole.open("rb") as file, pytest.raises(RegraftError) as caught:
        look_into(whole, file.fileno(), module="_unpickle_gone")
    assert not isinstance(caught.value, InvalidDataError)
    assert caught.value.reason == "reader_not_started"
    assert "_unpickle_gone" in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert sys.executable in caught.value.remedy


def test_packages_that_only_pythonpath_knows(whole: Path, tmp_path: Path) -> None:
    """A Python without packages of its own, as in a container where the code is mounted beside it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    program = f"""
from pathlib import Path
from regraft.errors import RegraftError
from regraft_worker.conversion.containers import open_container
try:
    open_container(Path({str(whole)!r}))
except RegraftError as error:
    print(type(error).__name__, error.reason, error)
"""
    command = [tmp_path / "bare" / "bin" / "python", "-c", program]
    environment = os.environ | {"PYTHONPATH": PACKAGES}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert said.startswith("RegraftError reader_not_started"), said
    assert "No module named" in said


def test_what_ends_it_later_is_the_files_matter(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> RegraftError:
        reading, writing = os.pipe()  # cannot be searched: an error that the process does not expect
        os.close(writing)
        try:
            with pytest.raises(RegraftError) as caught:
                look_into(whole, reading, module="_inspect_hdf5")
        finally:
            os.close(reading)
        return caught.value

    assert ended().reason == "unreadable_checkpoint"
    monkeypatch.setattr("regraft_worker.conversion.containers._child.STARTED", "another word")
    assert ended().reason == "reader_not_started"  # without the word nobody could tell
