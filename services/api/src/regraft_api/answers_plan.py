"""The example of a plan, for the API's description."""

from __future__ import annotations

from regraft.planning.answer import DiskPlan, MemoryPlan, Plan, StagePlan, TargetPlan, TimePlan, WorkPlan
from regraft.specs import JobSpec
from regraft_api.examples import JOBS

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def spelled_out() -> JobSpec:
    """The job that the examples are about."""
    return JobSpec.model_validate(JOBS["spelled-out"]["value"])


def plan() -> Plan:
    """Half of it is done already: the corpus is prepared."""
    run = {"expected": "run", "why": "nothing is published of these options and inputs"}
    return Plan(
        plan_hash=DIGEST[:32],
        spec=spelled_out().model_dump(mode="json", by_alias=True),
        stages=(
            StagePlan(
                name="prepare",
                queue="prepare",
                expected="cached",
                why="the same options and unchanged inputs",
                uri="file:///data/regraft/storage/datasets/3f1c",
            ),
            StagePlan.model_validate({"name": "train", "queue": "train.cpu", **run}),
        ),
        work=WorkPlan(
            parameters=6_053_381_344,
            flops_per_token=3.7e10,
            steps=25000,
            tokens=716_800_000,
            epochs=1.9,
            windows=736_842,
            windows_from="dataset",
        ),
        targets=(_target(),),
        disk=DiskPlan(
            base_checkpoint=24_213_525_376,
            checkpoints=217_921_728_384,
            exports=48_427_050_752,
            dataset=9_053_511_680,
            total=299_615_816_192,
        ),
    )


def _target() -> TargetPlan:
    memory = MemoryPlan(
        weights=24_213_525_376,
        working_copies=0,
        gradients=24_213_525_376,
        optimizer=48_427_050_752,
        activations=2_147_483_648,
        logits=412_876_800,
        update=824_180_736,
        overhead=1_073_741_824,
        peak=101_312_384_512,
        available=274_877_906_944,
    )
    time = TimePlan(
        tokens_per_second=240.0,
        step_seconds=119.5,
        seconds=2_987_500.0,
        seconds_low=2_390_000.0,
        seconds_high=3_884_000.0,
        basis="1 finished run(s) of similar shape",
    )
    return TargetPlan(
        kind="cpu",
        device="16 cores",
        devices=1,
        strategy="single",
        asked=True,
        fits=True,
        micro_batch_size=56,
        memory=memory,
        host_snapshot_bytes=72_640_576_128,
        time=time,
    )
