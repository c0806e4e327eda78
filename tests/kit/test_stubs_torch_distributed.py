"""The stub of torch.distributed: ranks as threads, with torch and without."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from pd_testkit import stubs
from pd_testkit.stubs.torch_distributed import as_rank, build, run_ranks
from pd_testkit.stubs.torch_distributed.ranks import RankTimeout

torch = pytest.importorskip("torch", reason="not applicable: torch is not installed")


def array(*values):
    return np.array(values, dtype=np.float32)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float32)


@pytest.fixture
def dist():
    """The stub, not installed: ``torch.distributed`` itself stays as it is."""
    with ExitStack() as closing:
        yield build(SimpleNamespace(closing=closing))["torch.distributed"]


@pytest.fixture(params=[array, tensor], ids=["numpy", "torch"])
def make(request):
    return request.param


def ranks(dist, size, body, **options):
    return run_ranks(size, body, module=dist, **options)


# -- collectives


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("SUM", [6.0, -3.0]),
        ("PRODUCT", [6.0, -1.0]),
        ("MIN", [1.0, -1.0]),
        ("MAX", [3.0, -1.0]),
        ("AVG", [2.0, -1.0]),
    ],
)
def test_all_reduce_gives_every_rank_the_reduction(dist, make, op, expected):
    def body(rank):
        mine = make(rank + 1, -1)
        dist.all_reduce(mine, op=getattr(dist.ReduceOp, op))
        return mine.tolist()

    assert ranks(dist, 3, body) == [expected] * 3


def test_reduce_writes_on_the_destination_only(dist, make):
    def body(rank):
        mine = make(10**rank)
        dist.reduce(mine, dst=1)
        return mine.tolist()

    assert ranks(dist, 3, body) == [[1.0], [111.0], [100.0]]


def test_broadcast_copies_from_the_source(dist, make):
    def body(rank):
        mine = make(rank, rank)
        dist.broadcast(mine, src=2)
        return mine.tolist()

    assert ranks(dist, 3, body) == [[2.0, 2.0]] * 3


def test_gathering_keeps_rank_order(dist, make):
    def body(rank):
        mine = make(rank, rank + 0.5)
        listed = [make(0, 0) for _ in range(3)]
        flat = make(*[0] * 6)
        stacked = flat.reshape(3, 2) * 0
        dist.all_gather(listed, mine)
        dist.all_gather_into_tensor(flat, mine)
        dist.all_gather_into_tensor(stacked, mine)
        to_one = [make(0, 0) for _ in range(3)] if rank == 2 else None
        dist.gather(mine, to_one, dst=2)
        return [
            [item.tolist() for item in listed],
            flat.tolist(),
            stacked.tolist(),
            to_one and [item.tolist() for item in to_one],
        ]

    rows = [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    all_three = [rows, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], rows]
    assert ranks(dist, 3, body) == [[*all_three, None], [*all_three, None], [*all_three, rows]]


def test_scattering_gives_each_rank_its_part(dist, make):
    def body(rank):
        part, reduced, reduced_flat = make(0), make(0), make(0)
        dist.scatter(part, [make(7), make(8)] if rank == 0 else None)
        dist.reduce_scatter(reduced, [make(rank + 1), make(10 * (rank + 1))])
        dist.reduce_scatter_tensor(reduced_flat, make(rank + 1, 10 * (rank + 1)), dist.ReduceOp.MAX)
        return [part.item(), reduced.item(), reduced_flat.item()]

    assert ranks(dist, 2, body) == [[7.0, 3.0, 2.0], [8.0, 30.0, 20.0]]


def test_objects_are_copied_not_shared(dist):
    original = {"blocks": [1, 2]}

    def body(rank):
        gathered = [None, None]
        dist.all_gather_object(gathered, {"rank": rank})
        told = [original if rank == 0 else None]
        dist.broadcast_object_list(told, src=0)
        told[0]["blocks"].append(rank)
        mine = [None]
        dist.scatter_object_list(mine, ["a", "b"] if rank == 0 else None)
        kept = [None, None] if rank == 1 else None
        dist.gather_object(rank, kept, dst=1)
        return gathered, told[0]["blocks"], mine, kept

    both = [{"rank": 0}, {"rank": 1}]
    first, second = ranks(dist, 2, body)
    assert first == (both, [1, 2, 0], ["a"], None)
    assert second == (both, [1, 2, 1], ["b"], [0, 1])


def test_an_asynchronous_result_is_written_by_wait_not_before(dist, make):
    others_are_in = threading.Barrier(2)

    def body(rank):
        mine = make(1)
        work = dist.all_reduce(mine, async_op=True)
        others_are_in.wait(30)
        before = mine.item()
        work.wait()
        return before, mine.item(), work.is_completed(), work.is_success()

    assert ranks(dist, 2, body) == [(1.0, 2.0, True, True)] * 2


def _battery(dist):
    """Collectives that torch's own threaded group has too; a plain value per rank."""

    def body(rank):
        seen = []
        group = dist.new_group([0, 2])
        for op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG, dist.ReduceOp.MAX):
            mine = torch.tensor([1.5 * rank, -rank, 3.0])
            dist.all_reduce(mine, op=op)
            seen.append(mine.tolist())
        bits = torch.tensor([rank + 1, 6])
        dist.all_reduce(bits, op=dist.ReduceOp.BOR)
        rows = [torch.zeros(2) for _ in range(3)]
        dist.all_gather(rows, torch.tensor([rank, rank + 0.25]))
        whole = torch.zeros(6)
        dist.all_gather_into_tensor(whole, torch.tensor([rank, rank + 0.25]))
        part = torch.zeros(1)
        dist.reduce_scatter_tensor(part, torch.arange(3.0) + rank)
        told = torch.tensor([rank])
        dist.broadcast(told, src=1)
        names = [None] * 3
        dist.all_gather_object(names, f"rank {rank}")
        dist.barrier()
        if rank != 1:
            inside = torch.tensor([10.0**rank])
            dist.all_reduce(inside, group=group)
            seen.append((inside.item(), dist.get_rank(group), dist.get_world_size(group)))
            seen.append(dist.get_process_group_ranks(group))
            seen.append([dist.get_group_rank(group, 2), dist.get_global_rank(group, 1)])
        seen.append((dist.get_rank(group), bits.tolist(), [row.tolist() for row in rows]))
        return [*seen, whole.tolist(), part.item(), told.item(), names, dist.get_world_size()]

    return body


# torch 2.13 renames all_gather_into_tensor and reduce_scatter_tensor; the old names still work.
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_the_stub_does_what_torchs_threaded_group_does(dist):
    import torch.distributed as real

    assert ranks(dist, 3, _battery(dist)) == run_ranks(3, _battery(real), module=real)


# -- sends and receives


def test_messages_match_by_peer_and_tag_in_order(dist, make):
    def body(rank):
        if rank == 0:
            works = [dist.isend(make(n), 1, tag=tag) for n, tag in ((1, 5), (2, 6), (3, 5))]
            return [work.wait() for work in works]
        got = []
        for tag in (6, 5, 5):
            buffer = make(0)
            assert dist.recv(buffer, src=0, tag=tag) == 0
            got.append(buffer.item())
        return got

    assert ranks(dist, 2, body) == [[True] * 3, [2.0, 1.0, 3.0]]


def test_receive_from_any_tells_the_sender(dist, make):
    def body(rank):
        if rank == 1:
            return dist.send(make(4), dst=0)
        buffer = make(0)
        return (dist.recv(buffer), buffer.item()) if rank == 0 else None

    assert ranks(dist, 3, body)[0] == (1, 4.0)


def test_a_batch_of_operations_exchanges_without_deadlock(dist, make):
    def body(rank):
        peer, buffer = 1 - rank, make(0)
        operations = [
            dist.P2POp(dist.isend, make(rank + 10), peer),
            dist.P2POp(dist.irecv, buffer, peer),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        return buffer.item()

    assert ranks(dist, 2, body) == [11.0, 10.0]


def test_two_ranks_that_both_send_first_fail_in_time(dist, make):
    """gloo's send waits for its receiver too: this deadlocks on a real backend."""

    def body(rank):
        dist.send(make(1), 1 - rank)
        dist.recv(make(0), 1 - rank)

    with pytest.raises(dist.DistBackendError, match=r"send to rank [01] .* lacks ranks"):
        ranks(dist, 2, body, timeout=0.05)


def test_objects_are_sent_as_copies(dist):
    def body(rank):
        objects = [{"n": 1}, "x"] if rank == 0 else [None, None]
        if rank == 0:
            dist.send_object_list(objects, dst=1)
        else:
            dist.recv_object_list(objects, src=0)
        return objects

    first, second = ranks(dist, 2, body)
    assert second == [{"n": 1}, "x"]
    assert second[0] is not first[0]


# -- failures


def test_a_rank_that_dies_is_named_and_its_error_raised(dist):
    errors = {}

    def body(rank):
        if rank == 2:
            raise KeyError("lost block table")
        try:
            dist.barrier()
        except dist.DistBackendError as error:
            errors[rank] = str(error)
            raise

    with pytest.raises(KeyError, match="lost block table") as raised:
        ranks(dist, 3, body)
    assert raised.value.__notes__ == ["raised by rank 2 of 3"]
    assert sorted(errors) == [0, 1]
    assert all("rank 2 died of KeyError" in text for text in errors.values())


def test_a_rank_that_returned_fails_the_others_at_once(dist):
    def body(rank):
        if rank != 1:
            dist.barrier()

    started = time.monotonic()
    with pytest.raises(dist.DistBackendError, match=r"lacks ranks \[1\]: rank 1 has returned"):
        ranks(dist, 3, body, timeout=60)
    assert time.monotonic() - started < 30


def test_a_rank_that_never_comes_is_named_after_the_timeout(dist):
    done = threading.Event()

    def body(rank):
        if rank == 0:
            assert done.wait(30)
            return
        try:
            dist.monitored_barrier(timeout=timedelta(milliseconds=20))
        finally:
            done.set()

    with pytest.raises(dist.DistBackendError, match=r"lacks ranks \[0\]: they did not come within"):
        ranks(dist, 2, body)


def test_ranks_in_different_collectives_are_told_so(dist, make):
    def body(rank):
        if rank == 0:
            dist.barrier()
        else:
            dist.all_reduce(make(1))

    with pytest.raises(dist.DistBackendError, match=r"is (barrier|all_reduce\(SUM\)) on ranks"):
        ranks(dist, 2, body)


@pytest.mark.parametrize("shapes", [((1.0,), (1.0, 2.0)), ((1.0, 2.0), (1.0,))])
def test_ranks_with_different_shapes_are_told_so(dist, make, shapes):
    with pytest.raises(dist.DistBackendError, match="rank 0 of the group reduces shape"):
        ranks(dist, 2, lambda rank: dist.all_reduce(make(*shapes[rank])))


def test_a_rank_that_is_stuck_is_shown_where_it_is(dist):
    release = threading.Event()

    def stuck_here(rank):
        if rank == 1:
            release.wait(30)

    try:
        with pytest.raises(RankTimeout, match=r"(?s)ranks \[0\] had returned.*rank-1.*stuck_here"):
            ranks(dist, 2, stuck_here, timeout=0.5)
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name.startswith("rank-"):
                thread.join(30)


def test_a_rank_that_never_comes_ends_torchs_own_group_too():
    import torch.distributed as real

    def body(rank):
        if rank == 0:
            real.barrier()

    with pytest.raises(RankTimeout, match=r"ranks \[1\] had returned"):
        run_ranks(2, body, module=real, timeout=0.5)
    assert run_ranks(2, lambda rank: real.get_rank(), module=real) == [0, 1]
    assert not real.is_initialized()


def test_no_thread_is_left(dist):
    before = set(threading.enumerate())
    ranks(dist, 4, lambda rank: dist.barrier())
    with pytest.raises(ZeroDivisionError):
        ranks(dist, 4, lambda rank: 1 / 0 if rank == 3 else dist.barrier())
    assert set(threading.enumerate()) == before


# -- groups and ranks


def test_groups_have_ranks_of_their_own(dist, make):
    def body(rank):
        odd = dist.new_group([3, 1])
        again = dist.new_group([1, 3])
        if rank in (0, 2):
            with pytest.warns(UserWarning, match="is not in the group"):
                dist.barrier(group=odd)
            return odd, dist.get_rank(odd), dist.get_world_size(odd)
        mine = make(rank)
        dist.broadcast(mine, src=3, group=odd)
        dist.all_reduce(mine, group=again)
        dist.destroy_process_group(odd)
        return mine.item(), dist.get_rank(odd), dist.get_world_size(odd)

    outside = (dist.GroupMember.NON_GROUP_MEMBER, -1, -1)
    assert ranks(dist, 4, body) == [outside, (6.0, 0, 2), outside, (6.0, 1, 2)]


def test_members_alone_can_make_a_group(dist):
    def body(rank):
        if rank == 1:
            return None
        return dist.get_rank(dist.new_group([0, 2], use_local_synchronization=True))

    assert ranks(dist, 3, body) == [0, None, 1]


@pytest.mark.parametrize("scheme", ["tcp", "file", "env"])
def test_ranks_find_each_other_by_address(dist, monkeypatch, scheme):
    method = {"tcp": "tcp://127.0.0.1:29400", "file": "file:///somewhere/store", "env": "env://"}
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29401")

    def body(rank):
        assert not dist.is_initialized()
        dist.init_process_group(
            "gloo",
            init_method=method[scheme],
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=10),
        )
        seen = [None, None]
        dist.all_gather_object(seen, rank)
        with pytest.raises(ValueError, match="twice"):
            dist.init_process_group("gloo", init_method=method[scheme], rank=rank, world_size=2)
        dist.barrier()
        dist.destroy_process_group()
        return seen, dist.is_initialized()

    assert ranks(dist, 2, body, init=False) == [([0, 1], False)] * 2


def test_a_group_can_be_made_without_the_global_state(dist, make):
    """As connectors do for the ranks of data parallelism: over a store, beside the world."""
    c10d = dist.distributed_c10d

    def body(rank):
        store, _, size = next(
            dist.rendezvous.rendezvous(
                "tcp://127.0.0.1:29402", rank, 2, timeout=timedelta(seconds=10)
            )
        )
        prefixed = dist.PrefixStore("dp", store)
        group = dist.ProcessGroup(prefixed, rank, size)
        backend = c10d.ProcessGroupGloo(prefixed, rank, size, timeout=timedelta(seconds=10))
        backend._set_sequence_number_for_group()
        group._register_backend("cpu", dist.ProcessGroup.BackendType.GLOO, backend)
        mine = make(rank + 1)
        dist.all_reduce(mine, op=dist.ReduceOp.MAX, group=group)
        return mine.item(), group.name()

    assert ranks(dist, 2, body, init=False) == [(2.0, "gloo")] * 2


def test_a_thread_can_be_one_rank_of_many(dist):
    with as_rank(3, 8, module=dist):
        assert (dist.get_rank(), dist.get_world_size(), dist.is_initialized()) == (3, 8, True)
        with pytest.raises(dist.DistBackendError, match="rank 0 is not simulated"):
            dist.barrier()
    assert not dist.is_initialized()


def test_a_thread_that_is_no_rank_is_told_so(dist):
    with pytest.raises(ValueError, match="Default process group has not been initialized"):
        dist.get_rank()
    assert dist.group.WORLD is None


# -- stores


def test_stores_answer_as_torchs(dist):
    import torch.distributed as real

    def answers(module):
        store = module.HashStore()
        view = module.PrefixStore("p", store)
        seen = [
            store.compare_set("a", "", "x"),
            store.compare_set("b", "q", "x"),
            store.compare_set("a", "x", "y"),
            store.compare_set("a", "z", "w"),
            store.check(["a"]),
            store.check(["a", "b"]),
            store.add("n", 3),
            store.add("n", -1),
            store.get("n"),
            store.delete_key("n"),
            store.delete_key("n"),
        ]
        view.set("k", b"v")
        store.append("log", "a")
        store.append("log", "b")
        store.multi_set(["s", "t"], ["1", "2"])
        seen += [store.get("p/k"), view.get("k"), store.multi_get(["log", "t"]), store.num_keys()]
        store.set_timeout(timedelta(milliseconds=10))
        seen.append(store.timeout)
        for call in (
            lambda: store.get("never"),
            lambda: store.wait(["a", "never"], timedelta(milliseconds=10)),
        ):
            try:
                call()
            except module.DistStoreError:
                seen.append("DistStoreError")
        return seen

    assert answers(dist) == answers(real)


def test_a_tcp_store_is_found_by_its_port(dist):
    server = dist.TCPStore("127.0.0.1", 0, is_master=True)
    client = dist.TCPStore("localhost", server.port)
    server.set("engine", "prefill-0")
    assert client.get("engine") == b"prefill-0"
    with pytest.raises(dist.DistNetworkError, match="address already in use"):
        dist.TCPStore("127.0.0.1", server.port, is_master=True)
    with pytest.raises(dist.DistNetworkError, match="no rank is its master"):
        dist.TCPStore("127.0.0.1", server.port + 1, timeout=timedelta(milliseconds=10))
    with pytest.raises(dist.DistStoreError, match="1/2 joined"):
        dist.TCPStore("a", 0, 2, is_master=True, timeout=timedelta(milliseconds=10))


# -- installed


def test_installed_over_real_torch_and_taken_out_again():
    import torch.distributed as real

    with stubs.installed("torch.distributed", replace=True) as active:
        import torch.distributed as inside

        assert inside is active.modules["torch.distributed"]
        assert torch.distributed is inside
        assert run_ranks(2, lambda rank: torch.distributed.get_rank()) == [0, 1]
        with pytest.raises(AttributeError, match="no attribute 'all_to_all_single'"):
            torch.distributed.all_to_all_single  # noqa: B018
        # Parts of torch that ask torch.distributed something when they are used.
        torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()
        sampler = torch.utils.data.DistributedSampler([1, 2], num_replicas=2, rank=1, shuffle=False)
        assert list(sampler) == [1]
    assert sys.modules["torch.distributed"] is torch.distributed is real


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

class NoTorch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "torch" else PathFinder.find_spec(name, path)

sys.meta_path[sys.meta_path.index(PathFinder)] = NoTorch

import numpy as np
from pd_testkit import stubs
from pd_testkit.stubs.torch_distributed import run_ranks

with stubs.installed("torch.distributed"):
    import torch.distributed as dist
    from torch.distributed import ReduceOp

    def body(rank):
        mine = np.array([rank + 1])
        dist.all_reduce(mine, op=ReduceOp.SUM)
        return mine.item()

    assert run_ranks(3, body) == [6, 6, 6]
    try:
        import torch
        torch.ones(1)
    except AttributeError as error:
        assert "no attribute 'ones'" in str(error), error
    else:
        raise SystemExit("torch is there")
assert not [name for name in sys.modules if name.partition(".")[0] == "torch"]
"""


def test_without_torch_the_ranks_work_on_numpy():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_stubs_package_imports_neither_torch_nor_zmq():
    code = (
        "import sys, pd_testkit.stubs.torch_distributed, pd_testkit.stubs.zmq\n"
        "assert not {'torch', 'zmq'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
