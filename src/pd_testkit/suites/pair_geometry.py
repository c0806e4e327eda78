"""The checks of workers whose shapes differ, or are not the plain one."""

from __future__ import annotations

from dataclasses import replace

from pd_testkit.suites.base import clause


def fetched(start, prefill, decode, *, tokens=None, **rest):
    """A run in which D has loaded a prompt from scattered blocks into scattered blocks.

    Args:
        tokens: of the prompt; None: five blocks of P's.
        rest: as for ``start``.
    """
    run = start(prefill, decode, **rest)
    tokens = tokens or 5 * prefill.block_size
    theirs = list(range(-(-tokens // prefill.block_size)))[::-1]
    ours = list(range(-(-tokens // decode.block_size)))
    order = run.fetch(run.prompt("a", theirs, tokens=tokens), [ours[-1], *ours[:-1]])
    run.arrive(order)
    return run


class Shapes:
    """Latent caches, layouts, block sizes."""

    @clause("PAIR-012")
    def test_latent_caches_arrive(self, start, latent):
        mla = latent(layers=3)
        fetched(start, mla, mla).settle()

    @clause("PAIR-013")
    def test_heads_before_tokens_arrive(self, start, spec):
        fetched(start, spec(layout="HND"), spec(layout="HND")).settle()

    @clause("PAIR-014")
    def test_layouts_that_differ_are_converted_or_refused(self, start, spec):
        for theirs, ours in (("NHD", "HND"), ("HND", "NHD")):
            run = start(spec(layout=theirs), spec(layout=ours))
            prompt = run.prompt("a", [3, 1])
            order = run.fetch(prompt, [0, 2])
            run.until(lambda: run.is_over(order), "the load is received, or failed")  # noqa: B023
            run.told(prompt)
            run.check()

    @clause("PAIR-083")
    def test_larger_blocks_of_both_sides_arrive(self, start, spec):
        for size in (32, 64):
            large = spec(block_size=size)
            fetched(start, large, large, tokens=150).settle()

    @clause("PAIR-015")
    def test_d_blocks_larger_than_p_blocks_are_filled_by_position(self, start, spec):
        size = spec().block_size
        for larger in (2 * size, 4 * size):
            fetched(start, spec(), spec(block_size=larger)).settle()

    @clause("PAIR-016")
    def test_d_blocks_smaller_than_p_blocks_are_filled_by_position(self, start, spec):
        size = spec().block_size
        for larger in (2 * size, 4 * size):
            fetched(start, spec(block_size=larger), spec(), tokens=9 * size + 6).settle()

    @clause("PAIR-017")
    def test_block_sizes_may_differ_with_any_length_and_layout(self, start, spec):
        size = spec().block_size
        for theirs, ours, tokens in (
            *((1, 4, 1), (4, 1, 4 * size + 1)),
            *((1, 2, 2 * size - 1), (2, 4, 6 * size + 1)),
        ):
            hnd = spec(layout="HND", block_size=theirs * size, layers=1)
            fetched(start, hnd, replace(hnd, block_size=ours * size), tokens=tokens).settle()


class Ranks:
    """Tensor- and data-parallel workers."""

    @clause("PAIR-018")
    def test_each_rank_gets_its_own_heads(self, start, spec):
        fetched(start, spec(tp_size=4, kv_heads=8), spec(tp_size=4, kv_heads=8)).settle()

    @clause("PAIR-019")
    def test_more_d_ranks_than_p_ranks_share_out_the_heads(self, start, spec):
        for theirs, ours in ((1, 8), (2, 4)):
            shape = {"kv_heads": 8, "layers": 1}
            fetched(start, spec(tp_size=theirs, **shape), spec(tp_size=ours, **shape)).settle()

    @clause("PAIR-020")
    def test_fewer_d_ranks_than_p_ranks_gather_the_heads(self, start, spec):
        for theirs, ours in ((8, 1), (4, 2)):
            shape = {"kv_heads": 8, "layers": 1}
            fetched(start, spec(tp_size=theirs, **shape), spec(tp_size=ours, **shape)).settle()

    @clause("PAIR-021")
    def test_replicated_heads_go_to_every_rank_that_holds_them(self, start, spec):
        for theirs, ours, heads in ((1, 4, 2), (8, 1, 2), (4, 8, 2)):
            shape = {"kv_heads": heads, "layers": 1}
            fetched(start, spec(tp_size=theirs, **shape), spec(tp_size=ours, **shape))

    @clause("PAIR-022")
    def test_ranks_and_block_sizes_may_differ_at_once(self, start, spec):
        for theirs, ours in ((4, 2), (2, 4)):
            size = spec().block_size
            p = spec(tp_size=theirs, block_size=size * theirs, layout="HND", layers=1)
            d = replace(p, tp_size=ours, block_size=size * ours)
            fetched(start, p, d, tokens=6 * size + 3).settle()

    @clause("PAIR-023")
    def test_latent_caches_go_to_every_rank(self, start, latent):
        for theirs, ours in ((1, 4), (4, 1)):
            mla = latent(layers=1)
            fetched(start, replace(mla, tp_size=theirs), replace(mla, tp_size=ours))

    @clause("PAIR-024")
    def test_every_rank_of_p_is_told_also_one_that_nobody_reads_from(self, start, latent):
        mla = latent(layers=1)
        for theirs, ours in ((4, 1), (4, 2)):
            fetched(start, replace(mla, tp_size=theirs), replace(mla, tp_size=ours)).settle()

    @clause("PAIR-025")
    def test_d_reads_from_the_data_parallel_rank_that_the_hand_off_names(self, start, spec):
        p = spec(dp_size=3, tp_size=2, layers=1)
        run = start(p, spec(tp_size=2, layers=1))
        prompts = [run.prompt(f"{rank}", [rank, 9], dp_rank=rank) for rank in (2, 0, 1)]
        run.load(*(run.order(prompt, [2 * i, 2 * i + 1]) for i, prompt in enumerate(prompts)))
        run.settle()

    @clause("PAIR-026")
    def test_each_data_parallel_rank_of_d_loads_its_own_requests(self, start, spec):
        run = start(spec(layers=1), spec(dp_size=3, layers=1))
        for rank in (1, 2, 0):
            run.fetch(run.prompt(f"{rank}", [rank, 9 + rank]), [5, 3], dp_rank=rank)
        run.settle()
