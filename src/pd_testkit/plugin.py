"""The pytest plugin: options, markers and fixtures; the rest of a run is in `pd_testkit.run`.

It is loaded in every pytest run of an environment that has the kit, so it imports the rest of
the kit only where a run has to do with it, and says nothing in any other run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pd_testkit.run import Run, split

if TYPE_CHECKING:
    from pd_testkit.contract import Target
    from pd_testkit.stubs import Installation

MARKERS = (
    "pd_clause(id): the one check of a clause of the P/D contract",
    "pd_l1: units on a CPU, no I/O",
    "pd_l2: one machine for real: sockets, HTTP, threads, processes",
    "pd_l3: real GPUs and RDMA",
    "rdma: needs an RDMA device",
    "gpus(n): needs n GPUs",
    "gpu_memory(gib): needs GPUs of so much memory: one, or those of gpus(n)",
    "requires_package(name, at_least=''): needs the package, of that version or a newer one",
)

RUN = pytest.StashKey[Run]()

# An editable install does not tell pytest which modules the plugin brings.
pytest.register_assert_rewrite("pd_testkit.suites")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pd-testkit", "prefill/decode disaggregation")
    group.addoption(
        "--pd-target",
        metavar="TARGET",
        help="implementation under test: reference (the default), atom, vllm[:CONNECTOR], "
        "sglang[:BACKEND], router or package.module:attribute",
    )
    group.addoption(
        "--pd-source", metavar="DIR", help="source tree of the target, where it takes one"
    )
    group.addoption(
        "--pd-router",
        metavar="ROUTER",
        help="for --pd-target router: a preset (vllm-router, sglang-router), a command such as "
        "'my-router --port {port} --prefill {prefill} --decode {decode}', or a URL",
    )
    group.addoption(
        "--pd-layer", metavar="LAYERS", help="leave out tests of other layers; such as l1,l2"
    )
    group.addoption(
        "--pd-require",
        metavar="HARDWARE",
        help="fail at the start where it is missing, instead of skipping; such as "
        "rdma,gpus=2,gpu_memory=40,package=nixl>=1.0",
    )
    group.addoption(
        "--pd-seed", metavar="N", help="seed of all that is random; drawn and shown by default"
    )
    group.addoption(
        "--pd-clause-timeout",
        metavar="SECONDS",
        help="for the setup, the call and the teardown of a clause's check, each: one that hangs "
        "is broken, and the next has its turn; 0: none; default: 300, and 6000 with "
        "PD_EXAMPLES=thorough",
    )
    group.addoption(
        "--pd-report",
        metavar="FILE",
        help="write the conformance report to FILE.json and FILE.html",
    )
    group.addoption(
        "--pd-stubs",
        metavar="NAMES",
        help="have strict stand-ins of these packages for the whole run; such as aiter,mori",
    )
    group.addoption(
        "--pd-stubs-record",
        action="store_true",
        help="show at the end what was asked of the stand-ins of --pd-stubs",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Stand-ins come before the first conftest, which may import what needs them."""
    options = early_config.known_args_namespace
    if options.pd_stubs is not None:
        from pd_testkit.session_stubs import SessionStubs

        stubs = SessionStubs(split(options.pd_stubs), record=options.pd_stubs_record)
        early_config.add_cleanup(stubs.uninstall)
        early_config.pluginmanager.register(stubs, "pd_testkit_stubs")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    run = config.stash[RUN] = Run(config)
    config.pluginmanager.register(run, "pd_testkit_run")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Spare runs that used no Hypothesis the import of it.

    The suites need Hypothesis, so it comes with the kit, and its own plugin imports it at the end
    of every run (seen in 6.170) to find that it has nothing to say. With xdist the tests ran in
    other processes, and it may have.
    """
    plugins = session.config.pluginmanager
    theirs = sys.modules.get("_hypothesis_pytestplugin")
    unused = "hypothesis" not in sys.modules and not plugins.has_plugin("dsession")
    if unused and theirs is not None and plugins.is_registered(theirs):
        plugins.unregister(theirs)


@pytest.fixture(scope="session")
def pd_seed(pytestconfig: pytest.Config) -> int:
    """The run's seed: that of ``--pd-seed``, or one drawn at the start and shown at the end."""
    return pytestconfig.stash[RUN].seed


@pytest.fixture(scope="session")
def pd_target(pytestconfig: pytest.Config) -> Iterator[Target]:
    """The implementation under test: that of ``--pd-target``, opened for the whole session.

    Override it in a conftest to name a target once for all suites of a repository.
    """
    from pd_testkit.contract import TargetError
    from pd_testkit.targets import open_target

    target = pytestconfig.stash[RUN].target()
    try:
        open_target(target)
    except TargetError as error:
        raise pytest.UsageError(str(error)) from None
    yield target
    target.close()


@pytest.fixture
def pd_stubs() -> Iterator[Callable[..., Installation]]:
    """``pd_stubs("aiter", "mori")`` has strict stand-ins in place until the test ends.

    Takes what `pd_testkit.stubs.installed` takes, and gives the installation.
    """
    from pd_testkit import stubs

    with ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(stubs.installed(*names, **options))
