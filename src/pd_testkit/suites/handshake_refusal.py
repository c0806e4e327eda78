"""The checks of peers that do not fit to D, or whose answers D cannot use."""

from __future__ import annotations

import pytest

from pd_testkit.contract import Load, Role
from pd_testkit.suites.base import clause
from pd_testkit.suites.meeting import LOCAL, REMOTE, by_way_of
from pd_testkit.suites.tampering import Way, answers, untouched

ANSWER_S = 1.0
"""D's patience with what may be no answer to it, where its protocol cannot tell."""


class Answers:
    """Answers that cannot be used."""

    @clause("HSK-015")
    def test_a_truncated_answer_fails_the_load(self, meeting, spec):
        self.check_changed_answers(
            meeting, spec, lambda frames: [[f[: len(f) // 2] for f in frames]]
        )

    @clause("HSK-016")
    def test_a_garbage_answer_fails_the_load(self, meeting, spec):
        self.check_changed_answers(
            meeting, spec, lambda frames: [[bytes(range(256)) for _ in frames]]
        )
        self.check_changed_answers(
            meeting, spec, lambda frames: [[b"\xc1" * 1_000_000 for _ in frames]]
        )

    @clause("HSK-017")
    def test_an_answer_with_frames_missing_or_empty_fails_the_load(self, meeting, spec):
        self.check_changed_answers(meeting, spec, lambda frames: [[b"" for _ in frames]])
        self.check_changed_answers(meeting, spec, lambda frames: [frames[:-1] or [b""]])
        self.check_changed_answers(meeting, spec, lambda frames: [[frames[-1], *frames]])

    def check_changed_answers(self, meeting, spec, change) -> None:
        met = meeting(decode=spec(patience_s=ANSWER_S), engines=2)
        between = met.between(answers(change))
        met.check_never_received(by_way_of(between, met.hand_off("bad")))
        assert between.messages(Way.ANSWERED), "no answer of P's was changed"

    @clause("HSK-018")
    def test_an_answer_of_another_engine_fails_the_load(self, meeting):
        met = meeting(engines=2)
        named = met.hand_off("bad")
        if named.engine_id is None:
            pytest.skip("not applicable: a hand-off names no engine")
        host, port = met.pair.side_channel(engine=1)
        met.check_never_received(named.with_(host=host, handshake_port=port), other=0)

    @clause("HSK-019")
    def test_blocks_that_the_peer_does_not_have_fail_the_load(self, meeting, spec):
        met = meeting()
        named = met.hand_off("bad")
        if named.block_ids is None:
            pytest.skip("not applicable: a hand-off names no blocks")
        met.check_never_received(named.with_(block_ids=(5, spec().num_blocks)), other=0)

    @clause("HSK-029")
    def test_a_handshake_that_failed_is_tried_anew(self, meeting, spec):
        met = meeting(decode=spec(patience_s=ANSWER_S), engines=2)
        between = met.between(answers(lambda frames: [[b"\xc1"]]))
        met.check_never_received(by_way_of(between, met.hand_off("bad")))
        between.tamper = untouched
        met.fetch("again", by_way_of(between, met.hand_off("again")))


class Geometry:
    """Engines that do not fit."""

    def check_refused(self, meeting, spec, *others) -> None:
        for other in others:
            met = meeting(other, spec())
            met.check_never_received(met.hand_off("bad"))

    @clause("HSK-020")
    def test_another_version_of_the_software_is_refused(self, meeting, spec):
        self.check_refused(meeting, spec, spec(version="2"))

    @clause("HSK-021")
    def test_another_model_is_refused(self, meeting, spec):
        self.check_refused(meeting, spec, spec(model="other"))

    @clause("HSK-022")
    def test_elements_of_another_size_are_refused(self, meeting, spec):
        twice = 2 * spec().itemsize
        same_bytes = spec(itemsize=twice, head_dim=spec().head_dim // 2)
        self.check_refused(meeting, spec, same_bytes, spec(itemsize=twice))

    @clause("HSK-023")
    def test_other_kv_heads_are_refused(self, meeting, spec):
        same_bytes = spec(kv_heads=spec().kv_heads // 2, head_dim=2 * spec().head_dim)
        self.check_refused(meeting, spec, same_bytes, spec(kv_heads=2 * spec().kv_heads))

    @clause("HSK-024")
    def test_another_number_of_layers_is_refused(self, meeting, spec):
        fewer, more = spec(layers=spec().layers - 1), spec(layers=spec().layers + 1)
        self.check_refused(meeting, spec, fewer, more)

    @clause("HSK-025")
    def test_a_latent_cache_is_refused_where_k_and_v_are_expected(self, meeting, spec, latent):
        self.check_refused(meeting, spec, latent())

    @clause("HSK-026")
    def test_another_block_size_gives_the_same_tokens_or_fails(self, meeting, spec):
        larger = spec(block_size=2 * spec().block_size)
        met = meeting(larger, spec())
        met.start("r", met.pair.hand_off("r", REMOTE[:1]))
        if met.ends_well("r"):
            theirs = met.blocks(Role.PRODUCER, REMOTE[:1])
            for name, kv in met.blocks(Role.CONSUMER, LOCAL).items():
                same = kv.reshape(-1, *kv.shape[2:]) == theirs[name][0]
                assert same.all(), f"cache {name}: other tokens than P's were received"
        met.fetch("good", engine=1)

    @clause("HSK-027")
    def test_another_layout_gives_the_same_kv_or_fails(self, meeting, spec):
        met = meeting(spec(layout="HND"), spec(layout="NHD"), decode=spec(layout="NHD"))
        met.start("r", met.hand_off("r"))
        if met.ends_well("r"):
            met.check_kv()
        met.fetch("good", engine=1)

    @clause("HSK-028")
    def test_another_tp_size_gives_each_rank_its_heads_or_fails(self, meeting, spec):
        two = spec(tp_size=2)
        met = meeting(spec(), two, decode=two)
        met.pair.load([Load("r", LOCAL, met.hand_off("r"))], seconds=3.0)
        if met.ends_well("r", workers=2):
            heads = spec().kv_heads // 2
            theirs = met.blocks(Role.PRODUCER, REMOTE)
            for rank in range(2):
                share = slice(rank * heads, (rank + 1) * heads)
                for name, kv in met.blocks(Role.CONSUMER, LOCAL, tp_rank=rank).items():
                    same = kv == theirs[name][:, :, share]
                    assert same.all(), f"cache {name} of rank {rank}: other heads than its own"


class Refuses(Answers, Geometry):
    """Peers that do not fit, and answers that cannot be used."""
