"""``aiter.dist.parallel_state``: the parallel groups as ranks and sizes, without processes.

A group answers where this process stands. What needs the other ranks is done when the group has
one rank, and raises otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from pd_testkit.stubs.strict import PlaceholderCalled, hint

_AXES = ("dp", "pp", "pcp", "tp")
"""Independent axes of the world, the outermost first: aiter counts global ranks in this order."""
_GROUPS = (*_AXES, "dcp", "ep")


class ParallelState:
    """This process's rank and size in each parallel group; all sizes are 1 at first.

    ``tp``, ``dp``, ``pp`` and ``pcp`` (prefill context) span the world. ``dcp`` (decode context)
    splits ``tp``; ``ep`` is ``dp`` times ``pcp`` times ``tp`` until it is set.
    """

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._replica_rank = 0

    def set(self, **ranks: int) -> None:
        """Sets ranks and sizes by name: ``set(tp_rank=1, tp_size=2)``.

        Raises:
            TypeError: no such name.
            ValueError: a rank that is not below its size.
        """
        names = [f"{group}_{part}" for group in _GROUPS for part in ("rank", "size")]
        if unknown := sorted(set(ranks) - set(names)):
            raise TypeError(f"no parallel setting {', '.join(unknown)}; there are {names}")
        places = dict(self._places)
        for group in {name.partition("_")[0] for name in ranks}:
            rank, size = self.place(group)
            rank, size = ranks.get(f"{group}_rank", rank), ranks.get(f"{group}_size", size)
            if not 0 <= rank < size:
                raise ValueError(f"{group} rank {rank} is not below the size {size}")
            places[group] = rank, size
        self._places = places

    def reset(self) -> None:
        """Back to one rank in every group."""
        self._places.clear()
        self._replica_rank = 0

    def place(self, group: str) -> tuple[int, int]:
        """Rank and size in ``group``, which may be ``world``."""
        if group == "world":
            return self._combined(_AXES)
        if group == "ep" and group not in self._places:
            return self._combined(("dp", "pcp", "tp"))
        return self._places.get(group, (0, 1))

    def members(self, group: str) -> list[int]:
        """The global ranks of this process's ``group``, in order of their rank in it."""
        axes = {"world": _AXES, "ep": ("dp", "pcp", "tp")}.get(group, (group,))
        own, size = self.place(group)
        if group == "dcp":
            rank, _ = self.place("world")
            return [rank - own + other for other in range(size)]
        others = {axis: self.place(axis) for axis in _AXES}
        ranks = []
        for other in range(size):
            for axis in reversed(axes):
                other, others[axis] = _split(other, others[axis][1])
            ranks.append(_join([others[axis] for axis in _AXES])[0])
        return ranks

    def start(self, rank: int, dp_size: int = 1, dp_rank: int = 0) -> None:
        """What ``init_distributed_environment`` tells: the rank within one DP replica."""
        self._replica_rank = rank
        self.set(dp_rank=dp_rank, dp_size=dp_size)

    def divide(self, *, tp: int, pp: int, dcp: int, dp: int, pcp: int) -> None:
        """What ``initialize_model_parallel`` does: derives the ranks from the started world."""
        rank, tp_rank = divmod(self._replica_rank, tp)
        rank, pcp_rank = divmod(rank, pcp)
        self.set(
            **{"tp_rank": tp_rank, "tp_size": tp, "pcp_rank": pcp_rank, "pcp_size": pcp},
            **{"pp_rank": rank % pp, "pp_size": pp, "dcp_rank": tp_rank % dcp, "dcp_size": dcp},
            **{"dp_rank": self.place("dp")[0], "dp_size": dp},
        )

    def _combined(self, axes: tuple[str, ...]) -> tuple[int, int]:
        return _join([self.place(axis) for axis in axes])


def _join(places: list[tuple[int, int]]) -> tuple[int, int]:
    rank, size = 0, 1
    for axis_rank, axis_size in places:
        rank, size = rank * axis_size + axis_rank, size * axis_size
    return rank, size


def _split(rank: int, size: int) -> tuple[int, tuple[int, int]]:
    rest, own = divmod(rank, size)
    return rest, (own, size)


class Group:
    """A ``GroupCoordinator`` of this process; follows the `ParallelState` it was made for."""

    mq_broadcaster: Any = None

    def __init__(self, state: ParallelState, name: str) -> None:
        self._state = state
        self._name = name
        self.unique_name = f"{name}:0"
        self.device_communicator = None

    @property
    def rank_in_group(self) -> int:
        """This process's rank in the group."""
        return self._state.place(self._name)[0]

    @property
    def world_size(self) -> int:
        """The number of ranks in the group."""
        return self._state.place(self._name)[1]

    @property
    def rank(self) -> int:
        """This process's global rank."""
        return self._state.place("world")[0]

    @property
    def local_rank(self) -> int:
        """The rank used to choose a device: the global one, on one node."""
        return self.rank

    @property
    def ranks(self) -> list[int]:
        """The global ranks in the group."""
        return self._state.members(self._name)

    @property
    def first_rank(self) -> int:
        return self.ranks[0]

    @property
    def last_rank(self) -> int:
        return self.ranks[-1]

    @property
    def is_first_rank(self) -> bool:
        return self.rank == self.first_rank

    @property
    def is_last_rank(self) -> bool:
        return self.rank == self.last_rank

    @property
    def next_rank(self) -> int:
        return self.ranks[(self.rank_in_group + 1) % self.world_size]

    @property
    def prev_rank(self) -> int:
        return self.ranks[(self.rank_in_group - 1) % self.world_size]

    def all_reduce(
        self,
        input_: Any,
        ca_use_new: bool = True,
        ca_fp8_quant: bool = False,
        prefill_support: bool = False,
    ) -> Any:
        return self._alone("all_reduce", input_)

    def all_gather(self, input_: Any, use_custom: bool = False, dim: int = -1) -> Any:
        return self._alone("all_gather", input_)

    def broadcast(self, input_: Any, src: int = 0) -> Any:
        return self._alone("broadcast", input_)

    def broadcast_object(self, obj: Any = None, src: int = 0) -> Any:
        return self._alone("broadcast_object", obj)

    def barrier(self) -> None:
        self._alone("barrier", None)

    def __getattr__(self, name: str) -> NoReturn:
        function = f"get_{self._name}_group"
        raise AttributeError(
            f"pd-testkit's stub of aiter's GroupCoordinator has no attribute {name!r}; give the "
            f"group that you need with {hint('aiter.dist.parallel_state', function)}"
        )

    def destroy(self) -> None:
        """Nothing to give back: the group has no process group below it."""

    def _alone(self, operation: str, value: Any) -> Any:
        if self.world_size > 1:
            raise PlaceholderCalled(
                f"aiter's {self._name} group has {self.world_size} ranks, and pd-testkit's stub "
                f"of it cannot {operation} between them"
            )
        return value


def coordinator(lacking: type) -> type[Group]:
    """The class ``GroupCoordinator``: a `Group`, with the placeholders of ``lacking`` behind it.

    Like aiter's it is made by the package alone: its own constructor needs process groups.
    """

    namespace = {"__init__": vars(lacking)["__init__"], "__module__": lacking.__module__}
    return type(lacking.__name__, (Group, lacking), namespace)


def _group(coordinator: type[Group], state: ParallelState, name: str) -> Group:
    group = coordinator.__new__(coordinator)
    Group.__init__(group, state, name)
    return group


def functions(state: ParallelState, coordinator: type[Group]) -> dict[str, Any]:
    """The functions of ``aiter.dist.parallel_state`` that this stub carries out."""
    groups = {name: _group(coordinator, state, name) for name in (*_GROUPS, "world")}

    def getter(name: str) -> Callable[[], Group]:
        def get() -> Group:
            return groups[name]

        get.__name__ = f"get_{name}_group"
        return get

    def init_distributed_environment(
        world_size: int = -1,
        rank: int = -1,
        distributed_init_method: str = "env://",
        local_rank: int = -1,
        backend: str = "nccl",
        data_parallel_size: int = 1,
        data_parallel_rank: int = 0,
    ) -> None:
        state.start(rank, data_parallel_size, data_parallel_rank)

    def initialize_model_parallel(
        tensor_model_parallel_size: int = 1,
        pipeline_model_parallel_size: int = 1,
        decode_context_model_parallel_size: int | None = 1,
        backend: str | None = None,
        data_parallel_size: int = 1,
        prefill_context_model_parallel_size: int = 1,
        custom_group_config: dict[str, list[Any]] | None = None,
    ) -> None:
        state.divide(
            tp=tensor_model_parallel_size,
            pp=pipeline_model_parallel_size,
            dcp=decode_context_model_parallel_size or 1,
            dp=data_parallel_size,
            pcp=prefill_context_model_parallel_size,
        )

    def ensure_model_parallel_initialized(
        tensor_model_parallel_size: int,
        pipeline_model_parallel_size: int,
        decode_context_model_parallel_size: int | None = 1,
        backend: str | None = None,
        data_parallel_size: int = 1,
        prefill_context_model_parallel_size: int = 1,
        custom_group_config: dict[str, list[Any]] | None = None,
    ) -> None:
        initialize_model_parallel(
            tensor_model_parallel_size,
            pipeline_model_parallel_size,
            decode_context_model_parallel_size,
            backend,
            data_parallel_size,
            prefill_context_model_parallel_size,
            custom_group_config,
        )

    def set_custom_all_reduce(enable: bool) -> None:
        """There is no custom all-reduce to switch."""

    def model_parallel_is_initialized() -> bool:
        return True

    def destroy_model_parallel() -> None:
        state.reset()

    def destroy_distributed_environment() -> None:
        state.reset()

    def get_tensor_model_parallel_rank() -> int:
        return state.place("tp")[0]

    def get_tensor_model_parallel_world_size() -> int:
        return state.place("tp")[1]

    def get_prefill_context_model_parallel_rank() -> int:
        return state.place("pcp")[0]

    def get_prefill_context_model_parallel_world_size() -> int:
        return state.place("pcp")[1]

    return {
        **{f"get_{name}_group": getter(name) for name in groups},
        "get_tensor_model_parallel_group": getter("tp"),
        "get_pipeline_model_parallel_group": getter("pp"),
        **{
            function.__name__: function
            for function in (
                get_tensor_model_parallel_rank,
                get_tensor_model_parallel_world_size,
                get_prefill_context_model_parallel_rank,
                get_prefill_context_model_parallel_world_size,
                init_distributed_environment,
                initialize_model_parallel,
                ensure_model_parallel_initialized,
                set_custom_all_reduce,
                model_parallel_is_initialized,
                destroy_model_parallel,
                destroy_distributed_environment,
            )
        },
    }
