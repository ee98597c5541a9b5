"""What `regraft run` does besides the arithmetic: going on, saving, scoring, the order of the data, starting afresh."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from convert_commands import convert

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.specs import TargetSpec, TrainingSpec, TrainTask
from regraft.storage import draft_folder
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.zoo.mdl import Position, write_mdl
from regraft_worker.zoo.params import read_params
from regraft_worker.zoo.run import _state
from regraft_worker.zoo.start import open_start, write_step
from zoo_runs import ASSETS, CONVERTED, FLAT, TRAINER, changed, here, log, run


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here(tmp_path)


def content(path: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(path) as opened:
        return {name: lazy.whole().clone() for name, lazy in opened.tensors.items()}


def assert_equal(left: Path, right: Path) -> None:
    a, b = content(left), content(right)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mdl"))


@pytest.mark.parametrize("form", ["flat", "trainer"])
def test_a_run_in_two_halves_is_the_undisturbed_run_bit_for_bit(tmp_path: Path, form: str) -> None:
    dropout = {"embedding_dropout_rate": 0.1, "attention_dropout_rate": 0.1, "residual_dropout_rate": 0.1}
    shuffled = {"shuffle": True, "shuffle_seed": 5, "data_processor": "GptHDF5MapDataProcessor"}
    shuffled["max_sequence_length"] = None  # type: ignore[assignment]
    if form == "flat":
        params = changed(tmp_path, model=dropout, train_input=shuffled, runconfig={"checkpoint_steps": 4})
    else:
        params = _trainer(tmp_path, dropout, {k: v for k, v in shuffled.items() if v is not None})

    whole = run(tmp_path / "whole", params, max_steps=8)
    first = run(tmp_path / "halves", params, max_steps=4)
    second = run(tmp_path / "halves", params, max_steps=8)

    assert first.losses() + second.losses() == whole.losses()
    assert len(whole.losses()) == 8
    assert_equal(tmp_path / "whole" / "checkpoint_8.mdl", tmp_path / "halves" / "checkpoint_8.mdl")
    assert any("Found latest checkpoint at" in line and "step 4" in line for line in log(tmp_path / "halves"))


def _trainer(folder: Path, model: dict[str, float], reader: dict[str, object]) -> Path:
    found = yaml.safe_load((ASSETS / "train" / "base_tb.yaml").read_text())
    trainer = found["trainer"]
    trainer["init"]["model"] |= model
    trainer["init"]["checkpoint"]["steps"] = 4
    trainer["fit"]["train_dataloader"] |= reader
    del trainer["fit"]["ckpt_path"]
    (folder / "params.yaml").write_text(yaml.safe_dump(found))
    return folder / "params.yaml"


@pytest.mark.parametrize(
    ("named", "asked", "encoding"),
    [(True, None, "hdf5-0.5"), (False, None, "torch-zip"), (True, "torch", "torch-zip"), (False, "hdf5", "hdf5-0.5")],
)
def test_the_trainer_form_is_saved_as_its_release_reads_it_and_gone_on_with(
    tmp_path: Path, named: bool, asked: str | None, encoding: str
) -> None:
    params = _trainer(tmp_path, {}, {})
    if not named:  # as release 2.3 has it, which reads no HDF5 of format 0.5
        found = yaml.safe_load(params.read_text())
        del found["trainer"]["init"]["model"]["name"]
        params.write_text(yaml.safe_dump(found))
    out = tmp_path / "out"
    run(out, params, max_steps=1, checkpoint_format=asked)
    with open_checkpoint(out / "checkpoint_1.mdl") as opened:
        assert opened.encoding == encoding
        assert any(name.startswith("schedulers.") for name in [*opened.values, *opened.tensors])
    assert [*run(out, params, max_steps=2, checkpoint_format=asked).steps] == [2]


@pytest.mark.parametrize("asked", ["hdf5", "safetensors"])
def test_a_format_that_the_file_s_releases_do_not_read_is_refused(tmp_path: Path, asked: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        run(tmp_path / "out", FLAT, max_steps=1, checkpoint_format=asked)
    assert (caught.value.field, caught.value.value) == ("--checkpoint_format", asked)


def test_saving_counts_the_steps_of_this_run(tmp_path: Path) -> None:
    params = changed(tmp_path, runconfig={"checkpoint_steps": 3})
    run(tmp_path / "out", params, max_steps=2)
    assert saved(tmp_path / "out") == ["checkpoint_2.mdl"]
    told = run(tmp_path / "out", params, max_steps=9)
    assert [*told.steps] == [*range(3, 10)]
    assert saved(tmp_path / "out") == ["checkpoint_2.mdl", "checkpoint_5.mdl", "checkpoint_8.mdl", "checkpoint_9.mdl"]
    run(tmp_path / "whole", params, max_steps=9)
    assert_equal(tmp_path / "whole" / "checkpoint_9.mdl", tmp_path / "out" / "checkpoint_9.mdl")


@pytest.mark.parametrize("steps", [0, None])
def test_nothing_is_saved_without_checkpoint_steps(tmp_path: Path, steps: int | None) -> None:
    run(tmp_path / "out", changed(tmp_path, runconfig={"checkpoint_steps": steps}), max_steps=2)
    assert saved(tmp_path / "out") == []
    assert not [*(tmp_path / "out").glob(".regraft*")]


def test_the_initial_checkpoint_and_only_the_newest(tmp_path: Path) -> None:
    run(tmp_path / "a", changed(tmp_path, runconfig={"save_initial_checkpoint": True}), max_steps=2)
    assert saved(tmp_path / "a") == ["checkpoint_0.mdl", "checkpoint_2.mdl"]
    start = run(tmp_path / "b", FLAT, max_steps=2, checkpoint_path=str(tmp_path / "a" / "checkpoint_0.mdl"))
    assert len(start.losses()) == 2
    assert_equal(tmp_path / "a" / "checkpoint_2.mdl", tmp_path / "b" / "checkpoint_2.mdl")
    kept = changed(tmp_path, runconfig={"checkpoint_steps": 1, "keep_checkpoint_max": 2})
    run(tmp_path / "c", kept, max_steps=4)
    assert saved(tmp_path / "c") == ["checkpoint_3.mdl", "checkpoint_4.mdl"]


def test_a_checkpoint_of_the_step_is_kept_and_the_newer_one_is_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, FLAT, max_steps=2)
    run(out, FLAT, max_steps=2, checkpoint_path=str(CONVERTED))
    assert len(saved(out)) == 2
    told = run(out, FLAT, max_steps=3)
    assert [*told.steps] == [3]
    assert any(f"{saved(out)[1]}; going on" in line for line in log(out))


def test_a_checkpoint_that_was_cut_short_is_said_and_passed_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, changed(tmp_path, runconfig={"checkpoint_steps": 1}), max_steps=2)
    whole = (out / "checkpoint_2.mdl").read_bytes()
    (out / "checkpoint_2.mdl").write_bytes(whole[: len(whole) // 2])
    told = run(out, FLAT, max_steps=2)
    assert [*told.steps] == [2]
    assert any("checkpoint_2.mdl is skipped" in line for line in log(out))


def test_max_steps_is_absolute_and_num_steps_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, FLAT, max_steps=3)
    with pytest.raises(InvalidInputError, match="step 3 already"):
        run(out, FLAT, max_steps=3)
    assert [*run(out, FLAT, num_steps=2).steps] == [4, 5]
    epoch = changed(tmp_path, runconfig={"max_steps": None, "num_epochs": 1, "steps_per_epoch": 2})
    assert [*run(out, epoch).steps] == [6, 7]


def test_weights_alone_start_at_step_0(tmp_path: Path) -> None:
    run(tmp_path / "a", FLAT, max_steps=3)
    trained = str(tmp_path / "a" / "checkpoint_3.mdl")
    fresh = run(tmp_path / "b", FLAT, max_steps=2, checkpoint_path=trained, load_checkpoint_states="model")
    assert [*fresh.steps] == [1, 2]
    assert fresh.losses() != run(tmp_path / "c", FLAT, max_steps=2).losses()


def test_another_batch_size_would_read_other_windows_and_is_refused(tmp_path: Path) -> None:
    newer = {"optimizer": {"weight_decay_rate": None, "weight_decay": 0.1}}  # the words of 2.0: a position is saved
    params = changed(tmp_path, **newer)
    run(tmp_path / "out", params, max_steps=2)
    params = changed(tmp_path, train_input={"batch_size": 2}, **newer)
    with pytest.raises(InvalidInputError, match="read 8 windows, not 4"):
        run(tmp_path / "out", params, max_steps=4)
    states = "model,optimizer,lr_scheduler,global_step"
    assert [*run(tmp_path / "out", params, max_steps=4, load_checkpoint_states=states).steps] == [3, 4]


def _two_folders(folder: Path) -> np.ndarray:
    """The data in two folders and three files, each with a remainder; returns all rows in the order of the paths."""
    with h5py.File(folder / "data" / "data-0.h5") as file:
        rows = file["data"][:]
    for name, part in {"b/x.h5": rows[:30], "b/y.h5": rows[30:41], "a/z.h5": rows[41:63]}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with h5py.File(folder / name, "w") as file:
            file["data"] = part
    return np.concatenate([rows[41:63], rows[:30], rows[30:41]])


def test_unshuffled_windows_come_in_file_order_and_a_short_batch_is_left_out(tmp_path: Path) -> None:
    rows = _two_folders(tmp_path)  # 63 windows: 15 batches of 4, and 3 that are left out of every epoch
    with h5py.File(tmp_path / "data" / "data-0.h5", "w") as file:
        file["data"] = np.concatenate([rows[:60], rows[:60]])
    folders = changed(tmp_path, train_input={"data_dir": ["b", "a"]}, runconfig={"max_steps": 20})
    two = run(tmp_path / "two", folders)
    one = run(tmp_path / "one", changed(tmp_path, runconfig={"max_steps": 20}))
    assert two.losses() == one.losses()
    others = changed(tmp_path, train_input={"data_dir": ["b", "a"], "drop_last": False}, runconfig={"max_steps": 20})
    assert run(tmp_path / "others", others).losses()[:15] == one.losses()[:15]
    assert run(tmp_path / "again", others).losses()[15:] != one.losses()[15:]


def test_a_mixture_and_a_subset_are_read(tmp_path: Path) -> None:
    _two_folders(tmp_path)
    parts = [{"data_dir": "a", "weight": 3, "data_subset": "0.0-0.5"}, {"data_dir": ["b"], "weight": 1}]
    reader = {"data_processor": "GptHDF5MapDataProcessor", "max_sequence_length": None, "data_dir": None}
    told = run(tmp_path / "out", changed(tmp_path, train_input={**reader, "mixture": parts}), max_steps=3)
    assert len(told.losses()) == 3


def test_training_with_scores_and_scoring_agree(tmp_path: Path) -> None:
    params = changed(tmp_path, runconfig={"eval_frequency": 2, "checkpoint_steps": 2})
    told = run(tmp_path / "out", params, mode="train_and_eval", max_steps=4)
    run(tmp_path / "out", params, mode="eval_all")
    lines = [line for line in log(tmp_path / "out") if "Avg Eval. Loss" in line]
    scored = [float(line.partition("= ")[2]) for line in lines]
    assert scored == pytest.approx([told.steps[step]["val_loss"] for step in (2, 4)], abs=1e-6)
    run(tmp_path / "out", params, mode="eval", eval_steps=2)
    (short,) = [line for line in log(tmp_path / "out") if "Avg Eval. Loss" in line]
    assert short != lines[1]
    with h5py.File(tmp_path / "data" / "data-0.h5", "a") as file:
        first = file["data"][:8]
        del file["data"], file.attrs["n_examples"]
        file["data"] = first
    run(tmp_path / "out", params, mode="eval")
    assert [line for line in log(tmp_path / "out") if "Avg Eval. Loss" in line] == [short]


def test_a_new_model_is_drawn_from_its_initialisers_and_its_seed(tmp_path: Path) -> None:
    narrow = {"name": "truncated_normal", "mean": 0.0, "std": 0.5}
    model = {"initializer": narrow, "embedding_initializer": {"name": "constant", "val": 0.25}}
    params = changed(tmp_path, model=model, runconfig={"save_initial_checkpoint": True})
    run(tmp_path / "a", params, max_steps=1)
    run(tmp_path / "b", params, max_steps=1)
    assert_equal(tmp_path / "a" / "checkpoint_0.mdl", tmp_path / "b" / "checkpoint_0.mdl")
    found = {n.removeprefix("model.model."): t for n, t in content(tmp_path / "a" / "checkpoint_0.mdl").items()}
    q = found["transformer_decoder.layers.0.self_attn.proj_q_dense_layer.weight"]
    assert 0.40 < float(q.std()) < 0.48  # of a normal cut at two deviations: 0.88 of 0.5
    assert float(q.abs().max()) <= 1.0
    out = found["transformer_decoder.layers.0.self_attn.proj_output_dense_layer.weight"]
    assert float(out.abs().max()) <= 0.04
    assert torch.equal(found["embedding_layer.word_embeddings.weight"], torch.full((512, 64), 0.25))
    assert torch.equal(found["lm_head.bias"], torch.zeros(512))
    other = changed(tmp_path, model=model, runconfig={"save_initial_checkpoint": True, "seed": 2})
    run(tmp_path / "c", other, max_steps=1)
    seeded = content(tmp_path / "c" / "checkpoint_0.mdl")
    assert not torch.equal(seeded["model.model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.weight"], q)


def test_a_run_of_fp16_goes_on_with_the_updates_it_made(tmp_path: Path) -> None:
    run(tmp_path / "out", FLAT, max_steps=4)
    state = torch.load(tmp_path / "out" / "checkpoint_4.mdl", weights_only=True)
    for moments in state["optimizer"]["state"].values():  # as after four steps of which fp16 left out two
        moments["beta1_power"], moments["beta2_power"] = torch.tensor(0.9**3), torch.tensor(0.999**3)
    odd = tmp_path / "odd.mdl"
    torch.save(state, odd)
    half = changed(tmp_path, model={"mixed_precision": True})
    for params, device, updates in ((half, "gpu", 2), (FLAT, "cpu", None)):
        read = read_params(params, mode="train", device=device, given={})
        if updates is None:
            with pytest.raises(InvalidDataError, match="made 2 updates"), open_start(odd, read, to_train=True):
                pass
            continue
        with open_start(odd, read, to_train=True) as found:
            assert (found.updates, found.step) == (updates, 4)
            task = _task(tmp_path, TrainingSpec.model_validate({**read.training, "max_steps": 5}))
            write_step(tmp_path / "step-00000004", found, read, state=_state(task, found, windows=200))
    position = Position(samples=16, seed=1, map_style=False, shuffle=False)
    write_mdl(
        tmp_path / "again.mdl",
        tmp_path / "step-00000004",
        step=4,
        training=task.training,
        era="1.8",
        position=position,
    )
    again = torch.load(tmp_path / "again.mdl", weights_only=True)["optimizer"]["state"]
    assert {round(float(moments["beta2_power"]), 6) for moments in again.values()} == {round(0.999**3, 6)}


def _task(folder: Path, training: TrainingSpec) -> TrainTask:
    where = {"dataset_uri": str(folder), "checkpoint_uri": str(folder), "output_uri": str(folder)}
    return TrainTask(training=training, target=TargetSpec(kind="cpu"), **where)


LINE = {"initial_learning_rate": 1e-3, "end_learning_rate": 1e-4}


@pytest.mark.parametrize("form", ["flat", "trainer"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Polynomial", {**LINE, "power": 2.0, "total_iters": 5}),
        ("Exponential", {"initial_learning_rate": 1e-3, "decay_rate": 0.25, "total_iters": 2}),
        ("InverseSquareRootDecay", {"initial_learning_rate": 0.01, "warmup_steps": 2}),
        ("PiecewiseConstant", {"learning_rates": [1e-3, 1e-4], "milestones": [2]}),
    ],
)
def test_every_schedule_is_saved_and_gone_on_with(
    tmp_path: Path, form: str, name: str, options: dict[str, object]
) -> None:
    if form == "flat":
        schedule = {"learning_rate": [{"scheduler": name, **options}]}
        params = changed(tmp_path, optimizer=schedule, runconfig={"checkpoint_steps": 2})
    else:
        content = yaml.safe_load(TRAINER.read_text())
        content["trainer"]["init"] |= {"schedulers": [{f"{name}LR": options}], "checkpoint": {"steps": 2}}
        del content["trainer"]["fit"]["ckpt_path"]
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump(content))
    whole = run(tmp_path / "whole", params, max_steps=4)
    half = str(tmp_path / "whole" / "checkpoint_2.mdl")
    assert run(tmp_path / "rest", params, max_steps=4, checkpoint_path=half).losses() == whole.losses()[2:]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, []),
        ({"nonlinearity": "gelu_fast"}, []),  # another name of the same function
        ({"nonlinearity": "gelu"}, ["nonlinearity"]),
        ({"nonlinearity": "gelu", "rotary_dim": 4}, ["nonlinearity", "rotary_dim"]),
    ],
)
@pytest.mark.parametrize("checkpoint", [ASSETS / "hf_ckpt" / "gptj_v512", CONVERTED], ids=["hf", "mdl"])
def test_a_params_file_that_contradicts_the_config_beside_the_weights_is_said(
    tmp_path: Path, checkpoint: Path, model: dict[str, object], said: list[str]
) -> None:
    read = read_params(changed(tmp_path, model=model), mode="train", device="cpu", given={})
    with open_start(checkpoint, read, to_train=True) as found:
        assert [note.split()[0] for note in found.notes] == [f"model.{key}" for key in said]
    (tmp_path / "alone.mdl").write_bytes(CONVERTED.read_bytes())
    with open_start(tmp_path / "alone.mdl", read, to_train=True) as found:
        assert found.notes == ()


def test_neox_goes_through_its_own_checkpoints(tmp_path: Path) -> None:
    model = yaml.safe_load((ASSETS / "cs_ckpt" / "neox_par_cs-2.9.yaml").read_text())["model"]
    found = yaml.safe_load(FLAT.read_text())
    found["model"] = {key: value for key, value in model.items() if key not in ("name", "pos_scaling_factor")}
    found["model"] |= {"position_embedding_type": "rotary", "vocab_size": model["vocab_size"]}
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(found))
    base = str(ASSETS / "hf_ckpt" / "neox_par")
    told = run(tmp_path / "whole", params, max_steps=4, checkpoint_path=base)
    run(tmp_path / "halves", params, max_steps=2, checkpoint_path=base)
    run(tmp_path / "halves", params, max_steps=4)
    assert_equal(tmp_path / "whole" / "checkpoint_4.mdl", tmp_path / "halves" / "checkpoint_4.mdl")
    # The checkpoint that the converter makes of it, whose digests are those recorded of the Model Zoo's, is its twin.
    twin = convert(Path(base), "hf", "cs-2.9", tmp_path / "converted")
    assert run(tmp_path / "twin", params, max_steps=4, checkpoint_path=str(twin)).losses() == told.losses()
    assert_equal(tmp_path / "whole" / "checkpoint_4.mdl", tmp_path / "twin" / "checkpoint_4.mdl")


def test_not_strictly_what_is_missing_is_drawn(tmp_path: Path) -> None:
    state = torch.load(CONVERTED, weights_only=True)
    del state["model"]["lm_head.weight"]
    state["model"]["left.over"] = torch.zeros(1)
    torch.save(state, tmp_path / "odd.mdl")
    odd = str(tmp_path / "odd.mdl")
    with pytest.raises(ValueError, match=r"left.over|lm_head"):
        run(tmp_path / "out", FLAT, max_steps=1, checkpoint_path=odd)
    run(tmp_path / "out", FLAT, max_steps=1, checkpoint_path=odd, is_pretrained_checkpoint=True)
    lines = log(tmp_path / "out")
    assert any("drawn anew: lm_head.weight" in line for line in lines)
    assert any("not used: left.over" in line for line in lines)


def test_a_killed_run_leaves_a_folder_that_the_next_one_removes_and_one_under_way_keeps_its(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    leftover = tmp_path / "out" / f".regraft-run-{os.getpid()}"  # as in a pod, whose processes have the same ids
    with draft_folder(tmp_path / "out" / ".regraft-run") as of_another:
        leftover.mkdir()
        run(tmp_path / "out", FLAT, max_steps=1)
        assert not leftover.exists()
        assert of_another.is_dir()
    shutil.rmtree(tmp_path / "out")
