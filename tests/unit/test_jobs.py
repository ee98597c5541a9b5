"""The table of states."""

import itertools

import pytest

from regraft.jobs import (
    JOB_ENDED,
    JOB_TRANSITIONS,
    NEEDS,
    STAGE_DONE,
    STAGE_ENDED,
    STAGE_TRANSITIONS,
    IllegalTransitionError,
    JobStatus,
    StageName,
    StageStatus,
    job_transition,
    now_ready,
    stage_transition,
    status_of_job,
)

S, J, N = StageStatus, JobStatus, StageName


def stages(**status: StageStatus) -> dict[StageName, StageStatus]:
    """Of a job without a preflight, unless it is named."""
    names = [name for name in N if name is not N.PREFLIGHT or name in status]
    return {name: status.get(name, S.PENDING) for name in names}


def test_every_status_has_a_row() -> None:
    assert set(JOB_TRANSITIONS) == set(J)
    assert set(STAGE_TRANSITIONS) == set(S)


def test_every_status_can_be_reached_from_the_first() -> None:
    for table, first in ((JOB_TRANSITIONS, J.QUEUED), (STAGE_TRANSITIONS, S.PENDING)):
        reached = {first}
        for _ in table:
            reached |= set(itertools.chain.from_iterable(table[status] for status in reached))
        assert reached == set(table)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(J, J)))
def test_a_job_moves_only_along_the_table(old: JobStatus, new: JobStatus) -> None:
    if new in JOB_TRANSITIONS[old]:
        assert job_transition(old, new) is new
    else:
        with pytest.raises(IllegalTransitionError, match=f"from {old} to {new}"):
            job_transition(old, new)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
def test_a_stage_moves_only_along_the_table(old: StageStatus, new: StageStatus) -> None:
    if new in STAGE_TRANSITIONS[old]:
        assert stage_transition(old, new) is new
    else:
        with pytest.raises(IllegalTransitionError, match=f"from {old} to {new}"):
            stage_transition(old, new)


def test_what_is_done_stays_done() -> None:
    assert all(not STAGE_TRANSITIONS[status] for status in STAGE_DONE)
    assert not JOB_TRANSITIONS[J.SUCCEEDED]


def test_prepare_and_convert_are_ready_at_once_and_the_others_wait() -> None:
    assert now_ready(stages()) == [N.PREPARE, N.CONVERT]


def test_a_preflight_comes_before_anything_is_spent() -> None:
    assert now_ready(stages(preflight=S.PENDING)) == [N.PREFLIGHT]
    assert now_ready(stages(preflight=S.RUNNING)) == []
    assert now_ready(stages(preflight=S.SUCCEEDED)) == [N.PREPARE, N.CONVERT]


def test_train_waits_for_both() -> None:
    assert now_ready(stages(prepare=S.CACHED, convert=S.RUNNING)) == []
    assert now_ready(stages(prepare=S.CACHED, convert=S.SUCCEEDED)) == [N.TRAIN]


def test_needs_come_before_who_needs_them() -> None:
    order = list(NEEDS)
    assert all(order.index(need) < order.index(name) for name, needs in NEEDS.items() for need in needs)


@pytest.mark.parametrize(
    ("current", "found", "expected"),
    [
        (J.QUEUED, stages(prepare=S.READY), J.QUEUED),
        (J.QUEUED, stages(prepare=S.RUNNING), J.RUNNING),
        (J.RUNNING, stages(prepare=S.SUCCEEDED, convert=S.READY), J.RUNNING),
        (J.RUNNING, stages(prepare=S.FAILED, convert=S.RUNNING), J.RUNNING),
        (J.RUNNING, stages(prepare=S.FAILED, convert=S.CANCELLED), J.FAILED),
        (J.CANCELLING, stages(prepare=S.RUNNING), J.CANCELLING),
        (J.CANCELLING, stages(prepare=S.FAILED, convert=S.CANCELLED), J.CANCELLED),
        (J.RUNNING, dict.fromkeys(N, S.SUCCEEDED), J.SUCCEEDED),
        (J.RUNNING, dict.fromkeys(N, S.CACHED), J.SUCCEEDED),
    ],
)
def test_a_jobs_status_follows_from_its_stages(
    current: JobStatus, found: dict[StageName, StageStatus], expected: JobStatus
) -> None:
    assert status_of_job(current, found) is expected


def test_a_job_ends_only_where_its_stages_have_ended() -> None:
    for combination in itertools.product(S, repeat=3):
        found = dict(zip((N.PREPARE, N.CONVERT, N.TRAIN), combination, strict=True))
        if status_of_job(J.RUNNING, found) in JOB_ENDED:
            assert S.RUNNING not in combination
            assert set(combination) <= STAGE_ENDED | {S.PENDING, S.READY}
