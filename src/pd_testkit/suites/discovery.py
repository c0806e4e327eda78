"""How instances register with the proxy, over real sockets on the loopback.

A message that must make nothing known is followed by good ones, from the same peer and from
another: once those are known, it has been dealt with, and the listener has survived it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from pd_testkit.contract import Capability, Discovery, Role, Target, Unit
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.registrations import (
    HTTP,
    Form,
    Hello,
    Peer,
    Peers,
    RoleAsType,
    known,
    packed,
    register,
    speak_tcp,
    url,
)

P, D = Role.PRODUCER, Role.CONSUMER

_FORMS: Mapping[Capability, Form] = {
    Capability.REGISTRATION_HELLO: Hello(),
    Capability.REGISTRATION_ROLE: RoleAsType(),
}

_MARKER = 100
"""Instances from here on register only to show that what was sent before them is dealt with."""

_A_DAY = 86400.0


class DiscoverySuite(Suite):
    """How instances register with the proxy."""

    unit = Unit.DISCOVERY

    @pytest.fixture
    def forms(self, target: Target) -> Sequence[Form]:
        """The wire forms that the target claims; at least one."""
        claimed = [
            form for capability, form in _FORMS.items() if target.capabilities.has(capability)
        ]
        if not claimed:
            names = " or ".join(map(str, _FORMS))
            raise pytest.UsageError(f"target {target.name!r} claims no wire form: name {names}")
        return claimed

    @pytest.fixture
    def peers(self) -> Iterator[Peers]:
        peers = Peers()
        yield peers
        peers.close()

    # -- who is known --------------------------------------------------------------------------

    @clause("DSC-001")
    def test_atoms_form_makes_an_instance_known(self, make, peers):
        discovery = make()
        _registered_by_role(discovery, peers.new(discovery), Hello())

    @clause("DSC-002")
    def test_vllms_form_makes_an_instance_known(self, make, peers):
        discovery = make()
        _registered_by_role(discovery, peers.new(discovery), RoleAsType())

    @clause("DSC-003")
    def test_both_forms_are_taken_on_one_port(self, make, peers):
        discovery = make()
        atom, vllm, both = (peers.new(discovery) for _ in range(3))
        register(discovery, atom, Hello(), P, 1)
        register(discovery, vllm, RoleAsType(), D, 2)
        register(discovery, both, RoleAsType(), P, 3)
        register(discovery, both, Hello(), P, 4)
        assert discovery.instances(P) == (url(1), url(3), url(4))
        assert discovery.instances(D) == (url(2),)

    @clause("DSC-004")
    def test_a_repeated_registration_changes_nothing(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            for heartbeat in (1, 2, 3):
                peer.send(*(form(P, number, heartbeat) for number in (2, 1, 3)))
                peer.send(form(P, 3, heartbeat), form(D, 1, heartbeat))
            _dealt_with(discovery, peer, form)
            assert discovery.instances(P) == (url(2), url(1), url(3), url(_MARKER))
            assert discovery.instances(D) == (url(1),)

    @clause("DSC-005")
    def test_a_changed_registration_replaces_the_old_one(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            peer.send(form(P, 1), form(P, 2), form(P, 1, 2, **form.changed))
            _dealt_with(discovery, peer, form)
            assert sorted(discovery.instances(P)) == sorted((url(1), url(2), url(_MARKER)))

    @clause("DSC-006")
    def test_one_address_may_be_p_and_d(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            register(discovery, peer, form, P, 1)
            register(discovery, peer, form, D, 1)
            assert discovery.instances(P) == discovery.instances(D) == (url(1),)

    # -- who is alive --------------------------------------------------------------------------

    @clause("DSC-007")
    def test_heartbeats_keep_an_instance(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            register(discovery, peer, form, D, 1)
            for heartbeat in range(2, 8):
                discovery.advance(0.6 * _lifetime(discovery))
                assert url(1) in discovery.instances(D), f"gone before heartbeat {heartbeat}"
                peer.send(form(D, 1, heartbeat))
                _dealt_with(discovery, peer, form, heartbeat)

    @clause("DSC-008")
    def test_without_heartbeats_an_instance_is_forgotten(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            register(discovery, peer, form, P, 1)
            register(discovery, peer, form, D, 2)
            discovery.advance(_lifetime(discovery) + 1)
            assert discovery.instances(P) == (), "a dead P is kept"
            assert discovery.instances(D) == (), "a dead D is kept"

    @clause("DSC-009")
    def test_a_living_instance_does_not_keep_a_dead_one(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            for number in (1, 2, 3):
                register(discovery, peer, form, P, number)
            discovery.advance(0.6 * _lifetime(discovery))
            peer.send(form(P, 1, 2), form(P, 3, 2))
            _dealt_with(discovery, peer, form)
            discovery.advance(0.6 * _lifetime(discovery))
            assert discovery.instances(P) == (url(1), url(3), url(_MARKER))

    @clause("DSC-010")
    def test_a_returning_instance_is_known_again(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            register(discovery, peer, form, P, 1, heartbeat=7)
            discovery.advance(2 * _lifetime(discovery))
            peer.send(form(P, 1, heartbeat=1))
            _dealt_with(discovery, peer, form)
            discovery.advance(0.6 * _lifetime(discovery))
            assert discovery.instances(P) == (url(1), url(_MARKER))

    @clause("DSC-011")
    def test_a_goodbye_is_heeded_at_once(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            for role, number in ((P, 1), (P, 2), (D, 1)):
                register(discovery, peer, form, role, number)
            peer.send_raw(discovery.goodbye(P, url(1)))
            _dealt_with(discovery, peer, form)
            assert discovery.instances(P) == (url(2), url(_MARKER))
            assert discovery.instances(D) == (url(1),), "it left as P only"

    @clause("DSC-012")
    def test_an_open_connection_does_not_hold_an_identity(self, make, peers):
        discovery = make()
        identity = b"10.0.0.1:14579"
        before = peers.new(discovery, identity, reconnects=False)
        register(discovery, before, RoleAsType(), P, 1)
        register(discovery, peers.new(discovery, identity), RoleAsType(), P, 2)
        assert discovery.instances(P) == (url(1), url(2))

    # -- what is refused -----------------------------------------------------------------------

    @clause("DSC-013")
    def test_another_transfer_mode_is_refused(self, make, peers):
        discovery = make()
        peer = peers.new(discovery)
        register(discovery, peer, Hello(), P, 1)
        peer.send(*(Hello()(role, 2, transfer_mode="write") for role in (P, D)))
        _lives_on(discovery, peers, peer, Hello())
        assert discovery.instances(P) == (url(1), url(_MARKER))
        assert discovery.instances(D) == (url(_MARKER + 1),)

    @clause("DSC-014")
    def test_an_unknown_role_is_refused(self, make, peers, forms):
        for form in forms:
            _, role, _ = form.required
            _refused(
                make(), peers, form, [{role: code} for code in ("X", "p", "prefill", "PD", "")]
            )

    @clause("DSC-015")
    def test_an_unknown_type_is_refused(self, make, peers, forms):
        for form in forms:
            _refused(make(), peers, form, [{"type": kind} for kind in ("REGISTERED", "v2/hello")])

    @clause("DSC-016")
    def test_a_registration_that_lacks_a_field_is_refused(self, make, peers, forms):
        for form in forms:
            messages = [form(P, 1) for _ in form.required]
            for message, name in zip(messages, form.required, strict=True):
                del message[name]
            _refused(make(), peers, form, [], *map(packed, [*messages, {}]))

    @clause("DSC-017")
    def test_a_field_of_a_wrong_type_is_refused(self, make, peers, forms):
        for form in forms:
            strangers: list[Any] = [None, 7, 7.5, True, [], ["P"], {}, {"P": "D"}, b"\xff\xfe"]
            changes = [{name: wrong} for name in form.required for wrong in strangers]
            changes += [{name: [value]} for name, value in form.changed.items()]
            _refused(make(), peers, form, changes)

    @clause("DSC-018")
    def test_an_impossible_address_is_refused(self, make, peers, forms):
        for form in forms:
            addresses = ["", ":8000", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536"]
            addresses += ["10.0.0.1:-1", "10.0.0.1:http", "10.0.0.1:80 0", "10.0.0.256:8000"]
            addresses += ["no address", "[::1:80"]
            _refused(make(), peers, form, [], *(packed(form.at(each)) for each in addresses))

    @clause("DSC-019")
    def test_a_message_that_is_no_map_is_refused(self, make, peers, forms):
        for form in forms:
            others: list[Any] = [None, 7, 7.5, True, "register", b"P", [], ["register", "P"], [{}]]
            _refused(make(), peers, form, [], *map(packed, others))

    @clause("DSC-020")
    def test_bytes_that_are_no_msgpack_are_refused(self, make, peers, forms, pd_seed):
        rng = random.Random(pd_seed)
        for form in forms:
            garbage = [b"\xc1", b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n", bytes(16), b"\xff" * 64]
            # Strings, lists and maps of four thousand million elements.
            garbage += [bytes([kind]) + b"\xff" * 4 for kind in (0xC6, 0xDB, 0xDD, 0xDF)]
            garbage += [b"\xc1" + rng.randbytes(rng.randrange(200)) for _ in range(20)]
            garbage += [packed(form(P, 1)) + b"\xc1"]
            _refused(make(), peers, form, [], *garbage)

    @clause("DSC-021")
    def test_a_cut_off_registration_is_refused(self, make, peers, forms):
        for form in forms:
            whole = packed(form(P, 1))
            _refused(make(), peers, form, [], *(whole[:cut] for cut in range(1, len(whole))))

    @clause("DSC-022")
    def test_an_empty_message_is_refused(self, make, peers, forms):
        for form in forms:
            _refused(make(), peers, form, [], b"", b"")

    @clause("DSC-023")
    def test_more_frames_do_no_harm(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            one = packed(form(P, 1))
            for frames in ((b"", one), (one, b""), (one, one), (b"",) * 3, (b"x",) * 100):
                peer.send_raw(*frames)
            _lives_on(discovery, peers, peer, form)

    @clause("DSC-024")
    def test_a_megabyte_of_garbage_is_refused(self, make, peers, forms, pd_seed):
        rng = random.Random(pd_seed)
        for form in forms:
            sizes = (2**14, 2**20)
            garbage = [b"\xc1" + rng.randbytes(size) for size in sizes]
            garbage += [packed(form.at(f"{'a' * size}:8000")) for size in sizes]
            _refused(make(), peers, form, [], *garbage)

    @clause("DSC-025")
    def test_deep_nesting_does_no_harm(self, make, peers, forms):
        for form in forms:
            discovery = make()
            peer = peers.new(discovery)
            deep = b"\x91" * 5000 + b"\xc0"
            flat = packed(form(P, 1))
            # A map of few elements has their number in its first byte.
            for raw in (deep, bytes([flat[0] + 1]) + flat[1:] + packed("extra") + deep):
                peer.send_raw(raw)
            _lives_on(discovery, peers, peer, form)

    @clause("DSC-026")
    def test_tcp_that_is_no_zmq_does_no_harm(self, make, peers, forms, pd_seed):
        discovery = make()
        peer = peers.new(discovery)
        garbage = random.Random(pd_seed).randbytes(4096)
        for number, raw in enumerate((HTTP, b"\x01" + garbage, b"\xff" + garbage, b"\xff")):
            speak_tcp(discovery, raw)
            register(discovery, peer, forms[0], P, number)
        _lives_on(discovery, peers, peer, forms[0])
        assert discovery.instances(P) == (*map(url, range(4)), url(_MARKER))

    # -- many ----------------------------------------------------------------------------------

    @clause("DSC-027")
    def test_a_burst_of_a_thousand_is_known_in_order(self, make, peers, forms):
        for form in forms:
            discovery = make()
            numbers = list(range(500))
            random.Random(1).shuffle(numbers)
            peers.new(discovery).send(*(form(role, n) for n in numbers for role in (P, D)))
            for role in (P, D):
                assert known(discovery, role, numbers), "some of the burst are not known"
                assert discovery.instances(role) == tuple(map(url, numbers))

    @clause("DSC-028")
    def test_peers_may_register_at_the_same_time(self, make, peers, forms):
        discovery = make()
        numbers = range(64)
        for number in numbers:
            peers.new(discovery).send(forms[number % len(forms)](D, number))
        assert known(discovery, D, numbers), "some of the peers are not known"
        assert sorted(discovery.instances(D)) == sorted(map(url, numbers))

    @clause("DSC-029")
    def test_a_peer_may_vanish_at_once(self, make, peers, forms):
        for form in forms:
            discovery = make()
            for number in range(8):
                peer = peers.new(discovery, reconnects=False)  # who is gone does not come back
                # It is gone by the time at which the last of these are answered.
                peer.send(form(P, number), *(form(D, number, beat) for beat in range(100)))
                peer.vanish()
            assert known(discovery, P, range(8)), "some that vanished are not known"
            assert known(discovery, D, range(8)), "some that vanished are not known"
            _lives_on(discovery, peers, peers.new(discovery), form)


def _registered_by_role(discovery: Discovery, peer: Peer, form: Form) -> None:
    for role, number in ((P, 1), (D, 2), (P, 3)):
        register(discovery, peer, form, role, number)
    assert discovery.instances(P) == (url(1), url(3))
    assert discovery.instances(D) == (url(2),)


def _lifetime(discovery: Discovery) -> float:
    """Seconds; a day of a listener that forgets nobody."""
    return min(discovery.lifetime_s, _A_DAY)


def _dealt_with(discovery: Discovery, peer: Peer, form: Form, marker: int = 0) -> None:
    """Returns when the listener has dealt with all that the peer has sent so far."""
    register(discovery, peer, form, P, _MARKER + marker)


def _lives_on(discovery: Discovery, peers: Peers, peer: Peer, form: Form) -> None:
    """The listener has dealt with what the peer sent, and takes from it and from others more."""
    register(discovery, peer, form, P, _MARKER)
    register(discovery, peers.new(discovery), form, D, _MARKER + 1)


def _refused(
    discovery: Discovery,
    peers: Peers,
    form: Form,
    changes: Sequence[Mapping[str, Any]],
    *raw: bytes,
) -> None:
    """A registration with each of these changes, and each of these messages, is refused."""
    peer = peers.new(discovery)
    for change in changes:
        peer.send(form(P, 1) | dict(change))
    for message in raw:
        peer.send_raw(message)
    _lives_on(discovery, peers, peer, form)
    assert discovery.instances(P) == (url(_MARKER),), "it made a P known"
    assert discovery.instances(D) == (url(_MARKER + 1),), "it made a D known"
