"""The stub of mori behaves as mori does over RDMA.

Expected values are read off mori's sources (src/io, include/mori/io), not from the stub.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest

from pd_testkit import stubs
from pd_testkit.fabric import Drop, Fabric, FabricOptions, HandshakeFailure, Hang


@pytest.fixture
def active() -> Iterator[stubs.Installation]:
    with stubs.installed("mori") as active:
        yield active


@pytest.fixture
def io(active: stubs.Installation) -> ModuleType:
    import mori.io

    return mori.io


@pytest.fixture
def cpp(active: stubs.Installation) -> ModuleType:
    import mori.cpp

    return mori.cpp


class Side:
    """An engine with one registered buffer of ``size`` bytes: 0, 1, 2, ... in ``start``'s case."""

    def __init__(self, io: Any, key: str, start: int | None = None, **config: Any) -> None:
        self.io = io
        self.engine = io.IOEngine(key, io.IOEngineConfig(host="127.0.0.1", port=0))
        self.engine.create_backend(io.BackendType.RDMA, io.RdmaBackendConfig(**config))
        self.bytes = np.zeros(64, np.uint8) if start is None else np.arange(64, dtype=np.uint8)
        self.memory = self.register(self.bytes)

    def register(self, array: Any) -> Any:
        return self.engine.register_memory(
            array.ctypes.data, array.nbytes, -1, self.io.MemoryLocationType.CPU
        )

    def meet(self, other: Side) -> Any:
        """Registers ``other`` from its packed descriptors; gives a session with its memory."""
        packed = other.engine.get_engine_desc().pack()
        self.engine.register_remote_engine(self.io.EngineDesc.unpack(packed))
        remote = self.io.MemoryDesc.unpack(other.memory.pack())
        return self.engine.create_session(self.memory, remote)


@pytest.fixture
def producer(io: Any) -> Side:
    return Side(io, "P", start=0)


@pytest.fixture
def consumer(io: Any) -> Side:
    return Side(io, "D")


class TestTransfers:
    def test_a_read_moves_the_bytes(self, io, producer, consumer, active) -> None:
        session = consumer.meet(producer)
        status = session.read(8, 16, 4, session.allocate_transfer_uid())
        assert not consumer.bytes.any()
        assert status.InProgress()
        status.Wait()
        assert status.Succeeded()
        assert consumer.bytes[8:12].tolist() == [16, 17, 18, 19]
        assert np.count_nonzero(consumer.bytes) == 4
        assert active.fabric.counters.total.bytes == 4

    def test_a_write_moves_the_bytes_the_other_way(self, producer, consumer) -> None:
        session = producer.meet(consumer)
        session.write(16, 8, 4, 0).Wait()
        assert consumer.bytes[8:12].tolist() == [16, 17, 18, 19]

    def test_a_batch_on_a_session_has_one_status(self, producer, consumer) -> None:
        status = consumer.meet(producer).batch_read([0, 32], [10, 20], [2, 3], 0)
        status.Wait()
        assert consumer.bytes[:2].tolist() == [10, 11]
        assert consumer.bytes[32:35].tolist() == [20, 21, 22]

    def test_batches_on_an_engine_have_a_status_each(self, io, producer, consumer) -> None:
        consumer.meet(producer)
        statuses = consumer.engine.batch_read(
            [consumer.memory] * 2,
            [[0], [32]],
            [producer.memory] * 2,
            [[10], [60]],
            [[2], [5]],
            [1, 2],
        )
        assert consumer.engine.wait_all(statuses) == io.StatusCode.ERR_INVALID_ARGS
        assert [status.Code() for status in statuses] == [
            io.StatusCode.SUCCESS,
            io.StatusCode.ERR_INVALID_ARGS,
        ]

    def test_single_transfers_on_an_engine(self, producer, consumer) -> None:
        consumer.meet(producer)
        consumer.engine.read(consumer.memory, 0, producer.memory, 5, 1, 0).Wait()
        consumer.engine.write(consumer.memory, 0, producer.memory, 63, 1, 1).Wait()
        assert (consumer.bytes[0], producer.bytes[63]) == (5, 5)

    def test_memory_may_be_ctypes(self, io, producer, consumer) -> None:
        consumer.meet(producer)
        raw = (ctypes.c_uint8 * 4)()
        memory = consumer.engine.register_memory(
            ctypes.addressof(raw), 4, -1, io.MemoryLocationType.CPU
        )
        consumer.engine.read(memory, 0, producer.memory, 60, 4, 0).Wait()
        assert list(raw) == [60, 61, 62, 63]

    def test_numpy_offsets_are_taken(self, producer, consumer) -> None:
        local, remote = np.array([0, 1]), np.array([40, 50])
        consumer.meet(producer).batch_read(local, remote, np.array([1, 1]), 0).Wait()
        assert consumer.bytes[:2].tolist() == [40, 50]

    def test_an_empty_batch_succeeds_at_once(self, producer, consumer) -> None:
        session = consumer.meet(producer)
        assert session.batch_read([], [], [], 0).Succeeded()
        (status,) = consumer.engine.batch_read(
            [consumer.memory], [[]], [producer.memory], [[]], [[]], [0]
        )
        assert status.Succeeded()


class TestEngines:
    def test_two_engines_of_one_host_may_share_a_key(self, io) -> None:
        prefill, decode = Side(io, "atom:ip:h+tp:0+dp:0", start=0), Side(io, "atom:ip:h+tp:0+dp:0")
        session = decode.meet(prefill)
        session.read(0, 30, 2, 7).Wait()
        assert decode.bytes[:2].tolist() == [30, 31]
        assert prefill.engine.pop_inbound_transfer_status("atom:ip:h+tp:0+dp:0", 7).Succeeded()

    def test_port_0_becomes_a_free_one_with_the_rdma_backend(self, io) -> None:
        engine = io.IOEngine("k", io.IOEngineConfig("127.0.0.1", 0))
        assert engine.get_engine_desc().port == 0
        engine.create_backend(io.BackendType.RDMA)
        assert 0 < engine.get_engine_desc().port < 2**16
        other = Side(io, "other").engine
        assert other.get_engine_desc().port != engine.get_engine_desc().port

    def test_a_taken_port_is_refused(self, io) -> None:
        first = Side(io, "k")
        port = first.engine.get_engine_desc().port
        second = io.IOEngine("k", io.IOEngineConfig("127.0.0.1", port))
        with pytest.raises(RuntimeError, match="in use"):
            second.create_backend(io.BackendType.RDMA)
        del first.engine
        second.create_backend(io.BackendType.RDMA)
        assert second.get_engine_desc().port == port

    def test_without_a_backend_or_a_peer_nothing_is_posted(self, io, producer) -> None:
        engine = io.IOEngine("k", io.IOEngineConfig())
        mine = engine.register_memory(producer.bytes.ctypes.data, 64, -1, io.MemoryLocationType.CPU)
        for _ in range(2):
            assert engine.create_session(mine, producer.memory) is None
            status = engine.read(mine, 0, producer.memory, 0, 1, 0)
            assert status.Code() == io.StatusCode.ERR_BAD_STATE
            assert status.Message() == "No available backend found, create backend first"
            engine.create_backend(io.BackendType.RDMA)  # still no remote engine registered

    def test_a_backend_can_go(self, io, producer, consumer) -> None:
        assert consumer.meet(producer) is not None
        consumer.engine.remove_backend(io.BackendType.RDMA)
        assert consumer.engine.create_session(consumer.memory, producer.memory) is None

    def test_a_deregistered_engine_is_unknown(self, io, producer, consumer) -> None:
        consumer.meet(producer)
        consumer.engine.deregister_remote_engine(producer.engine.get_engine_desc())
        assert consumer.engine.create_session(consumer.memory, producer.memory) is None

    def test_a_second_backend_of_a_type_is_skipped(self, io, consumer) -> None:
        port = consumer.engine.get_engine_desc().port
        consumer.engine.create_backend(io.BackendType.RDMA)
        assert consumer.engine.get_engine_desc().port == port

    def test_a_backend_without_a_default_is_refused(self, io, consumer) -> None:
        with pytest.raises(NotImplementedError):
            consumer.engine.create_backend(io.BackendType.TCP)
        with pytest.raises(TypeError):
            consumer.engine.create_backend(io.BackendType.RDMA, {"qp_per_transfer": 1})

    def test_memory_from_before_the_backend_is_unknown_to_peers(self, io, consumer) -> None:
        engine = io.IOEngine("late", io.IOEngineConfig("127.0.0.1"))
        late = engine.register_memory(consumer.bytes.ctypes.data, 64, -1, io.MemoryLocationType.CPU)
        engine.create_backend(io.BackendType.RDMA)
        consumer.engine.register_remote_engine(engine.get_engine_desc())
        with pytest.raises(RuntimeError, match="size mismatch"):
            consumer.engine.create_session(consumer.memory, late)

    def test_an_engine_that_is_gone_cannot_be_connected_to(self, io, producer, consumer) -> None:
        desc, memory = producer.engine.get_engine_desc(), producer.memory
        del producer.engine
        consumer.engine.register_remote_engine(desc)
        with pytest.raises(RuntimeError, match="cannot connect"):
            consumer.engine.create_session(consumer.memory, memory)

    def test_an_engine_of_another_process_cannot_be_reached(self, io, producer, consumer) -> None:
        key, node, name, host, port, pid = msgpack.unpackb(producer.engine.get_engine_desc().pack())
        foreign = msgpack.packb([key, node, name, host, port, pid + 1])
        consumer.engine.register_remote_engine(io.EngineDesc.unpack(foreign))
        with pytest.raises(RuntimeError, match="cannot connect"):
            consumer.engine.create_session(consumer.memory, producer.memory)

    def test_xgmi_joins_gpu_memory_only_and_notifies_nobody(self, io) -> None:
        engines = []
        for key in ("P", "D"):
            engine = io.IOEngine(key, io.IOEngineConfig("127.0.0.1"))
            engine.create_backend(io.BackendType.XGMI)
            engines.append(engine)
        source, target = np.arange(8, dtype=np.uint8), np.zeros(8, np.uint8)
        on_gpu, on_cpu = io.MemoryLocationType.GPU, io.MemoryLocationType.CPU
        remote = engines[0].register_memory(source.ctypes.data, 8, 0, on_gpu)
        engines[1].register_remote_engine(engines[0].get_engine_desc())
        local = engines[1].register_memory(target.ctypes.data, 8, 0, on_gpu)
        engines[1].create_session(local, remote).read(0, 4, 4, 3).Wait()
        assert target.tolist() == [4, 5, 6, 7, 0, 0, 0, 0]
        assert engines[0].pop_inbound_transfer_status("D", 3) is None
        on_host = engines[1].register_memory(target.ctypes.data, 8, -1, on_cpu)
        assert engines[1].create_session(on_host, remote) is None

    def test_uids_count_from_zero_for_an_engine_and_its_sessions(self, producer, consumer) -> None:
        session = consumer.meet(producer)
        assert [
            consumer.engine.allocate_transfer_uid(),
            session.allocate_transfer_uid(),
            consumer.engine.allocate_transfer_uid(),
        ] == [0, 1, 2]


class TestTensors:
    def tensor(self, array: Any, index: int | None = None, contiguous: bool = True) -> Any:
        """What of torch.Tensor the registration needs, over numpy memory."""
        return SimpleNamespace(
            is_contiguous=lambda: contiguous,
            nelement=lambda: array.size,
            element_size=lambda: array.itemsize,
            data_ptr=lambda: array.ctypes.data,
            device=SimpleNamespace(type="cpu" if index is None else "cuda", index=index),
        )

    def test_a_cpu_tensor(self, io, consumer) -> None:
        array = np.zeros((3, 5), np.float32)
        memory = consumer.engine.register_torch_tensor(self.tensor(array))
        assert (memory.size, memory.device_id, memory.loc) == (60, -1, io.MemoryLocationType.CPU)
        assert memory.data == array.ctypes.data

    def test_a_gpu_tensor(self, io, consumer) -> None:
        memory = consumer.engine.register_torch_tensor(self.tensor(np.zeros(4), index=3))
        assert (memory.device_id, memory.loc) == (3, io.MemoryLocationType.GPU)

    def test_one_that_is_not_contiguous_is_refused(self, consumer) -> None:
        with pytest.raises(RuntimeError, match="input tensor must be contiguous"):
            consumer.engine.register_torch_tensor(self.tensor(np.zeros(4), contiguous=False))


class TestErrors:
    @pytest.mark.parametrize(
        ("local", "remote", "size"), [(61, 0, 4), (0, 61, 4), (0, 0, 65), (2**63, 0, 1)]
    )
    def test_out_of_range_is_known_at_once(self, io, producer, consumer, local, remote, size):
        status = consumer.meet(producer).read(local, remote, size, 0)
        assert status.Code() == io.StatusCode.ERR_INVALID_ARGS
        assert status.Message() == "length out of range"
        assert status.Failed()

    def test_lengths_that_differ_are_known_at_once(self, io, producer, consumer) -> None:
        status = consumer.meet(producer).batch_read([0, 1], [0], [1, 1], 0)
        assert status.Code() == io.StatusCode.ERR_INVALID_ARGS
        assert "mismatch" in status.Message()

    @pytest.mark.parametrize("offset", [-1, 0.5])
    def test_an_offset_that_is_no_unsigned_integer_raises(self, producer, consumer, offset):
        with pytest.raises(TypeError):
            consumer.meet(producer).read(offset, 0, 1, 0)

    def test_memory_that_was_deregistered_meanwhile_fails_the_operation(
        self, io, producer, consumer
    ) -> None:
        session = consumer.meet(producer)
        producer.engine.deregister_memory(producer.memory)
        status = session.read(0, 0, 1, 0)
        assert status.InProgress()
        status.Wait()
        assert status.Code() == io.StatusCode.ERR_RDMA_OP
        assert not consumer.bytes.any()

    def test_local_memory_that_was_deregistered_fails_the_operation(
        self, io, producer, consumer
    ) -> None:
        session = consumer.meet(producer)
        consumer.engine.deregister_memory(consumer.memory)
        status = session.read(0, 0, 1, 0)
        status.Wait()
        assert status.Code() == io.StatusCode.ERR_RDMA_OP

    def test_a_null_address_is_refused(self, io, consumer) -> None:
        with pytest.raises(ValueError, match="null pointer"):
            consumer.engine.register_memory(0, 8, -1, io.MemoryLocationType.CPU)

    def test_a_fault_of_the_fabric_reaches_the_status(self) -> None:
        with stubs.installed("mori", fabric=Fabric(faults=[Drop(nth=1)])) as active:
            import mori.io as io

            producer, consumer = Side(io, "P", start=0), Side(io, "D")
            status = consumer.meet(producer).read(0, 0, 8, 0)
            status.Wait()
            assert status.Code() == io.StatusCode.ERR_RDMA_OP
            assert sum(active.fabric.counters.faults.values()) == 1
            assert producer.engine.pop_inbound_transfer_status("D", 0) is None

    def test_engines_stay_on_the_fabric_that_they_were_made_on(self) -> None:
        one, other = Fabric(), Fabric()
        with stubs.installed("mori", fabric=one) as active:
            import mori.io as io

            with active.on(other):
                producer, consumer = Side(io, "P", start=0), Side(io, "D")
            Side(io, "E")
            consumer.meet(producer).read(0, 0, 8, 0).Wait()
            assert (set(one.engines), set(other.engines)) == ({"E"}, {"P", "D"})
            assert active.fabric is one

    def test_a_failed_handshake_is_raised(self) -> None:
        with stubs.installed("mori", fabric=Fabric(faults=[HandshakeFailure()])):
            import mori.io as io

            with pytest.raises(RuntimeError, match="no RDMA connection to engine P"):
                Side(io, "D").meet(Side(io, "P"))


class TestRestart:
    def test_a_session_with_an_engine_that_restarted_is_stale(self, io, producer, consumer) -> None:
        session = consumer.meet(producer)
        session.read(0, 10, 1, 0).Wait()
        del producer.engine
        reborn = Side(io, "P", start=0)
        status = session.read(0, 20, 1, 1)
        status.Wait()
        assert status.Code() == io.StatusCode.ERR_RDMA_OP
        assert consumer.bytes[0] == 10
        assert Side(io, "D2").meet(reborn) is not None


class TestNotifications:
    def test_the_other_side_sees_the_transfer_and_keeps_seeing_it(self, producer, consumer):
        session = consumer.meet(producer)
        status = session.read(0, 0, 1, 9)
        status.Wait()
        for _ in range(2):
            assert producer.engine.pop_inbound_transfer_status("D", 9).Succeeded()
        assert producer.engine.pop_inbound_transfer_status("D", 8) is None
        assert producer.engine.pop_inbound_transfer_status("nobody", 9) is None
        assert consumer.engine.pop_inbound_transfer_status("P", 9) is None

    @pytest.mark.parametrize("without", ["initiator", "peer"])
    def test_both_sides_must_have_it_enabled(self, io, without) -> None:
        producer = Side(io, "P", start=0, enable_notification=without != "peer")
        consumer = Side(io, "D", enable_notification=without != "initiator")
        consumer.meet(producer).read(0, 0, 1, 9).Wait()
        assert producer.engine.pop_inbound_transfer_status("D", 9) is None

    def test_a_refused_transfer_notifies_nobody(self, producer, consumer) -> None:
        consumer.meet(producer).read(0, 0, 65, 9)
        assert producer.engine.pop_inbound_transfer_status("D", 9) is None


class TestStatus:
    def test_it_begins_as_init_and_is_not_waited_for(self, cpp) -> None:
        status = cpp.TransferStatus()
        status.Wait()
        assert status.Init()
        assert status.WaitFor(1000) == cpp.StatusCode.INIT
        assert (status.InProgress(), status.Succeeded(), status.Failed()) == (False, False, False)

    def test_the_first_error_stays(self, cpp) -> None:
        status = cpp.TransferStatus()
        status.Update(cpp.StatusCode.ERR_RDMA_OP, "first")
        status.Update(cpp.StatusCode.SUCCESS, "later")
        assert (status.Code(), status.Message()) == (cpp.StatusCode.ERR_RDMA_OP, "first")
        status.SetCode(cpp.StatusCode.SUCCESS)
        assert status.Succeeded()

    def test_waiting_for_0_polls_once(self, io, producer, consumer) -> None:
        status = consumer.meet(producer).read(0, 0, 1, 0)
        assert status.WaitFor(0) == io.StatusCode.IN_PROGRESS
        assert status.WaitFor(timeout_ms=-1) == io.StatusCode.SUCCESS

    def test_a_bounded_wait_may_end_in_progress(self) -> None:
        with stubs.installed("mori", fabric=Fabric(faults=[Hang(nth=1)])):
            import mori.io as io

            producer, consumer = Side(io, "P"), Side(io, "D")
            status = consumer.meet(producer).read(0, 0, 1, 0)
            assert status.WaitFor(50) == io.StatusCode.IN_PROGRESS

    def test_an_unbounded_wait_ends_when_another_thread_ends_the_transfer(self) -> None:
        fabric = Fabric(faults=[Hang(nth=1)])
        with stubs.installed("mori", fabric=fabric):
            import mori.io as io

            producer, consumer = Side(io, "P"), Side(io, "D")
            status = consumer.meet(producer).read(0, 0, 1, 0)
            waiter = threading.Thread(target=status.Wait)
            waiter.start()
            fabric.engines["P"].kill()
            waiter.join(timeout=30)
            assert not waiter.is_alive()
            assert status.Code() == io.StatusCode.ERR_RDMA_OP

    def test_a_status_of_ones_own_can_be_waited_for_in_a_thread(self, cpp) -> None:
        status = cpp.TransferStatus()
        status.SetCode(cpp.StatusCode.IN_PROGRESS)
        waiter = threading.Thread(target=status.Wait)
        waiter.start()
        status.Update(cpp.StatusCode.SUCCESS, "")
        waiter.join(timeout=30)
        assert not waiter.is_alive()


class TestWaitAll:
    def statuses(self, cpp: Any, *codes: str) -> list[Any]:
        made = []
        for code in codes:
            made.append(cpp.TransferStatus())
            made[-1].SetCode(getattr(cpp.StatusCode, code))
        return made

    @pytest.mark.parametrize(
        ("codes", "timeout_ms", "result"),
        [
            ((), -1, "SUCCESS"),
            (("SUCCESS", "SUCCESS"), -1, "SUCCESS"),
            (("SUCCESS", "ERR_RDMA_OP", "ERR_GPU_OP"), -1, "ERR_RDMA_OP"),
            (("IN_PROGRESS", "ERR_RDMA_OP"), 0, "ERR_RDMA_OP"),
            (("SUCCESS", "IN_PROGRESS"), 0, "IN_PROGRESS"),
            (("ERR_GPU_OP", "IN_PROGRESS"), 1, "ERR_GPU_OP"),
            (("IN_PROGRESS", "ERR_GPU_OP"), 1, "IN_PROGRESS"),
        ],
    )
    def test_a_failure_wins(self, cpp, consumer, codes, timeout_ms, result) -> None:
        statuses = self.statuses(cpp, *codes)
        found = consumer.engine.wait_all(statuses, timeout_ms)
        assert found == getattr(cpp.StatusCode, result)

    def test_all_share_the_time(self) -> None:
        options = FabricOptions(latency_min=0.01, latency_mean=0.01, bandwidth=float("inf"))
        with stubs.installed("mori", fabric=Fabric(options)) as active:
            import mori.io as io

            producer, consumer = Side(io, "P"), Side(io, "D")
            session = consumer.meet(producer)
            statuses = [session.read(0, 0, 1, uid) for uid in range(3)]
            assert consumer.engine.wait_all(statuses, timeout_ms=5) == io.StatusCode.IN_PROGRESS
            assert active.fabric.clock.now == pytest.approx(0.005)
            assert consumer.engine.wait_all(statuses, timeout_ms=20) == io.StatusCode.SUCCESS


class TestTypes:
    def test_an_engine_descriptor_is_a_msgpack_array(self, io, producer) -> None:
        desc = producer.engine.get_engine_desc()
        packed = msgpack.unpackb(desc.pack())
        assert packed == [
            "P",
            desc.node_id,
            desc.hostname,
            "127.0.0.1",
            desc.port,
            os.getpid(),
        ]
        assert io.EngineDesc.unpack(desc.pack()) == desc
        assert io.EngineDesc.unpack(msgpack.packb(["other", *packed[1:]])) != desc

    def test_a_memory_descriptor_is_a_msgpack_array(self, io, producer) -> None:
        memory = producer.memory
        assert msgpack.unpackb(memory.pack()) == [
            *("P", memory.id, -1, "", producer.bytes.ctypes.data, 64, 1),
            *(bytes(64), -1, 0, bytes(64), -1, "", 0, 0),
        ]
        again = io.MemoryDesc.unpack(memory.pack())
        assert again == memory
        assert again.loc is io.MemoryLocationType.CPU
        assert again.ipc_handle == bytes(64)
        assert io.MemoryDesc() != memory

    @pytest.mark.parametrize("data", [b"", b"\xc1", msgpack.packb(5), msgpack.packb([5])])
    def test_other_bytes_are_refused(self, io, data) -> None:
        with pytest.raises(RuntimeError):
            io.EngineDesc.unpack(data)

    def test_descriptors_are_read_only_and_not_hashable(self, io, producer) -> None:
        with pytest.raises(AttributeError):
            producer.memory.size = 1
        with pytest.raises(TypeError):
            hash(producer.memory)
        with pytest.raises(TypeError, match="No constructor"):
            io.EngineDesc()

    def test_configurations_take_positions_and_names_and_can_be_set(self, io) -> None:
        config = io.RdmaBackendConfig(4, 2, 1, io.PollCqMode.EVENT, False)
        assert (config.qp_per_transfer, config.post_batch_size) == (4, 2)
        assert (config.poll_cq_mode, config.enable_notification) == (io.PollCqMode.EVENT, False)
        assert (config.notif_per_qp, config.chunk_bytes) == (1024, 65536)
        config.max_send_wr = 128
        assert (config.max_send_wr, config.max_cqe_num, config.max_msg_sge) == (128, 0, 0)
        with pytest.raises(AttributeError):
            config.no_such = 1
        assert io.XgmiBackendConfig().num_streams == 64
        with pytest.raises(TypeError):
            io.IOEngineConfig("h", 70000)

    def test_enumerations_are_pybind11s(self, io, cpp) -> None:
        assert int(io.StatusCode.ERR_BAD_STATE) == 14
        assert io.BackendType(2) is io.BackendType.RDMA
        assert io.StatusCode.SUCCESS != 0
        assert cpp.FABRIC is io.BackendType.FABRIC
        assert [0, 1, 2][io.MemoryLocationType.GPU] == 2

    def test_what_needs_a_super_node_says_so(self, io) -> None:
        with pytest.raises(stubs.PlaceholderCalled, match=r"mori\.cpp\.fabric_alloc"):
            io.fabric_alloc(1024, 0)
