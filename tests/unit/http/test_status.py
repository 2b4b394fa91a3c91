from __future__ import annotations

from stream_executor.http.status import (
    LaneStatus,
    ServiceStatus,
    WorkerStatus,
    judge_health,
    judge_readiness,
)
from stream_executor.model.conditions import Condition, Trouble
from stream_executor.model.lanes import LaneState


def instance(*workers: WorkerStatus, draining: bool = False) -> ServiceStatus:
    return ServiceStatus("1.0", "host", 0, draining, workers)


def worker(*states: LaneState, slot: int = 0, **fields: object) -> WorkerStatus:
    lanes = tuple(
        LaneStatus(10 * slot + n, state, "lost records")
        for n, state in enumerate(states)
    )
    values: dict[str, object] = {"reporting": True, "ready": True, **fields}
    return WorkerStatus(slot, f"host-{slot}", 1, lanes=lanes, **values)  # type: ignore[arg-type]


def test_one_halted_lane_is_named_but_does_not_make_the_instance_unhealthy() -> None:
    verdict = judge_health(instance(worker(LaneState.RUNNING, LaneState.HALTED)))
    assert verdict.ok
    assert verdict.reasons == ("lane 1 is halted: lost records",)


def test_no_lane_that_can_work_is_unhealthy() -> None:
    assert not judge_health(
        instance(worker(LaneState.HALTED), worker(LaneState.BLOCKED, slot=1))
    ).ok


def test_a_stand_by_without_lanes_is_healthy_and_ready() -> None:
    assert judge_health(instance(worker())).ok
    assert judge_readiness(instance(worker())).ok


def test_a_stand_by_does_not_hide_that_every_lane_is_halted() -> None:
    assert not judge_health(instance(worker(LaneState.HALTED), worker(slot=1))).ok


def test_an_audit_that_cannot_be_written_is_unhealthy_with_its_reason() -> None:
    verdict = judge_health(
        instance(worker(LaneState.RUNNING, audit_writable=False, note="no brokers"))
    )
    assert not verdict.ok
    assert "audit topic cannot be written: no brokers" in verdict.reasons[0]


def test_one_worker_that_can_write_keeps_the_instance_healthy() -> None:
    assert judge_health(
        instance(
            worker(LaneState.RUNNING, audit_writable=False),
            worker(LaneState.RUNNING, slot=1),
        )
    ).ok


def test_before_the_first_report_nothing_can_work() -> None:
    silent = WorkerStatus(0, "host-0", 1)
    assert not judge_health(instance(silent)).ok
    assert not judge_readiness(instance(silent)).ok


def test_ready_means_every_worker_is_a_member_with_its_views_read() -> None:
    verdict = judge_readiness(
        instance(worker(), worker(slot=1, ready=False, note="reads wasm.control"))
    )
    assert not verdict.ok
    assert verdict.reasons == ("worker host-1: reads wasm.control",)


def test_draining_is_healthy_but_not_ready() -> None:
    status = instance(worker(LaneState.RELEASING), draining=True)
    assert judge_health(status).ok
    assert not judge_readiness(status).ok


def test_lag_is_zero_until_the_position_is_known() -> None:
    assert LaneStatus(0, LaneState.ACQUIRING, end=50).lag == 0
    assert LaneStatus(0, LaneState.RUNNING, next=20, end=50).lag == 30


def test_lanes_come_by_partition_and_the_engine_from_any_worker() -> None:
    status = instance(
        worker(LaneState.RUNNING, slot=1), worker(LaneState.RUNNING, engine="wasmtime")
    )
    assert [lane.partition for lane in status.lanes] == [0, 10]
    assert status.engine == "wasmtime"


def test_conditions_are_reasons_and_each_is_named_once() -> None:
    early = Trouble(Condition.CLOCK_APART, "early", 1)
    late = Trouble(Condition.CLOCK_APART, "late", 2)
    full = Trouble(Condition.DISK_FULL, "full", 3)
    status = ServiceStatus(
        "1.0", "host", 0, False,
        (worker(troubles=(late,)), worker(slot=1, troubles=(early,))), disks=(full,),
    )  # fmt: skip
    assert status.troubles == [early, full]
    verdict = judge_health(status)
    assert verdict.ok
    assert verdict.reasons == (str(early), str(full))
