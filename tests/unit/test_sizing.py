"""Parameters, memory, time and disk of a training, in numbers that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from regraft.families import Architecture, gpt_neox, gptj
from regraft.sizing import (
    CPU_CORE,
    DEVICES,
    Finished,
    Setup,
    bytes_per_parameter,
    calibrated_pace,
    counts_of,
    device_named,
    disk_of,
    fit_of,
    flops_per_token,
    host_snapshot_bytes,
    measured_pace,
    memory_of,
    pace_of,
    remedies,
    setup_of_job,
)
from regraft.specs import CheckpointSpec, OutputSpec, TargetSpec, TrainingSpec

from helpers import spec  # isort: skip

GPTJ_6B = gptj.FAMILY.read_config({"model_type": "gptj"})
NEOX_20B = gpt_neox.FAMILY.read_config({"model_type": "gpt_neox"})
H100 = 85_000_000_000
RECIPE = Setup(batch_size=56, length=512, precision="bf16")


def fit(setup: Setup, *, memory: int = H100, model: Architecture = GPTJ_6B) -> int:
    """The largest micro-batch."""
    return fit_of(model, setup, memory_bytes=memory, on_cpu=False).largest


def test_parameters_of_the_published_models_are_exact() -> None:
    assert counts_of(GPTJ_6B).total == 6_050_882_784
    assert counts_of(NEOX_20B).total == 20_554_567_680


def test_flops_of_a_token() -> None:
    # 6 x (28 blocks of 12 H^2 + 50400 H), and attention over 2048 positions; the input embedding multiplies nothing.
    by_hand = 6 * (28 * 12 * 4096**2 + 50400 * 4096) + 12 * 28 * 4096 * 2048
    assert flops_per_token(GPTJ_6B, length=2048) == by_hand
    assert flops_per_token(GPTJ_6B, length=2048, recompute=True) == pytest.approx(by_hand * 4 / 3)
    assert by_hand == pytest.approx(37.9e9, rel=0.001)


def test_gptj_6b_does_not_fit_80_gb_at_16_bytes_a_parameter_and_does_at_10() -> None:
    full = RECIPE.with_(checkpointing="full")
    assert bytes_per_parameter(full) == 16
    # Weights, gradients and moments alone are more than the card has, so no micro-batch and no recomputing helps.
    classic = memory_of(GPTJ_6B, full, micro_batch=1, on_cpu=False)
    assert classic.weights + classic.gradients + classic.optimizer == 16 * 6_050_882_784
    assert H100 < 16 * 6_050_882_784
    assert [fit(RECIPE.with_(checkpointing=kind)) for kind in ("none", "selective", "full")] == [0, 0, 0]
    eight_bit = full.with_(optimizer="adamw_8bit")
    assert bytes_per_parameter(eight_bit) == pytest.approx(10, abs=0.05)
    found = fit_of(GPTJ_6B, eight_bit, memory_bytes=H100, on_cpu=False)
    assert (found.fits, found.micro_batch) == (True, 56)
    assert found.memory.weights + found.memory.gradients + found.memory.optimizer == pytest.approx(60.7e9, rel=0.01)
    assert found.memory.peak < 0.8 * H100
    assert fit(full.with_(optimizer="adamw_8bit", precision="fp32")) == 56


def test_the_remedies_say_how_and_each_of_them_is_true() -> None:
    found = remedies(GPTJ_6B, RECIPE, memory_bytes=H100, devices=8, on_cpu=False)
    first = found[0].changes
    assert first == {"training.activation_checkpointing": "full", "training.optimizer.name": "adamw_8bit"}
    assert {remedy.changes.get("target.devices") for remedy in found[1:]} == {2, 4, 8}
    names = {
        "training.activation_checkpointing": "checkpointing",
        "training.optimizer.name": "optimizer",
        "target.devices": "devices",
        "target.strategy": "strategy",
    }
    for remedy in found:
        changed = RECIPE.with_(**{names[field]: value for field, value in remedy.changes.items()})
        assert fit(changed) == remedy.largest > 0
        assert str(remedy.largest) in str(remedy)


def test_a_micro_batch_that_is_too_large_alone_is_the_gentlest_remedy() -> None:
    small = Setup(batch_size=64, length=2048, micro_batch=64, precision="bf16")
    model = replace(GPTJ_6B, num_layers=6)
    found = fit_of(model, small, memory_bytes=H100, on_cpu=False)
    assert not found.fits
    assert 0 < found.largest < 64
    assert fit_of(model, small.with_(micro_batch=found.largest), memory_bytes=H100, on_cpu=False).fits
    (first, *_) = remedies(model, small, memory_bytes=H100, devices=1, on_cpu=False)
    assert first.changes == {"training.micro_batch_size": None}
    assert first.largest == found.largest


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    model, setup = replace(GPTJ_6B, num_layers=6), Setup(batch_size=4096, length=2048)
    largest = fit(setup, model=model)
    peaks = [memory_of(model, setup, micro_batch=n, on_cpu=False).peak for n in (largest, largest + 1)]
    assert peaks[0] <= 0.95 * H100 < peaks[1]


def test_sharding_divides_what_stays_and_ddp_does_not() -> None:
    one, ddp, fsdp = (
        memory_of(GPTJ_6B, RECIPE.with_(strategy=kind, devices=count), micro_batch=1, on_cpu=False)
        for kind, count in (("single", 1), ("ddp", 8), ("fsdp", 8))
    )
    assert ddp.weights == one.weights
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == (
        one.weights // 8,
        one.gradients // 8,
        one.optimizer // 8,
    )
    # What is gathered, in fp32 also here: embedding and head with their gradients; two blocks, the gradients of one.
    block = 12 * 4096**2 + 7 * 4096
    root = 2 * 50400 * 4096 + 50400 + 2 * 4096
    assert fsdp.working_copies - one.working_copies == 4 * (2 * root + 3 * block)
    assert fit(RECIPE.with_(strategy="fsdp", devices=8, checkpointing="full")) == 7


def test_gradients_and_activations_are_there_together_only_when_a_step_takes_several_passes() -> None:
    model, setup = replace(GPTJ_6B, num_layers=6), Setup(batch_size=8, length=2048)
    whole, half = (memory_of(model, setup, micro_batch=n, on_cpu=False) for n in (8, 4))
    stays = whole.weights + whole.optimizer + whole.overhead
    assert whole.peak == pytest.approx(stays + whole.activations + whole.logits, rel=1e-6)
    assert half.peak == pytest.approx(stays + half.activations + half.logits + half.gradients, rel=1e-6)


def test_lower_precision_and_recomputing_take_less_for_activations() -> None:
    def activations(**options: object) -> int:
        return memory_of(GPTJ_6B, RECIPE.with_(**options), micro_batch=4, on_cpu=False).activations

    assert activations(precision="fp16") == activations() < activations(precision="fp32")
    assert activations(checkpointing="full") < activations(checkpointing="selective") < activations()
    assert activations(dropout=True) > activations()


def test_the_copy_of_a_checkpoint_being_written_is_in_main_memory() -> None:
    assert host_snapshot_bytes(GPTJ_6B) == 12 * 6_050_882_784


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A10", "A10"),
        ("Tesla T4", "T4"),
        ("h100", "H100"),
        ("L40S", "L40S"),
    ],
)
def test_cards_are_known_by_the_names_drivers_give_them(name: str, row: str) -> None:
    found = device_named(name)
    assert found is not None
    assert found.name == row


def test_a_card_that_is_not_in_the_table_is_not_guessed() -> None:
    assert device_named("NVIDIA GeForce RTX 4090") is None
    assert all(device.source and 0 < device.efficiency[0] <= device.efficiency[1] for device in DEVICES)


def test_calibrated_time_is_flops_over_rate_times_efficiency_and_the_update() -> None:
    device = device_named("H100")
    assert device is not None
    setup = RECIPE.with_(length=2048)
    pace = calibrated_pace(GPTJ_6B, setup, device=device, cores=1)
    assert pace is not None
    tokens = 56 * 2048
    by_hand = tokens * flops_per_token(GPTJ_6B, length=2048) / (0.40 * 989.4e12) + 6_050_882_784 * 30 / 3.35e12
    assert pace.likely == pytest.approx(tokens / by_hand)
    assert pace.low < pace.likely < pace.high
    # A published run of this size, 7B on H100: 10.6 thousand tokens/s and device at 2048 tokens.
    assert 7_000 < pace.low < 10_643 < pace.high < 15_000
    assert calibrated_pace(GPTJ_6B, setup, device=device_named("T4"), cores=1) is None, "it has no bf16"  # type: ignore[arg-type]


def test_more_cores_and_more_devices_are_faster() -> None:
    setup = Setup(batch_size=8, length=256)
    one, four = (calibrated_pace(GPTJ_6B, setup, device=CPU_CORE, cores=n) for n in (1, 4))
    assert one is not None
    assert four is not None
    assert 2 * one.likely < four.likely < 4 * one.likely


def finished(**changes: object) -> Finished:
    run = Finished(
        target="gpu", devices=1, precision="bf16", parameters=6_050_882_784, length=512, tokens_per_second=9000.0
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def test_finished_runs_of_similar_shape_take_the_place_of_the_table() -> None:
    history = [finished(tokens_per_second=rate) for rate in (5000.0, 9000.0, 9500.0)]
    pace = measured_pace(GPTJ_6B, RECIPE, target="gpu", history=history)
    assert pace is not None
    assert (pace.low, pace.likely) == (5000.0, 9000.0)
    assert pace.high == pytest.approx(9000 * 1.15)
    assert "3 finished" in pace.basis
    device = device_named("H100")
    known = pace_of(GPTJ_6B, RECIPE, target="gpu", device=device, cores=1, history=history)
    assert known == pace
    none = pace_of(GPTJ_6B, RECIPE, target="gpu", device=device, cores=1, history=[])
    assert none is not None
    assert "calibration table" in none.basis


def test_runs_of_other_shapes_do_not_count() -> None:
    for changes in (
        {"target": "cpu"},
        {"devices": 8},
        {"precision": "fp32"},
        {"length": 2048},
        {"parameters": 1_000_000_000},
    ):
        assert measured_pace(GPTJ_6B, RECIPE, target="gpu", history=[finished(**changes)]) is None


def test_a_run_of_half_the_size_is_scaled() -> None:
    pace = measured_pace(GPTJ_6B, RECIPE, target="gpu", history=[finished(parameters=6_050_882_784 // 2)])
    assert pace is not None
    assert pace.likely == pytest.approx(4500)


def test_disk_counts_what_is_there_at_once() -> None:
    weights, whole = 4 * 6_050_882_784, 12 * 6_050_882_784
    spec_ = CheckpointSpec(every_steps=1000, keep_last=3, keep_best="val_loss")
    found = disk_of(GPTJ_6B, spec_, OutputSpec(formats=("hf", "cs-1.8")), steps=25_000, tokens=1000)
    assert found.checkpoints == 5 * whole, "three, the best, and the one being written"
    assert (found.base_checkpoint, found.exports, found.dataset) == (weights, 2 * weights, 12_000)
    assert found.total == 3 * weights + 5 * whole + 12_000
    short = disk_of(GPTJ_6B, CheckpointSpec(), OutputSpec(), steps=1500, tokens=None)
    assert (short.checkpoints, short.dataset) == (2 * whole, None)


class Richer(TrainingSpec):
    """A training with options that a trainer may have."""

    micro_batch_size: int | None = None
    activation_checkpointing: str = "none"


class Placed(TargetSpec):
    strategy: str = "auto"


def test_the_options_of_a_job_are_read() -> None:
    job = spec(dataset={"uri": "/c", "max_sequence_length": 128})
    assert setup_of_job(job) == Setup(batch_size=8, length=128)
    training = Richer(micro_batch_size=2, activation_checkpointing="full", precision="bf16")
    richer = job.model_copy(update={"training": training, "target": Placed(kind="gpu", devices=4)})
    assert setup_of_job(richer, dropout=True) == Setup(
        batch_size=8,
        length=128,
        micro_batch=2,
        precision="bf16",
        checkpointing="full",
        strategy="fsdp",
        devices=4,
        dropout=True,
    )
