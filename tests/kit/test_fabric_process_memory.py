"""Memory that other processes have: shared mappings, and private memory through the kernel.

This process stands for the other one where it makes no difference to the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_testkit.fabric import process_memory
from pd_testkit.fabric.process_memory import (
    ProcessMemory,
    Unreachable,
    memory_of_process,
    move,
    read,
    write,
)
from pd_testkit.fabric.shared_memory import SharedMemory
from tests.kit.peer_process import Peer

ME = os.getpid()


def private(array: np.ndarray) -> ProcessMemory:
    """The same memory, reached through the kernel."""
    return ProcessMemory(ME, array.ctypes.data, array.nbytes)


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    with SharedMemory(3 * mmap.PAGESIZE) as shared:
        shared.array[:] = np.arange(shared.size) % 251
        yield shared


pieces = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 100)), max_size=40)


@given(pieces=pieces)
def test_pieces_are_gathered_in_order(pieces: list[tuple[int, int]]) -> None:
    memory = np.arange(1000, dtype=np.uint16).view(np.uint8)
    want = b"".join(memory[at : at + size].tobytes() for at, size in pieces)
    offsets, sizes = np.array(pieces, np.int64).reshape(-1, 2).T
    assert private(memory).gather(offsets, sizes).tobytes() == want


@given(pieces=pieces)
def test_pieces_are_scattered_in_order(pieces: list[tuple[int, int]]) -> None:
    memory, want = np.zeros(1000, np.uint8), np.zeros(1000, np.uint8)
    data = np.arange(1, 1 + sum(size for _, size in pieces)).astype(np.uint8)
    rest = data
    for at, size in pieces:
        want[at : at + size], rest = rest[:size], rest[size:]
    offsets, sizes = np.array(pieces, np.int64).reshape(-1, 2).T
    private(memory).scatter(offsets, sizes, data)
    assert memory.tobytes() == want.tobytes()


def test_more_pieces_than_one_system_call_takes() -> None:
    memory = np.arange(10_000, dtype=np.uint32)
    order = np.random.default_rng(1).permutation(10_000)
    got = private(memory.view(np.uint8)).gather(order * 4, np.full(10_000, 4))
    assert got.view(np.uint32).tolist() == order.tolist()


def test_a_system_call_that_stops_early_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    real = process_memory._system_call("process_vm_readv")

    def stop_early(pid: int, here: int, *rest: int) -> int:
        room = (ctypes.c_uint64 * 2).from_address(here)
        room[1] = min(room[1], 7)
        return real(pid, here, *rest)

    monkeypatch.setattr(process_memory, "_system_call", lambda name: stop_early)
    memory = np.arange(100, dtype=np.uint8)
    got = private(memory).gather(np.array([50, 0, 90]), np.array([20, 3, 10]))
    assert got.tolist() == [*range(50, 70), *range(3), *range(90, 100)]


@pytest.mark.parametrize("reached", ["source", "destination", "both"])
def test_bytes_move_between_any_two_kinds(reached: str) -> None:
    source, destination = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    move(
        source if reached == "destination" else private(source),
        np.array([8, 32]),
        destination if reached == "source" else private(destination),
        np.array([1, 60]),
        np.array([2, 4]),
    )
    want = bytes([0, 8, 9, *bytes(57), 32, 33, 34, 35])
    assert destination.tobytes() == want


def test_one_byte_is_read_and_set() -> None:
    memory = np.arange(8, dtype=np.uint8)
    for view in (memory, private(memory)):
        assert read(view, 3, 2).tolist() == [3, 4]
        write(view, 3, np.array([9], np.uint8))
        assert memory.tolist() == [0, 1, 2, 9, 4, 5, 6, 7]
        write(view, 3, np.array([3], np.uint8))


class TestShared:
    def test_a_mapping_of_ones_own_is_found_by_another_processs_address(self, shared) -> None:
        with Peer() as child:
            child.run(
                "from pd_testkit.fabric.shared_memory import SharedMemory\n"
                "array = SharedMemory.attach(path).array",
                path=shared.path,
            )
            address = child.run("array.ctypes.data")
            whole = memory_of_process(child.process.pid, address, shared.size)
            assert isinstance(whole, np.ndarray)
            assert whole.ctypes.data == shared.array.ctypes.data
            part = memory_of_process(child.process.pid, address + 5000, 100)
            assert part.ctypes.data == shared.array.ctypes.data + 5000  # type: ignore[union-attr]
            part[0] = 255
            assert child.run("int(array[5000])") == 255

    def test_one_of_several_permissions_is_one(self, shared) -> None:
        """So it looks after a library has protected a page of it."""
        protect, page = ctypes.CDLL(None).mprotect, shared.array.ctypes.data + mmap.PAGESIZE
        assert protect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ) == 0
        found = memory_of_process(ME, shared.array.ctypes.data + 10, 2 * mmap.PAGESIZE)
        assert isinstance(found, np.ndarray)
        assert found.ctypes.data == shared.array.ctypes.data + 10

    def test_pages_in_another_order_are_not_it(self, shared) -> None:
        libc, size = ctypes.CDLL(None), mmap.PAGESIZE
        libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_ulong] * 6
        area = mmap.mmap(-1, 2 * size)
        start = np.frombuffer(area, np.uint8).ctypes.data
        fixed = mmap.MAP_SHARED | 0x10  # MAP_FIXED
        with Path(shared.path).open("r+b") as file:
            for at, offset in [(start, size), (start + size, 0)]:
                both = mmap.PROT_READ | mmap.PROT_WRITE
                assert libc.mmap(at, size, both, fixed, file.fileno(), offset) == at
        assert isinstance(memory_of_process(ME, start, size), np.ndarray)
        assert isinstance(memory_of_process(ME, start, 2 * size), ProcessMemory)

    def test_a_copy_on_write_of_it_is_not_it(self, shared) -> None:
        with Path(shared.path).open("r+b") as file:
            copy = mmap.mmap(file.fileno(), shared.size, flags=mmap.MAP_PRIVATE)
        where = np.frombuffer(copy, np.uint8).ctypes.data
        assert isinstance(memory_of_process(ME, where, 16), ProcessMemory)

    def test_what_lies_beyond_it_is_not_taken_for_it(self, shared) -> None:
        start = shared.array.ctypes.data + shared.size - 8
        try:
            found = memory_of_process(ME, start, 16)
        except Unreachable:
            return  # nothing is mapped behind it
        assert isinstance(found, ProcessMemory)

    def test_private_memory_is_reached_through_the_kernel(self) -> None:
        array = np.zeros(100, np.uint8)
        assert isinstance(memory_of_process(ME, array.ctypes.data, 100), ProcessMemory)

    def test_views_outlive_it(self, shared) -> None:
        view = shared.array[:4]
        path = shared.path
        shared.close()
        shared.close()
        assert view.tolist() == [0, 1, 2, 3]
        with pytest.raises(OSError, match="No such file"):
            SharedMemory.attach(path)
        assert isinstance(memory_of_process(ME, view.ctypes.data, 4), ProcessMemory)

    def test_one_that_is_attached_twice_is_known_until_both_are_closed(self, shared) -> None:
        with SharedMemory.attach(shared.path) as again:
            where = again.array.ctypes.data
            shared.close()
            assert isinstance(memory_of_process(ME, where, 4), np.ndarray)
        assert isinstance(memory_of_process(ME, where, 4), ProcessMemory)

    def test_none_of_no_size(self) -> None:
        with pytest.raises(ValueError, match="0 bytes"):
            SharedMemory(0)


class TestUnreachable:
    def test_memory_that_is_not_mapped_is_refused_at_once(self) -> None:
        barred = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE, prot=0), np.uint8)
        with pytest.raises(Unreachable, match=f"memory of process {ME} cannot be reached: Bad"):
            memory_of_process(ME, barred.ctypes.data, 16)

    def test_a_process_that_has_ended(self) -> None:
        with Peer() as child:
            memory = ProcessMemory(child.process.pid, np.zeros(1, np.uint8).ctypes.data, 1)
        with pytest.raises(Unreachable, match="No such process"):
            read(memory, 0, 1)

    @pytest.mark.parametrize(
        ("number", "cause"), [(errno.EPERM, "yama.ptrace_scope"), (errno.ENOSYS, "seccomp")]
    )
    def test_a_kernel_that_forbids_it_is_told_by_its_setting(
        self, monkeypatch: pytest.MonkeyPatch, number: int, cause: str
    ) -> None:
        def forbid(*arguments: int) -> int:
            ctypes.set_errno(number)
            return -1

        array = np.zeros(4, np.uint8)
        monkeypatch.setattr(process_memory, "_system_call", lambda name: forbid)
        with pytest.raises(Unreachable, match=cause) as caught:
            memory_of_process(ME, array.ctypes.data, 4)
        assert "\n" not in str(caught.value)

    def test_a_system_without_the_calls_says_so(self, monkeypatch) -> None:
        monkeypatch.setattr(process_memory, "_system_call", lambda name: None)
        with pytest.raises(Unreachable, match="lacks process_vm_readv"):
            read(private(np.zeros(4, np.uint8)), 0, 4)

    @pytest.mark.parametrize(("address", "size"), [(0, 8), (4096, -1), (-1, 8)])
    def test_what_is_no_memory(self, address: int, size: int) -> None:
        with pytest.raises(ValueError, match="no memory of"):
            memory_of_process(ME, address, size)

    def test_no_bytes_are_nowhere(self) -> None:
        assert memory_of_process(ME, 0, 0).nbytes == 0
