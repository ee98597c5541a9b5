"""The loss scale of fp16 in a `.mdl`: written where the release has it, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from regraft.specs import TargetSpec, TrainingSpec, TrainTask
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.trainer.precision import GROWTH_INTERVAL, LossScaler
from regraft_worker.zoo.mdl import Position, write_mdl
from regraft_worker.zoo.params import Params, read_params
from regraft_worker.zoo.run import _state
from regraft_worker.zoo.start import Found, open_start, write_step
from zoo_runs import FLAT, TRAINER, changed, here, run

POSITION = Position(samples=8, seed=1, map_style=False, shuffle=False)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here(tmp_path)


def in_half(folder: Path, era: str) -> Path:
    if era == "1.8":
        return changed(folder, model={"mixed_precision": True})
    if era == "2.2":
        return changed(folder, model={"mixed_precision": True, "fp16_type": "float16"})
    found: dict[str, Any] = yaml.safe_load(TRAINER.read_text())
    found["trainer"]["init"]["precision"] = {"enabled": True, "fp16_type": "float16", "max_gradient_norm": 1.0}
    path = folder / "half.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def read(path: Path, **given: object) -> Params:
    params = read_params(path, mode="train", device="gpu", given=given)
    assert params.training["precision"] == "fp16"
    return params


def state(folder: Path, params: Params, found: Found) -> dict[str, Any]:
    """What the trainer would go on from."""
    where = {"dataset_uri": str(folder), "checkpoint_uri": str(folder), "output_uri": str(folder)}
    training = TrainingSpec.model_validate({**params.training, "max_steps": 5})
    made: Any = _state(TrainTask(training=training, target=TargetSpec(kind="cpu"), **where), found, windows=200)
    return dict(made)


def with_scale(folder: Path, params: Params, scaler: LossScaler) -> Path:
    """A checkpoint of step 2, as a run of fp16 with this scale would have saved it."""
    run(folder / "out", FLAT, max_steps=2)
    with open_start(folder / "out" / "checkpoint_2.mdl", params, to_train=True) as found:
        assert found.scaler == {}, "a run without fp16 has no scale"
        made = state(folder, params, found)
        made["scalars"] |= scaler.scalars()
        write_step(folder / "step-00000002", found, params, state=made)
    path, training = folder / "half.mdl", TrainingSpec.model_validate(made["training"])
    write_mdl(path, folder / "step-00000002", step=2, training=training, era=params.era, position=POSITION)
    return path


def scaler_after_some_steps() -> LossScaler:
    scaler = LossScaler()
    for finite in (False, False, True, True, True):
        scaler.overflowed(finite=finite)
    assert (scaler.scale, scaler.good_steps, scaler.skipped) == (2.0**14, 3, 2)
    return scaler


@pytest.mark.parametrize("era", ["1.8", "2.2", "2.10"])
def test_the_scale_is_saved_and_gone_on_with(tmp_path: Path, era: str) -> None:
    params = read(in_half(tmp_path, era))
    scaler = scaler_after_some_steps()
    path = with_scale(tmp_path, params, scaler)

    with open_start(path, params, to_train=True) as found:
        again = LossScaler()
        again.restore(state(tmp_path, params, found)["scalars"])
    assert (again.scale, again.good_steps) == (scaler.scale, scaler.good_steps)
    assert again.skipped == (0 if era == "1.8" else 2)  # torch's scaler does not count them

    without = read(in_half(tmp_path, era), load_checkpoint_states="model,optimizer,lr_scheduler,global_step")
    with open_start(path, without, to_train=True) as found:
        assert found.scaler == {}


@pytest.mark.parametrize(("era", "place"), [("1.8", "scaler"), ("2.2", "grad_scaler"), ("2.10", "grad_scaler")])
def test_the_scalers_of_their_side_can_take_it(tmp_path: Path, era: str, place: str) -> None:
    """torch's own loads it; of the vendor's, the names and types by its source."""
    path = with_scale(tmp_path, read(in_half(tmp_path, era)), scaler_after_some_steps())
    with open_checkpoint(path) as opened:
        values = {name: value for name, value in opened.values.items() if "scaler." in name}
        tensors = {name: lazy.whole() for name, lazy in opened.tensors.items() if "scaler." in name}
    torchs = torch.amp.GradScaler("cpu")
    torchs.load_state_dict({name.removeprefix(f"{place}."): value for name, value in values.items()})
    assert (torchs.get_scale(), torchs.get_growth_interval(), torchs._growth_tracker) == (
        2.0**14,
        GROWTH_INTERVAL,
        None,
    )
    assert values[f"{place}._growth_tracker"] == 3
    vendors = {"loss_scale": 2.0**14, "steps_since_rescale": 3, "overflows_since_rescale": 0, "num_skipped_steps": 2}
    found = {name: tensor.item() for name, tensor in tensors.items()}
    assert found == ({} if era == "1.8" else {f"{place}.{name}": value for name, value in vendors.items()})
    kinds = {tensor.dtype for name, tensor in tensors.items() if name != f"{place}.loss_scale"}
    assert kinds <= {torch.int64}
