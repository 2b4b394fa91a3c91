"""The hazards of aiokafka 0.14 and the attacks on the design, each with its tests.

1 to 14 are aiokafka's own, D3 is Kafka's, A and B are what producers, other owners and
administrators can do to a lane. Of each, a test goes through the fault proxy or to a
real broker; where none does, the table says why.

hazard → tests
--------------
1 a failed send commits silently
  → test_a_failed_send_never_commits
2 sequence numbers wrap
  → test_a_producer_is_renewed_before_its_sequence_numbers_wrap
3 a batch that expires leaves a hole in the sequence
  → test_a_leader_that_stays_away_runs_into_the_deadline
4 fenced before the first transaction
  → test_fenced_before_its_first_transaction_is_still_fenced
5 state checks are assertions
  → test_a_python_without_assertions_is_refused
  no broker: it is how Python was started; nothing gets as far as a broker
6 a commit has no time-out
  → test_a_lost_request_or_answer_is_doubt_and_the_log_decides
  → test_a_broker_that_answers_nothing_runs_into_the_deadline
7 unknown error codes
  → test_each_error_falls_into_its_class_of_failure
  → test_what_the_broker_certainly_did_not_do_is_asked_again
8 offsets inside a transaction race
  no broker: our transactions carry no offsets: the audit log is the position
9 a coordinator moves
  → test_a_lanes_coordinator_is_killed_and_restarted_under_load
10 what a rebalance listener raises is swallowed
  → test_what_the_receiver_raises_is_raised_by_failed
11 one join for each assignor
  → test_a_member_joins_once_and_commits_nothing_by_itself
12 defaults of aiokafka's consumer
  → test_a_member_joins_once_and_commits_nothing_by_itself
13 a wait of 20 ms in each transaction
  → test_the_marker_wait_is_set
  no broker: only time tells on a broker, and no test asserts a time: `make bench` does
14 a client stands still
  → test_each_fault_once_under_load
  → test_a_lane_that_stands_still_is_named
  → test_a_job_that_nobody_reports_ends_the_worker_with_the_lane_named
D3 a late EndTxn
  → test_a_late_end_txn_ends_no_later_transaction
A1 two producers of one lane
  → test_a_zombie_is_fenced_and_publishes_nothing
  → test_a_deployment_beside_the_first_answers_nothing_twice
A2 the transactional id names a deployment
  → test_the_transactional_id_names_the_audit_partition
  → test_a_deployment_beside_the_first_answers_nothing_twice
A3 a fenced owner fences back
  → test_each_fault_once_under_load
A4 aborted requests are run
  → test_aborted_records_are_never_handed_out
  → test_exactly_once_with_a_transactional_producer_that_aborts
A5 markers take offsets
  → test_exactly_once_with_a_transactional_producer_that_aborts
  → test_markers_are_attested_as_gaps
A6 time goes back, or a producer sets it
  → test_each_hostile_batch_gets_its_answers_and_good_records_run
  → test_damaged_lanes_halt_and_go_on_by_the_operators_order
  → test_it_holds
A7 a topic is made anew
  → test_a_topic_made_anew_under_a_running_writer_stops_it
  → test_another_log_is_not_taken_for_the_one_before
  → test_a_changed_secret_and_topics_made_anew
A8 the audit log loses its tail, results do not
  → test_results_tell_of_an_audit_tail_that_a_broker_lost
  → test_a_writer_under_which_a_log_lost_its_tail_writes_nothing_more
A9 a result too large
  → test_a_result_too_large_for_its_topic_becomes_output_limit
A10 every hiccup is suspicious
  → test_a_brokers_hiccups_make_nobody_suspect
A11 spent tokens do not fit, or are forgotten at a take-over
  → test_spent_tokens_beyond_their_memory_are_refused_and_none_forgotten
  → test_what_strangers_copy_forge_and_misplace_is_refused
A12 an answer in another request's name
  → test_what_strangers_copy_forge_and_misplace_is_refused
  → test_each_kind_of_request_gets_its_own_result
A13 a partition that only a hash tells
  → test_what_strangers_copy_forge_and_misplace_is_refused
  → test_each_kind_of_record_has_its_end
  → test_partitions_that_were_added_get_their_logs
A14 a control view that lags, or that nobody confirms
  → test_what_was_published_before_a_request_is_there_for_it
  → test_out_of_touch_with_the_control_topic_nothing_is_decided
  → test_steady_writes_leave_the_view_confirmed
A15 a lane that halted has no way back
  → test_damaged_lanes_halt_and_go_on_by_the_operators_order
  → test_requests_that_a_broker_lost_halt_their_lanes
A16 events that no lane owns
  → test_what_was_published_before_a_request_is_there_for_it
  → test_key_set_and_policy_are_read_again_at_sighup
B1 batches that stop or fill a client
  → test_every_offset_of_every_accepted_batch_comes_out
  → test_each_hostile_batch_gets_its_answers_and_good_records_run
  → test_many_small_bombs_in_one_poll_are_opened_a_few_at_a_time
"""

from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.membership import GroupMembership, MembershipOptions
from stream_executor.kafka.writer import LaneWriter
from tests.faults.proxy import Api, Do, FaultProxy

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic

TESTS = Path(__file__).parents[1]
# Whatever lies there goes through the proxy, or to a real broker.
REAL = ("faults", "integration")
_ROW = re.compile(r"^(\w+) .*\n((?:  .*\n)*)", re.MULTILINE)
ROWS: dict[str, str] = dict(_ROW.findall((__doc__ or "").partition("---\n")[2]))


@cache
def folders() -> dict[str, set[str]]:
    """Give name of a test → folders of tests in which there is one of that name."""
    found: dict[str, set[str]] = {}
    for file in TESTS.rglob("test_*.py"):
        for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(file.relative_to(TESTS).parts[0])
    return found


def test_no_hazard_is_left_out() -> None:
    numbers = [*map(str, range(1, 15)), "D3", *(f"A{n}" for n in range(1, 17)), "B1"]
    assert list(ROWS) == numbers


@pytest.mark.parametrize("hazard", ROWS)
def test_its_tests_exist_and_meet_a_broker_or_it_says_why_not(hazard: str) -> None:
    tests = re.findall(r"→ (test_\w+)", ROWS[hazard])
    where = set().union(*(folders()[test] for test in tests))
    assert where.isdisjoint(REAL) == ("no broker: " in ROWS[hazard])


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
