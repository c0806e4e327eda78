"""The stub of aiter: what works, and that the rest says that it does not."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from pd_testkit import stubs
from tests.kit import spawned


@pytest.fixture
def active() -> Iterator[stubs.Installation]:
    with stubs.installed("aiter") as active:
        yield active


@pytest.fixture
def parallel(active: stubs.Installation) -> ModuleType:
    return importlib.import_module("aiter.dist.parallel_state")


class TestGroups:
    def test_one_rank_in_each_until_told_otherwise(self, parallel) -> None:
        for name in ("tp", "dp", "pp", "ep", "pcp", "dcp", "world"):
            group = getattr(parallel, f"get_{name}_group")()
            assert (group.rank_in_group, group.world_size, group.ranks) == (0, 1, [0]), name

    def test_ranks_and_sizes_are_those_of_the_test(self, active, parallel) -> None:
        active.parallel(tp_rank=1, tp_size=4, dp_rank=2, dp_size=3)
        tp, dp = parallel.get_tp_group(), parallel.get_dp_group()
        assert (tp.rank_in_group, tp.world_size) == (1, 4)
        assert (dp.rank_in_group, dp.world_size) == (2, 3)
        assert parallel.get_tensor_model_parallel_rank() == 1
        assert parallel.get_tensor_model_parallel_world_size() == 4
        active.parallel(tp_rank=3)
        assert (tp.rank_in_group, dp.rank_in_group) == (3, 2)

    def test_global_ranks_count_tp_first_then_pp_then_dp(self, active, parallel) -> None:
        # DP 2 x PP 2 x TP 2, as aiter lays them out: rank = (dp * 2 + pp) * 2 + tp.
        active.parallel(dp_rank=1, dp_size=2, pp_rank=0, pp_size=2, tp_rank=1, tp_size=2)
        assert parallel.get_world_group().rank_in_group == 5
        assert parallel.get_tp_group().ranks == [4, 5]
        assert parallel.get_pp_group().ranks == [5, 7]
        assert parallel.get_dp_group().ranks == [1, 5]
        assert parallel.get_ep_group().ranks == [0, 1, 4, 5]
        assert parallel.get_ep_group().rank_in_group == 3
        pp = parallel.get_pp_group()
        assert (pp.is_first_rank, pp.is_last_rank) == (True, False)
        assert (pp.first_rank, pp.last_rank, pp.next_rank, pp.prev_rank) == (5, 7, 7, 7)

    def test_decode_context_parallelism_splits_tp(self, active, parallel) -> None:
        active.parallel(tp_rank=3, tp_size=4, dcp_rank=1, dcp_size=2)
        assert parallel.get_dcp_group().ranks == [2, 3]

    @pytest.mark.parametrize("ranks", [{"tp_rank": 2, "tp_size": 2}, {"dp_rank": 1}])
    def test_a_rank_beyond_its_size_is_refused(self, active, parallel, ranks) -> None:
        with pytest.raises(ValueError, match="is not below the size"):
            active.parallel(**ranks)
        assert parallel.get_world_group().world_size == 1

    def test_an_unknown_setting_is_refused(self, active) -> None:
        with pytest.raises(TypeError, match="no parallel setting tp_world_size"):
            active.parallel(tp_world_size=2)

    def test_init_dist_env_sets_them_and_destroy_resets_them(self, parallel) -> None:
        from aiter import destroy_dist_env, init_dist_env

        init_dist_env(4, rankID=3, data_parallel_size=2, data_parallel_rank=1)
        assert parallel.get_tp_group().ranks == [4, 5, 6, 7]
        assert parallel.get_world_group().rank == 7
        destroy_dist_env()
        assert parallel.get_world_group().world_size == 1

    def test_a_world_of_tp_and_pp_is_divided(self, parallel) -> None:
        parallel.init_distributed_environment(world_size=4, rank=2)
        parallel.ensure_model_parallel_initialized(2, 2)
        assert parallel.get_tp_group().ranks == [2, 3]
        assert parallel.get_pp_group().ranks == [0, 2]

    def test_two_installations_do_not_share_them(self, active, parallel) -> None:
        active.parallel(tp_rank=1, tp_size=2)
        with stubs.installed("aiter"):
            from aiter.dist.parallel_state import get_tp_group

            assert get_tp_group().world_size == 1
        assert parallel.get_tp_group().world_size == 2

    def test_alone_collectives_give_back_what_they_got(self, parallel) -> None:
        group, value = parallel.get_tp_group(), object()
        assert group.all_reduce(value) is value
        assert group.all_gather(value, dim=0) is value
        assert group.broadcast_object(value) is value
        assert group.barrier() is None

    def test_among_several_ranks_they_raise(self, active, parallel) -> None:
        active.parallel(tp_size=2)
        with pytest.raises(stubs.PlaceholderCalled, match=r"tp group has 2 ranks.*all_reduce"):
            parallel.get_tp_group().all_reduce(1)

    def test_a_group_is_a_group_coordinator_and_strict(self, parallel) -> None:
        group = parallel.get_tp_group()
        assert isinstance(group, parallel.GroupCoordinator)
        with pytest.raises(AttributeError, match=r"no attribute 'no_such'.*get_tp_group"):
            _ = group.no_such
        with pytest.raises(stubs.PlaceholderCalled):
            parallel.GroupCoordinator([[0]], 0, "gloo", False)


class TestNames:
    def test_enumerations_have_the_real_values(self, active) -> None:
        from aiter import ActivationType, QuantType

        assert {member.name: int(member) for member in QuantType} == {
            **{"No": 0, "per_Tensor": 1, "per_Token": 2, "per_1x32": 3, "per_1x128": 4},
            **{"per_128x128": 5, "per_256x128": 6, "per_1024x128": 7},
        }
        assert ActivationType.No.value == -1
        assert ActivationType(2) is ActivationType.Swiglu

    def test_a_kernel_can_be_imported_and_inspected_but_not_called(self, active) -> None:
        from aiter.ops.shuffle import shuffle_weight

        assert list(inspect.signature(shuffle_weight).parameters)[:2] == ["x", "layout"]
        with pytest.raises(
            stubs.PlaceholderCalled, match=r"extend\('aiter\.ops\.shuffle', shuffle_weight=\.\.\.\)"
        ):
            shuffle_weight(1)

    def test_a_class_can_be_subclassed_but_not_made(self, active) -> None:
        from aiter.rotary_embedding import MRotaryEmbedding

        class Mine(MRotaryEmbedding):
            pass

        with pytest.raises(stubs.PlaceholderCalled, match=r"MRotaryEmbedding\.__init__"):
            Mine()
        with pytest.raises(stubs.PlaceholderCalled):
            MRotaryEmbedding.get_input_positions([1])

    def test_an_older_name_is_the_same_module(self, active) -> None:
        import aiter.ops.triton.gemm.basic.gemm_a16wfp4 as new
        import aiter.ops.triton.gemm_a16wfp4 as old

        assert old is new

    def test_what_runs_at_import_works(self, active) -> None:
        from aiter.dist.utils import get_distributed_init_method
        from aiter.jit.utils.chip_info import get_cu_num, get_gfx
        from aiter.jit.utils.torch_guard import torch_compile_guard

        @torch_compile_guard(mutates_args=[], gen_fake=None)
        def double(x: int) -> int:
            return 2 * x

        assert double(3) == 6
        assert (get_gfx(), get_cu_num()) == ("gfx942", 304)
        assert get_distributed_init_method("::1", 80) == "tcp://[::1]:80"

    @pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="not applicable: torch is not installed"
    )
    def test_dtypes_are_torchs(self) -> None:
        program = (
            "import sys, pd_testkit.stubs as stubs\n"
            "with stubs.installed('aiter'):\n"
            "    from aiter import dtypes\n"
            "    assert 'torch' not in sys.modules\n"
            "    assert dtypes.d_dtypes['bf16'] is sys.modules['torch'].bfloat16\n"
            "    assert dtypes.fp8 is sys.modules['torch'].float8_e4m3fnuz\n"
            "    from aiter.utility.dtypes import d_dtypes\n"
            "    assert type(d_dtypes) is dict and set(d_dtypes) >= {'fp8', 'i4x2', 'u8'}\n"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.fixture
def queue(active: stubs.Installation) -> Iterator[Callable]:
    """Makes a queue and its readers; all are gone at the end."""
    from aiter.dist.shm_broadcast import MessageQueue

    made = []

    def make(readers: int, **options: int) -> tuple:
        writer = MessageQueue(readers, readers, **options)
        handle = writer.export_handle()
        ends = [MessageQueue.create_from_handle(handle, rank) for rank in range(readers)]
        made.extend([writer, *ends])
        writer.wait_until_ready()
        return writer, *ends

    yield make
    for end in made:
        end._finalizer()


class TestMessageQueue:
    def test_every_reader_gets_every_message_in_order(self, queue) -> None:
        writer, first, second = queue(2)
        writer.enqueue(("forward", {"step": 1}))
        writer.enqueue(("exit",))
        for reader in (first, second):
            assert reader.dequeue(timeout=30) == ("forward", {"step": 1})
            assert reader.dequeue(timeout=30) == ("exit",)

    def test_a_message_is_what_it_was_when_it_was_sent(self, queue) -> None:
        writer, reader = queue(1)
        batch = [1]
        writer.enqueue(batch)
        batch.append(2)
        assert reader.dequeue(timeout=30) == [1]

    def test_a_reader_that_attaches_late_misses_nothing(self, active) -> None:
        from aiter.dist.shm_broadcast import MessageQueue

        writer = MessageQueue(1, 1)
        writer.enqueue("early")
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        assert reader.dequeue(timeout=30) == "early"
        reader._finalizer()
        writer._finalizer()

    def test_a_message_larger_than_a_chunk_passes(self, queue) -> None:
        writer, reader = queue(1, max_chunk_bytes=1024)
        writer.enqueue(b"k" * 5_000_000)
        assert reader.dequeue(timeout=30) == b"k" * 5_000_000

    def test_a_full_queue_makes_the_writer_wait_for_the_slowest_reader(self, queue) -> None:
        writer, fast, slow = queue(2, max_chunks=2)
        for step in range(2):
            writer.enqueue(step)
            assert fast.dequeue(timeout=30) == step
        with pytest.raises(TimeoutError):
            writer.enqueue(2, timeout=0.01)
        assert slow.dequeue(timeout=30) == 0
        writer.enqueue(2, timeout=30)
        assert [slow.dequeue(timeout=30), slow.dequeue(timeout=30)] == [1, 2]
        assert fast.dequeue(timeout=30) == 2

    def test_no_message_in_time_is_a_timeout(self, queue) -> None:
        _, reader = queue(1)
        with pytest.raises(TimeoutError):
            reader.dequeue(timeout=0.01)

    def test_a_wait_can_be_cancelled(self, queue) -> None:
        _, reader = queue(1)
        cancel = threading.Event()
        cancel.set()
        with pytest.raises(RuntimeError, match="cancelled"):
            reader.dequeue(cancel=cancel)

    def test_each_end_does_its_own_part_only(self, queue) -> None:
        writer, reader = queue(1)
        with pytest.raises(AssertionError, match="Only writers"):
            reader.enqueue(1)
        with pytest.raises(RuntimeError, match="Only readers"):
            writer.dequeue()

    def test_broadcast_object_gives_it_at_both_ends(self, queue) -> None:
        writer, reader = queue(1)
        assert writer.broadcast_object("weights") == "weights"
        assert reader.broadcast_object() == "weights"

    def test_a_writer_that_is_gone_ends_the_wait(self, queue) -> None:
        writer, reader = queue(1)
        writer._finalizer()
        with pytest.raises(EOFError):
            reader.dequeue(timeout=30)

    def test_a_dropped_queue_leaves_no_thread(self, active) -> None:
        from aiter.dist.shm_broadcast import MessageQueue

        before = set(threading.enumerate())
        writer = MessageQueue(1, 1)
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        writer.wait_until_ready()
        assert set(threading.enumerate()) - before
        del writer, reader
        assert set(threading.enumerate()) == before

    def test_the_stubs_end_takes_a_forgotten_queue_along(self) -> None:
        before = set(threading.enumerate())
        with stubs.installed("aiter"):
            from aiter.dist.shm_broadcast import MessageQueue

            forgotten = MessageQueue(1, 1)
        assert set(threading.enumerate()) == before
        with pytest.raises(ConnectionError):
            MessageQueue.create_from_handle(forgotten.export_handle(), 0)

    def test_a_rank_that_is_no_reader_is_refused(self, queue) -> None:
        writer, _ = queue(1)
        with pytest.raises(ValueError, match="rank 1 is none"):
            type(writer).create_from_handle(writer.export_handle(), 1)

    def test_readers_elsewhere_are_refused(self, active) -> None:
        from aiter.dist.shm_broadcast import MessageQueue

        with pytest.raises(ValueError, match="this machine only"):
            MessageQueue(2, 1)

    def test_it_reaches_another_process(self, active, monkeypatch) -> None:
        from aiter.dist.shm_broadcast import MessageQueue

        for name, value in active.child_env().items():
            monkeypatch.setenv(name, value)
        spawn = multiprocessing.get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        writer = MessageQueue(1, 1)
        with receiver, sender:
            child = spawn.Process(target=spawned.pass_on, args=(writer.export_handle(), 0, sender))
            child.start()
            writer.enqueue(("step", 1))
            writer.enqueue(b"x" * 1_000_000)
            assert receiver.poll(60)
            assert receiver.recv() == [("step", 1), b"x" * 1_000_000]
            child.join()
            child.close()
        writer._finalizer()
