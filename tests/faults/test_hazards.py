"""The hazards of aiokafka 0.14 and of the design's attacks, each with its test.

Sources: the project's fact pages on the audit (2.2, hazards 1 to 14) and on attacks
(A1 to A16, B1). What is not here does not touch us: aiokafka's consumer and its
offsets in transactions are never used (hazards 8 and 12).

hazard → test
-------------
1 a failed send commits silently → test_a_failed_send_never_commits
2 sequence numbers wrap → test_a_producer_is_renewed_before_its_sequence_numbers_wrap
3 an expired batch leaves a hole → test_a_leader_that_stays_away_runs_into_the_deadline
4 fenced before it began
  → test_fenced_before_its_first_transaction_is_still_fenced
5 state checks are assertions → test_a_python_without_assertions_is_refused
6 commit without a time-out → test_a_lost_request_or_answer_is_doubt_and_the_log_decides
7 unknown error codes → test_each_error_falls_into_its_class_of_failure
9 a coordinator that moves
  → test_a_lanes_coordinator_is_killed_and_restarted_under_load
10 listener errors are swallowed → test_what_the_receiver_raises_is_raised_by_failed
11 one join for each assignor → test_a_member_joins_once_and_commits_nothing_by_itself
13 a wait of 20 ms → test_the_marker_wait_is_set
14 a consumer that stands still → test_each_fault_once_under_load
14 a watchdog for the rest → test_a_lane_that_stands_still_is_named
D3 a late EndTxn → test_a_late_end_txn_ends_no_later_transaction
A1 two producers of a lane → test_a_zombie_is_fenced_and_publishes_nothing
A2 the id names the resource → test_the_transactional_id_names_the_audit_partition
A3 a fenced owner fences back → test_each_fault_once_under_load
A4 aborted requests are delivered → test_aborted_records_are_never_handed_out
A5 markers take offsets → test_markers_are_attested_as_gaps
A6 time set by producers → test_each_hostile_batch_gets_its_answers_and_good_records_run
A7 a topic made anew → test_a_topic_made_anew_under_a_running_writer_stops_it
A7 another log for the fetch → test_another_log_is_not_taken_for_the_one_before
A8 an audit tail that is lost → test_an_audit_log_that_lost_its_tail_halts_the_lane
A9 a result too large → test_a_result_too_large_for_its_topic_becomes_output_limit
A14 a view that lags → test_steady_writes_leave_the_view_confirmed
B1 hostile batches → test_every_offset_of_every_accepted_batch_comes_out
B1 on a running lane → test_each_hostile_batch_gets_its_answers_and_good_records_run
B1 dozens at once → test_many_small_bombs_in_one_poll_are_opened_a_few_at_a_time
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from stream_executor.kafka.membership import GroupMembership, MembershipOptions
from stream_executor.kafka.writer import LaneWriter
from tests.faults.proxy import Api, Do, FaultProxy

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic

TESTS = Path(__file__).parents[1]


def test_every_named_test_exists() -> None:
    named = set(re.findall(r"→ (test_\w+)", __doc__ or ""))
    found = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert named <= found


def test_the_transactional_id_names_the_audit_partition(
    plain: KafkaConnection,
) -> None:
    """Whatever group or deployment: any second writer fences the first, loudly."""
    writer = LaneWriter(plain, results_topic="r", audit_topic="some.audit", partition=7)
    assert writer.transactional_id == "wasm-executor.some.audit.7"


async def test_a_member_joins_once_and_commits_nothing_by_itself(
    proxy: FaultProxy, connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    """And comes back by itself when the group has forgotten it."""
    assigned = asyncio.Event()

    async def on_assignment(partitions: set[int]) -> None:
        assert partitions == {0, 1}
        assigned.set()

    topic = await make_topic("requests", 2)
    member = GroupMembership(
        connection,
        group_id=f"{topic}-group",
        instance_id="w-0",
        topic=topic,
        on_assignment=on_assignment,
        options=MembershipOptions(6_000, 100),
    )
    client = "test-member-w-0"
    async with asyncio.timeout(30):
        await member.start()
        await assigned.wait()
        joined = proxy.seen[client, Api.JOIN_GROUP]
        # A connection that breaks costs no rebalance; UNKNOWN_MEMBER_ID costs one join.
        for do, code, joins in ((Do.CUT_AFTER, 0, 0), (Do.ANSWER, 25, 1)):
            assigned.clear()
            fault = proxy.rule(do, Api.HEARTBEAT, code=code)
            await fault.met.wait()
            if joins:
                await assigned.wait()
            beats = proxy.seen[client, Api.HEARTBEAT]
            while proxy.seen[client, Api.HEARTBEAT] < beats + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert proxy.seen[client, Api.JOIN_GROUP] == joined + joins
        assert proxy.seen[client, Api.OFFSET_COMMIT] == 0
        assert proxy.seen[client, Api.FETCH] == 0
        await member.leave()
