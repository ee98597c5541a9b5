"""Which failures are followed by another attempt, when, and with what changed."""

from __future__ import annotations

import pytest

from regraft.jobs import ReasonClass
from regraft.jobstore.retries import JITTER, Retry, half_the_batch, next_attempt
from regraft.settings import Settings

SETTINGS = Settings(retry_seconds=5, retry_max_seconds=60, capacity_seconds=10, max_attempts=3, capacity_attempts=5)


def after(
    reason_class: ReasonClass | None, failures: int, *, attempts: int = 1, reason: str = "killed"
) -> Retry | None:
    return next_attempt(
        SETTINGS, reason=reason, reason_class=reason_class, failures=failures, attempts=attempts, halved=None
    )


@pytest.mark.parametrize("reason_class", [ReasonClass.INFRASTRUCTURE, ReasonClass.CONTROL_PLANE])
def test_the_platforms_faults_are_retried_with_a_wait_that_doubles(reason_class: ReasonClass) -> None:
    for failures, wait in ((1, 5.0), (2, 10.0)):
        for _ in range(50):
            retry = after(reason_class, failures)
            assert retry is not None
            assert wait <= retry.delay <= wait * (1 + JITTER)
    assert after(reason_class, 3) is None


def test_waits_are_spread() -> None:
    delays = {retry.delay for _ in range(20) if (retry := after(ReasonClass.INFRASTRUCTURE, 1))}
    assert len(delays) > 10


def test_a_full_disk_is_waited_for_longer_and_more_often_up_to_a_bound() -> None:
    found = [after(ReasonClass.CAPACITY, failures, reason="disk_full") for failures in range(1, 6)]
    assert [retry is not None for retry in found] == [True] * 4 + [False]
    assert found[3] is not None
    assert 60.0 <= found[3].delay <= 90.0


@pytest.mark.parametrize(
    "reason_class", [ReasonClass.USER_ERROR, ReasonClass.DATA_ERROR, ReasonClass.LIMIT, ReasonClass.USER_REQUEST, None]
)
def test_what_a_retry_cannot_mend_is_not_retried(reason_class: ReasonClass | None) -> None:
    assert after(reason_class, 1) is None


def test_the_budget_ends_it_whatever_was_achieved() -> None:
    assert after(ReasonClass.INFRASTRUCTURE, 1, attempts=SETTINGS.retry_budget) is None


def test_too_little_memory_is_never_met_in_the_same_way_again() -> None:
    spec = {"training": {"batch_size": 8}}
    half = half_the_batch("train", spec, None)
    assert half == {"micro_batch_size": 4}
    assert half_the_batch("train", spec, half) is None
    assert half_the_batch("train", {"training": {"batch_size": 8, "micro_batch_size": 6}}, None) == {
        "micro_batch_size": 3
    }
    assert half_the_batch("train", {"training": {"batch_size": 1}}, None) is None
    assert half_the_batch("prepare", spec, None) is None
    options = {"reason": "out_of_memory", "reason_class": ReasonClass.CAPACITY, "failures": 1, "attempts": 1}
    assert next_attempt(SETTINGS, **options, halved=half) == Retry(delay=0.0, override=half)  # type: ignore[arg-type]
    assert next_attempt(SETTINGS, **options, halved=None) is None  # type: ignore[arg-type]
