"""What the vendor's client prints, in the forms of its releases, read as things that happened."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.jobs import ReasonClass
from regraft_worker.cerebras.log import ApplianceJob, Done, Happened, LogReader, Saved, Score, Step
from regraft_worker.cerebras.states import ENDED, Failure, reason_of

AT = "2026-03-14 09:26:53,589 INFO:   "
# One line of each form, as releases print them, and what it means.
LINES: list[tuple[str, Happened | None]] = [
    (
        f"{AT}| Train Device=CSX, Step=50, Loss=7.91230, Time=09:26:53",
        Step(kind="Train", step=50, loss=7.9123, rate=None),
    ),
    (
        f"{AT}| Train Device=CSX, Step=100, Loss=5.01234, Rate=310.42 samples/sec, GlobalRate=305.18 samples/sec",
        Step(kind="Train", step=100, loss=5.01234, rate=310.42),
    ),
    (
        f"{AT}| Train Device=CSX, Step=150, Loss=4.50000, Rate=0.0123 samples/sec, GlobalRate=0.0125 samples/sec, "
        "LoopTimeRemaining=0:10:00, TimeRemaining=1:00:00",
        Step(kind="Train", step=150, loss=4.5, rate=0.0123),
    ),
    (
        f"{AT}| Eval Device=CSX, Step=12, Loss=4.25000, Rate=99.00 samples/sec, GlobalRate=98.00 samples/sec",
        Step(kind="Eval", step=None, loss=4.25, rate=99.0),
    ),
    (
        f"{AT}| Eval Device=CSX, GlobalStep=150, Batch=12, Loss=4.25000, Rate=99.00 samples/sec",
        Step(kind="Eval", step=150, loss=4.25, rate=99.0),
    ),
    (f"{AT}Metric: eval/lm_perplexity = 70.105", Score("lm_perplexity", 70.105)),
    (f"{AT}Metric: eval/accuracy = 0.25", Score("accuracy", 0.25)),
    (f"{AT}Avg Eval Loss: 4.25", Score("loss", 4.25)),
    (f"{AT}Avg Eval. Loss = 4.25", Score("loss", 4.25)),
    (f"{AT}Avg eval_metrics = {{'eval/accuracy': 0.25}}", Score("accuracy", 0.25)),
    (f"{AT}Saving checkpoint at step 150", Saved()),
    (f"{AT}Saving checkpoint at step : 150.", Saved()),
    (f"{AT}Saved checkpoint /nfs/runs/a/checkpoint_150.mdl", Saved()),
    (f"{AT}Training completed successfully!", Done()),
    (f"{AT}Training Completed Successfully!", Done()),
    (
        f"{AT}Job id: wsjob-ab2cd3, workflow id: wflow-xy7, namespace: job-operator, remote log path: /n1/wsjob-ab2cd3",
        ApplianceJob(job="wsjob-ab2cd3", workflow="wflow-xy7", mode=None),
    ),
    (f"{AT}Poll ingress status: Waiting for job ingress readiness", None),
    (
        "cerebras.appliance.errors.ApplianceCompilationError: no kernel fits",
        Failure(
            reason="compilation_failed",
            reason_class=ReasonClass.USER_ERROR,
            message="ApplianceCompilationError: no kernel fits",
        ),
    ),
]
WHOLE = "".join(f"{line}\n" for line, _ in LINES).encode()
EXPECTED = [happened for _, happened in LINES if happened is not None]


def read(*chunks: bytes) -> list[Happened]:
    reader = LogReader()
    return [happened for chunk in chunks for happened in reader.feed(chunk)] + list(reader.finish())


@pytest.mark.parametrize(("line", "happened"), LINES)
def test_a_line_of_each_release(line: str, happened: Happened | None) -> None:
    assert read(f"{line}\n".encode()) == ([] if happened is None else [happened])


@given(st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_pieces_that_end_anywhere_say_the_same(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(WHOLE)]
    assert read(*(WHOLE[start:end] for start, end in itertools.pairwise(places))) == EXPECTED


def test_a_record_broken_by_a_line_end_is_put_together_and_never_read_as_less() -> None:
    line = LINES[1][0]
    for cut in range(line.index("CSX"), line.index(", Rate")):
        assert read(f"{line[:cut]}\n{line[cut:]}\n".encode()) == [LINES[1][1]], line[:cut]


def test_half_a_record_is_given_up_at_the_next_line_of_the_log() -> None:
    whole, expected = LINES[1]
    assert read(f"{whole[:60]}\n{whole}\n".encode()) == [expected]
    died, failure = LINES[-1]
    assert read(f"{whole[:60]}\nTraceback\n{died}\n".encode()) == [failure]
    assert read(f"{whole[:60]}\n{died}\n".encode()) == [failure]


def test_which_job_compiles_and_which_executes() -> None:
    said = "".join(
        f"{AT}Initiating a new {mode} wsjob against the cluster server.\n"
        f"{AT}Job id: wsjob-{name}, workflow id: wflow-1,\n"
        for mode, name in (("compile", "a1"), ("execute", "b2"))
    )
    found = [(job.job, job.mode) for job in read(said.encode()) if isinstance(job, ApplianceJob)]
    assert found == [("wsjob-a1", "compile"), ("wsjob-b2", "execute")]


def test_losses_that_are_no_number_colours_and_bytes_that_are_no_text() -> None:
    line = (
        f"\x1b[32m{AT}\x1b[0m| Train Device=CSX, Step=3, Loss=nan, Rate=1.00 samples/sec, GlobalRate=1.00 samples/sec"
    )
    (step,) = read(line.encode() + b"\n\xff\xfe\x00garbage\n")
    assert isinstance(step, Step)
    assert math.isnan(step.loss)


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    reader = LogReader()
    for _ in range(40):
        assert list(reader.feed(b"x" * 10_000)) == []
    assert len(reader._rest) <= 1 << 16
    assert list(reader.feed(b"\n" + LINES[0][0].encode() + b"\n")) == [LINES[0][1]]


@pytest.mark.parametrize(
    ("raised", "reason", "class_"),
    [
        ("ApplianceServiceInterrupted: x", "appliance_interrupted", "infrastructure"),
        ("ApplianceResourceExhausted: x", "appliance_full", "capacity"),
        ("ApplianceUnknownError: x", "appliance_error", "infrastructure"),
        ("ApplianceHealthPollException: x", "appliance_unhealthy", "infrastructure"),
        ("ApplianceVersionError: x", "appliance_version_mismatch", "user_error"),
        ("ClusterConfigError: x", "appliance_config", "user_error"),
        ("MissingVolumeError: x", "appliance_volume_missing", "user_error"),
        ("ApplianceNanError: x", "loss_not_finite", "data_error"),
        ("ClusterJobCancelledByCsctl", "appliance_job_cancelled", "user_request"),
        ("ApplianceRuntimeJobTimeoutError: x", "appliance_time_limit", "limit"),
        ("ApplianceOfTomorrowError: x", "appliance_error", "infrastructure"),
        ("ApplianceUnknownError: StatusCode.UNAVAILABLE", "appliance_unreachable", "infrastructure"),
    ],
)
@pytest.mark.parametrize("module", ["cerebras.appliance.errors.", "cerebras_appliance.errors.", ""])
def test_who_can_mend_a_failure(module: str, raised: str, reason: str, class_: str) -> None:
    (failure,) = read(f"{module}{raised}\n".encode())
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.reason_class) == (reason, class_)
    assert failure.message.startswith(raised.partition(":")[0])


@pytest.mark.parametrize(
    ("phase", "compiles", "reason"),
    [
        ("CREATED", False, "waiting_for_appliance"),
        ("QUEUED", True, "waiting_for_appliance"),
        ("IN_QUEUE", True, "waiting_for_appliance"),
        ("SCHEDULED", False, "waiting_for_appliance"),
        ("INITIALIZING", False, "waiting_for_appliance"),
        ("RUNNING", True, "compiling"),
        ("RUNNING", False, "running"),
        ("IN_PROGRESS", False, "running"),
        ("FAILING", True, "failing"),
        *((phase, False, None) for phase in sorted(ENDED)),
        ("SOMETHING_NEW", False, None),
    ],
)
def test_a_phase_as_a_reason(phase: str, compiles: bool, reason: str | None) -> None:
    assert reason_of(phase, compiles=compiles) == reason
