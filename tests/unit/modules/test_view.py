"""The control view: what counts, what is ignored, and that nothing else changes."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
import pytest

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.signing import public_bytes, signed
from stream_executor.model.audit import ZERO32
from stream_executor.model.control import (
    ControlGenesis,
    DenyRemoved,
    DenySubject,
    KeyEnrolled,
    KeyPurpose,
    ModulePublished,
)
from stream_executor.model.errors import IntegrityError, MisuseError, UnavailableError
from stream_executor.model.job import Limits
from stream_executor.model.record import Range
from stream_executor.model.request import ModuleDigest, ModuleName
from stream_executor.modules.orders import OrderRefusedError, Orders
from stream_executor.modules.view import Applied, ControlView, Ignored, Reason
from tests.audit_logs import (
    ADMINISTRATOR,
    FLEET,
    NOTARY,
    OPERATOR,
    OPERATOR_PUBLIC,
    Control,
    key_of,
)

ADD = ModuleName("add", "1")
WASM = sha256(b"wasm").digest()
OTHER = sha256(b"other wasm").digest()
GRANT = Limits(250_000_000, 1 << 28, 30_000)
HARD_MAX = Limits(1 << 30, 1 << 30, 60_000)


def state(view: ControlView) -> tuple[Any, ...]:
    """Give everything that a record could change, but offset and counts."""
    return (
        view.head, view.serial, view.denied, view.administrators, view.modules(),
        view.enrolled_keys(), view.genesis,
    )  # fmt: skip


def ignored(control: Control, value: bytes, reason: Reason) -> None:
    """Append a record that must change nothing but the counts and the offset."""
    view = control.view
    before, offset, count = state(view), view.next_offset, view.ignored[reason]
    assert control.append(value) == Ignored(reason)
    assert state(view) == before
    assert (view.next_offset, view.ignored[reason]) == (offset + 1, count + 1)


def test_genesis_and_first_keys_count() -> None:
    control = Control()
    view = control.view
    assert (view.serial, view.next_offset) == (3, 4)
    assert view.head == leaf_hash(control.values[-1])
    assert (view.cluster_id, view.audience) == ("cluster-1", "wasm/cluster-1")
    assert view.administrators == {public_bytes(ADMINISTRATOR)}


def test_before_genesis_nothing_is_known() -> None:
    view = ControlView(OPERATOR_PUBLIC)
    assert not view.begun
    assert view.head_at(5) == ZERO32
    with pytest.raises(UnavailableError, match="wasm-executor init"):
        _ = view.audience


def test_heads_are_remembered_by_offset() -> None:
    control = Control()
    control.append(b"junk")
    control.add(control.administrator.deny(DenySubject.SUB, "bob", "left"))
    view = control.view
    heads = [ZERO32, *map(leaf_hash, control.values[:4])]
    assert [view.head_at(offset) for offset in range(5)] == heads
    assert view.head_at(5) == heads[4]
    assert view.head_at(6) == view.head_at(1_000) == view.head


def test_an_offset_taken_twice_is_our_bug() -> None:
    control = Control()
    with pytest.raises(MisuseError):
        control.view.apply(3, 1, b"")


# Attacks.


@pytest.mark.threat("T-15")
def test_a_replayed_deny_removed_undoes_nothing() -> None:
    control = Control()
    control.add(control.administrator.deny(DenySubject.SUB, "bob", "left"))
    removal = control.administrator.allow(DenySubject.SUB, "bob")
    control.add(removal)
    control.add(control.administrator.deny(DenySubject.SUB, "bob", "again"))
    ignored(control, removal, Reason.STALE)
    assert control.view.denied.sub == {"bob"}


@pytest.mark.threat("T-15")
def test_every_record_replayed_is_ignored() -> None:
    control = Control()
    for value in list(control.values):
        ignored(control, value, Reason.STALE)


def test_a_record_far_ahead_is_ignored() -> None:
    control = Control()
    elsewhere = Control()
    elsewhere.add(elsewhere.administrator.deny(DenySubject.SUB, "bob", "x"))
    later = elsewhere.administrator.deny(DenySubject.SUB, "eve", "x")
    ignored(control, later, Reason.AHEAD)


@pytest.mark.threat("T-15")
def test_a_record_that_follows_another_head_is_ignored() -> None:
    """Two Administrators at once: the first one in the log wins."""
    control = Control()
    first = control.administrator.deny(DenySubject.SUB, "bob", "x")
    second = control.administrator.deny(DenySubject.SUB, "eve", "x")
    control.add(first)
    ignored(control, second, Reason.STALE)
    forked = DenyRemoved(5, bytes(32), 1, 0, "bob", public_bytes(ADMINISTRATOR))
    ignored(control, signed(forked, ADMINISTRATOR), Reason.OTHER_CHAIN)


def enrolment(control: Control, signer: Any, named: bytes | None = None) -> bytes:
    return signed(
        KeyEnrolled(
            control.view.serial + 1, control.view.head, 1, int(KeyPurpose.FLEET),
            public_bytes(key_of("mine")), "mine", named or public_bytes(signer),
        ),
        signer,
    )  # fmt: skip


@pytest.mark.parametrize("signer", [ADMINISTRATOR, FLEET, NOTARY, key_of("stranger")])
def test_only_the_operator_enrols_keys(signer: Any) -> None:
    control = Control()
    ignored(control, enrolment(control, signer), Reason.FORBIDDEN)


def test_naming_the_operator_without_its_key_is_a_bad_signature() -> None:
    control = Control()
    value = enrolment(control, key_of("stranger"), OPERATOR_PUBLIC)
    ignored(control, value, Reason.BAD_SIGNATURE)


def publication(control: Control, signer: Any, **lie: Any) -> bytes:
    record = ModulePublished(
        control.view.serial + 1, control.view.head, 1, "add", "1", WASM, 4, 0, None,
        public_bytes(signer),
    )  # fmt: skip
    return signed(msgspec.structs.replace(record, **lie), signer)


@pytest.mark.parametrize("signer", [FLEET, NOTARY, key_of("stranger")])
def test_only_administrators_and_the_operator_publish(signer: Any) -> None:
    control = Control()
    ignored(control, publication(control, signer), Reason.FORBIDDEN)
    control.add(publication(control, OPERATOR))


@pytest.mark.threat("T-15")
def test_an_administrator_after_retirement_says_nothing_more() -> None:
    control = Control()
    control.add(publication(control, ADMINISTRATOR))
    control.add(
        control.operator.retire(
            KeyPurpose.ADMINISTRATOR, public_bytes(ADMINISTRATOR), "left"
        )
    )
    ignored(control, publication(control, ADMINISTRATOR), Reason.FORBIDDEN)
    assert control.view.resolve(ADD) is not None, "what was said before stays said"


@pytest.mark.threat("T-15")
def test_a_retired_key_is_not_enrolled_again() -> None:
    control = Control()
    orders = control.operator
    control.add(orders.retire(KeyPurpose.FLEET, public_bytes(FLEET), "leaked"))
    value = signed(
        KeyEnrolled(
            control.view.serial + 1, control.view.head, 1, int(KeyPurpose.FLEET),
            public_bytes(FLEET), "back", OPERATOR_PUBLIC,
        ),
        OPERATOR,
    )  # fmt: skip
    ignored(control, value, Reason.CONTRADICTION)


def test_key_validity_is_by_control_offset() -> None:
    control = Control()
    control.append(b"junk")
    fleet = public_bytes(FLEET)
    control.add(control.operator.retire(KeyPurpose.FLEET, fleet, "rotated"))
    view = control.view
    valid = [view.fleet_key_valid(fleet, offset) for offset in range(8)]
    # Enrolled at 1, retired at 5: valid for who had applied 1 and had not applied 5.
    assert valid == [False, False, True, True, True, True, False, False]
    assert not view.fleet_key_valid(public_bytes(NOTARY), 4)
    assert view.key_valid(KeyPurpose.NOTARY, public_bytes(NOTARY), 4)


@pytest.mark.threat("T-15")
def test_republication_with_another_digest_is_ignored() -> None:
    control = Control()
    control.add(publication(control, ADMINISTRATOR))
    value = publication(control, ADMINISTRATOR, module_s256=OTHER)
    ignored(control, value, Reason.CONTRADICTION)
    module = control.view.resolve(ADD)
    assert module is not None
    assert module.s256 == WASM
    with pytest.raises(OrderRefusedError, match="never changes its meaning"):
        control.administrator.publish(ADD, OTHER, 4, 0)


@pytest.mark.parametrize(
    "lie",
    [
        {"name": "Add"},
        {"name": "add\n"},
        {"version": ""},
        {"size_bytes": -1},
        {"modules_offset": -1},
        {"grant": Limits(0, 1, 1)},
        {"grant": Limits(1, -5, 1)},
    ],
)
def test_ill_formed_publications_are_ignored(lie: dict[str, Any]) -> None:
    control = Control()
    ignored(control, publication(control, ADMINISTRATOR, **lie), Reason.CONTRADICTION)


def test_foreign_bytes_are_ignored() -> None:
    control = Control()
    good = control.administrator.deny(DenySubject.SUB, "bob", "x")
    for value in (b"", b"junk", good + b"\0", good[:-1], bytes(200)):
        ignored(control, value, Reason.FOREIGN)
    control.view.apply(len(control.values), 1, None)  # a tombstone
    control.values.append(b"")
    flipped = bytearray(good)
    flipped[-1] ^= 1
    ignored(control, bytes(flipped), Reason.BAD_SIGNATURE)
    control.add(good)


def test_a_signature_for_another_kind_does_not_serve() -> None:
    """deny.added and deny.removed differ in more than their header's domain tag."""
    control = Control()
    view = control.view
    record = DenyRemoved(
        view.serial + 1, view.head, 1, 0, "bob", public_bytes(ADMINISTRATOR)
    )
    value = signed(record, ADMINISTRATOR)
    without_tag = ADMINISTRATOR.sign(value[:-64])
    ignored(control, value[:-64] + without_tag, Reason.BAD_SIGNATURE)


# Genesis.


def own_genesis(signer: Any) -> bytes:
    return signed(
        ControlGenesis(0, ZERO32, 1, "evil", "c", "a", public_bytes(signer)), signer
    )


def test_a_topic_begun_by_another_operator_is_an_integrity_error() -> None:
    view = ControlView(OPERATOR_PUBLIC)
    with pytest.raises(IntegrityError, match="the settings name"):
        view.apply(0, 1, own_genesis(key_of("stranger")))
    assert (view.next_offset, view.begun) == (0, False)


def test_another_operators_genesis_later_is_only_ignored() -> None:
    control = Control()
    ignored(control, own_genesis(key_of("stranger")), Reason.STALE)


def test_a_genesis_that_does_not_verify_stops_nobody() -> None:
    view = ControlView(OPERATOR_PUBLIC)
    value = own_genesis(key_of("stranger"))
    assert view.apply(0, 1, value[:-1] + b"\0") == Ignored(Reason.BAD_SIGNATURE)


def test_nothing_counts_before_genesis() -> None:
    view = ControlView(OPERATOR_PUBLIC)
    value = signed(
        KeyEnrolled(0, ZERO32, 1, 0, bytes(32), "x", OPERATOR_PUBLIC), OPERATOR
    )
    assert view.apply(0, 1, value) == Ignored(Reason.CONTRADICTION)


def test_a_second_genesis_of_the_operator_is_ignored() -> None:
    control = Control()
    view = control.view
    value = signed(
        ControlGenesis(
            view.serial + 1, view.head, 1, "x", "other", "y", OPERATOR_PUBLIC
        ),
        OPERATOR,
    )
    ignored(control, value, Reason.CONTRADICTION)


# Modules.


def test_a_module_is_found_by_name_and_by_digest() -> None:
    control = Control()
    control.add(
        control.administrator.publish(ADD, WASM, 4, 7, grant=GRANT, hard_max=HARD_MAX)
    )
    view = control.view
    named, by_digest = view.resolve(ADD), view.resolve(ModuleDigest(WASM))
    assert named is not None
    assert by_digest is not None
    assert (named.name, named.modules_offset, named.grant) == ("add@1", 7, GRANT)
    assert by_digest == msgspec.structs.replace(named, name=None)
    assert view.resolve(ModuleName("add", "2")) is None
    assert view.resolve(ModuleDigest(OTHER)) is None
    assert view.modules() == [named]


def test_publishing_the_same_again_changes_grant_and_place() -> None:
    control = Control()
    control.add(control.administrator.publish(ADD, WASM, 4, 7, grant=GRANT))
    control.add(control.administrator.publish(ADD, WASM, 4, 9))
    module = control.view.resolve(ADD)
    assert module is not None
    assert (module.modules_offset, module.grant) == (9, None)
    assert len(control.view.modules()) == 1


def test_a_revoked_module_is_revoked_by_every_name_for_good() -> None:
    control = Control()
    control.add(control.administrator.publish(ADD, WASM, 4, 7))
    control.add(control.administrator.revoke(WASM, "malicious"))
    control.add(control.administrator.publish(ModuleName("add", "2"), WASM, 4, 7))
    view = control.view
    for ref in (ADD, ModuleName("add", "2"), ModuleDigest(WASM)):
        module = view.resolve(ref)
        assert module is not None
        assert module.revoked
    control.add(control.administrator.revoke(OTHER, "in advance"))
    control.add(control.administrator.publish(ModuleName("evil", "1"), OTHER, 4, 7))
    assert [m.revoked for m in view.modules()] == [True, True, True]


def test_grants_above_the_hard_maximum_are_not_made() -> None:
    control = Control()
    with pytest.raises(OrderRefusedError, match="fuel_units 250000000 is above"):
        control.administrator.publish(
            ADD, WASM, 4, 0, grant=GRANT, hard_max=Limits(1, 1 << 30, 60_000)
        )


# Denials.


def test_denials_are_replaced_as_a_whole() -> None:
    control = Control()
    held = control.view.denied
    for subject, value in (
        (DenySubject.SUB, "bob"),
        (DenySubject.ISS, "https://evil"),
        (DenySubject.KID, "k9"),
        (DenySubject.MODULE, WASM.hex()),
    ):
        control.add(control.administrator.deny(subject, value, "x"))
    denied = control.view.denied
    assert msgspec.structs.astuple(denied) == (
        {"bob"}, {"https://evil"}, {"k9"}, {WASM},
    )  # fmt: skip
    assert held.sub == frozenset()
    control.add(control.administrator.allow(DenySubject.MODULE, WASM.hex()))
    control.add(control.administrator.allow(DenySubject.SUB, "nobody"))
    assert control.view.denied.modules == frozenset()


@pytest.mark.parametrize("value", ["", "zz", "ab", WASM.hex().upper()])
def test_a_module_denial_names_a_digest_in_lower_hex(value: str) -> None:
    with pytest.raises(OrderRefusedError, match="ill-formed"):
        Control().administrator.deny(DenySubject.MODULE, value, "x")


# Orders.


def test_resume_orders_are_kept_by_log_with_their_bytes() -> None:
    control = Control()
    log_id = bytes(range(16))
    value = control.operator.resume(
        log_id=log_id, partition=1, next_offset=9, head_seq=3, head=WASM,
        evidence="why", lost=[Range(4, 9)],
    )  # fmt: skip
    control.add(value)
    (kept,) = control.view.resumes(log_id)
    assert (kept.value, kept.offset, kept.order.lost) == (value, 4, [Range(4, 9)])
    assert control.view.orders(log_id) == [kept.order]
    assert control.view.resumes(bytes(16)) == ()


@pytest.mark.parametrize("who", ["administrator", "stranger"])
def test_orders_that_would_be_ignored_are_not_made(who: str) -> None:
    control = Control()
    orders = Orders(control.view, key_of(who), 1)
    with pytest.raises(OrderRefusedError, match="forbidden"):
        orders.enrol(KeyPurpose.FLEET, bytes(32), "x")
    with pytest.raises(OrderRefusedError, match="forbidden"):
        orders.retire(KeyPurpose.FLEET, public_bytes(FLEET), "x")


def test_orders_with_wrong_lengths_are_refused_with_words() -> None:
    with pytest.raises(OrderRefusedError, match=r"fixed\(32\) field got 3 bytes"):
        Control().administrator.revoke(b"abc", "x")


def test_the_same_records_give_the_same_view() -> None:
    control = Control()
    control.add(control.administrator.publish(ADD, WASM, 4, 7, grant=GRANT))
    control.append(b"junk")
    control.add(control.administrator.deny(DenySubject.SUB, "bob", "x"))
    again = ControlView(OPERATOR_PUBLIC)
    for offset, value in enumerate(control.values):
        verdict = again.apply(offset, 1_750_000_000_000, value)
        assert isinstance(verdict, Applied if value != b"junk" else Ignored)
    assert state(again) == state(control.view)
