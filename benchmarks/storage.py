"""What a checkpoint takes to get into a bucket and out again, beside boto3's plain transfers; in one run.

    python -m pip install --no-deps --target /tmp/boto3 boto3 s3transfer
    PYTHONPATH=/tmp/boto3 python benchmarks/storage.py [--megabytes 1000] [--rounds 3] [--folder DIR]

The server is that of the tests, SeaweedFS, a process on this machine, so both sides share its cores and its disk. The
checkpoint has three files of a third each, as weights and two moments are, and random bytes.

1. Upload: `Depot.publish` (digests checked on the way, manifest last) against boto3's `upload_file` of the same files,
   with its defaults (8 MiB parts, ten at a time), which checks nothing against a manifest and publishes nothing. Beside
   them `cp` and a sync of the same files, which is what the disk takes.
2. Download: `Depot.fetch` (every file against its sha256) against `download_file`, alone and with a sha256 of
   each.
3. Resume: an upload whose process is killed when half has arrived, tried again; the seconds of the second try. boto3
   begins anew.

In turns, medians of `--rounds`; bytes in MB of 10^6.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

import boto3  # noqa: E402

from regraft.storage import publish  # noqa: E402
from regraft.storage.depot import Depot  # noqa: E402
from regraft.storage.manifest import file_sha256  # noqa: E402
from regraft.storage.s3_upload import PART_BYTES  # noqa: E402
from s3_server import exported, s3_server  # noqa: E402

BUCKET = "artifacts"
PUBLISHER = TESTS / "integration" / "s3_publisher.py"
FILES = ("model.safetensors", "training_state/first.safetensors", "training_state/second.safetensors")


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=asked.folder))
    (folder / "server").mkdir()
    try:
        with s3_server(folder / "server", bucket=BUCKET) as environment, exported(environment):
            print(json.dumps(measured(asked, folder), indent=2))
    finally:
        shutil.rmtree(folder)


def measured(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of each kind, and what that is in MB/s."""
    made = checkpoint(folder / "made", asked.megabytes * 1_000_000)
    seconds: dict[str, list[float]] = {}
    for number in range(asked.rounds):
        for name, took in turn(made, folder, number):
            seconds.setdefault(name, []).append(took)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "megabytes": asked.megabytes,
        "seconds": medians,
        "MB/s": {name: round(asked.megabytes / took) for name, took in medians.items() if name != "resume"},
        "all": seconds,
        "upload / boto3": medians["upload"] / medians["boto3 upload"],
        "download / boto3": medians["download"] / medians["boto3 download"],
        "download / boto3 with sha256": medians["download"] / medians["boto3 download, sha256"],
        "resume / upload": medians["resume"] / medians["upload"],
    }


def checkpoint(folder: Path, size: int) -> Path:
    """A published checkpoint of so many bytes."""
    with publish(folder, kind="checkpoint") as draft:
        (draft.folder / "training_state").mkdir()
        for name in FILES:
            with (draft.folder / name).open("wb") as file:
                for begin in range(0, size // 3, 1 << 20):
                    file.write(os.urandom(min(1 << 20, size // 3 - begin)))
    return folder


def turn(made: Path, folder: Path, number: int) -> Iterator[tuple[str, float]]:
    """One measurement of each kind."""
    depot, plain = Depot(f"s3://{BUCKET}/ours", notes=folder / "notes"), boto3.client("s3")
    uri, back = f"{depot.root}/{number}", folder / "back"
    yield "cp, synced", seconds(lambda: copied(made, back))
    shutil.rmtree(back)
    yield "upload", seconds(lambda: depot.publish(made, uri))
    yield "boto3 upload", seconds(lambda: each(lambda name: plain.upload_file(str(made / name), BUCKET, name)))
    (back / "training_state").mkdir(parents=True)
    yield "download", seconds(lambda: depot.fetch(uri, back))
    shutil.rmtree(back)
    (back / "training_state").mkdir(parents=True)
    alone = seconds(lambda: each(lambda name: plain.download_file(BUCKET, name, str(back / name))))
    yield "boto3 download", alone
    yield "boto3 download, sha256", alone + seconds(lambda: each(lambda name: file_sha256(back / name)))
    shutil.rmtree(back)
    depot.delete(uri)
    killed_half_way(depot, made, f"{uri}-killed", folder / "notes")
    yield "resume", seconds(lambda: depot.publish(made, f"{uri}-killed"))
    depot.delete(f"{uri}-killed")


def killed_half_way(depot: Depot, made: Path, uri: str, notes: Path) -> None:
    """An upload in a process of its own, killed when half of the parts have arrived."""
    half = sum((made / name).stat().st_size for name in FILES) // 2
    command = [sys.executable, str(PUBLISHER), depot.root, str(made), uri, str(notes), str(PART_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        arrived = 0
        while arrived < half:
            arrived += int(process.stdout.readline())
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)


def copied(made: Path, target: Path) -> None:
    """`cp -r` and a sync of each file."""
    shutil.copytree(made, target)
    for name in FILES:
        with (target / name).open("rb") as file:
            os.fsync(file.fileno())


def each(work: Callable[[str], object]) -> None:
    """All files, one after the other: boto3 has ten parts of one on their way."""
    for name in FILES:
        work(name)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
