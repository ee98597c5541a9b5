"""A run that is killed at 25 moments ends as if nothing had happened, and its ledger proves what it has read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from killed_runs import asked
from tiny_runs import DROPOUT, GPTJ, Recorder, contents, windows, write_dataset, write_model, write_split

from regraft_worker.trainer import checkpoint, loop

KILLS = 25


def test_a_run_killed_25_times_in_steps_saves_and_evaluations_gives_the_same_bits_and_losses(tmp_path: Path) -> None:
    write_model(tmp_path / "base", {**GPTJ, **DROPOUT})
    write_dataset(tmp_path / "dataset")
    write_split(tmp_path / "general", windows(5, seed=3))
    undisturbed = Recorder()
    loop.train(asked(tmp_path, tmp_path / "a"), undisturbed)

    log, script = tmp_path / "log", Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, str(script), str(tmp_path), str(tmp_path / "b"), str(log), "7", str(KILLS)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)

    found = json.loads(said.stdout)
    assert found["last"] == 0
    assert Counter(found["killed"]) == {"step": 9, "save": 8, "evaluation": 8}
    expected = dict(undisturbed.steps)
    reported = [json.loads(line) for line in log.read_text().splitlines()]
    assert {step for step, _ in reported} == set(expected)
    assert all(expected[step] == metrics for step, metrics in reported)
    one, other = tmp_path / "a" / "step-00000032", tmp_path / "b" / "step-00000032"
    assert contents(one) == contents(other)
    assert not list((tmp_path / "b").glob(".tmp-*"))
    # The watch for spikes and the best score came through it as well, and there was something to watch.
    before, after = checkpoint.read_state(one), checkpoint.read_state(other)
    assert before.without_effect
    for field in ("best", "watched", "spikes", "without_effect", "ledger", "scores", "baseline", "scalars"):
        left, right = getattr(before, field), getattr(after, field)
        if field == "ledger":
            assert left is not None
            assert right is not None
            left, right = left.identity, right.identity
        assert left == right, field
