"""Bad input: one clear line each, exit code 4, and no traceback of ours."""

from __future__ import annotations

import pytest

from tests.kit.plugin_runs import Repository


def error_line(result: pytest.RunResult) -> str:
    """The one line of the error, when it is all that there is."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    lines = [line for line in result.stderr.lines if line.strip()]
    assert len(lines) == 1, result.stderr.str()
    return lines[0].removeprefix("ERROR: ")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "refrence",
            "--pd-target refrence: no such target; choose of reference, atom, vllm, sglang, "
            "router or package.module:attribute; did you mean reference?",
        ),
        (
            "trtllm",
            "--pd-target trtllm: no such target; choose of reference, atom, vllm, sglang, "
            "router or package.module:attribute*",
        ),
        (
            "shop.Shop",
            "--pd-target shop.Shop: no such target; choose of reference, atom, vllm, sglang, "
            "router or package.module:attribute; did you mean shop:Shop?",
        ),
        (
            "shop.pd",
            "--pd-target shop.pd: no such target; *; did you mean shop.pd:target?",
        ),
        (
            "shop/pd.py",
            "--pd-target shop/pd.py: no such target; *; did you mean shop.pd:target?",
        ),
        (
            "shop:",
            "--pd-target shop:: no such target; choose of reference, atom, vllm, sglang, "
            "router or package.module:attribute",
        ),
        (
            "shops.pd:target",
            "--pd-target shops.pd:target: there is no module 'shops' "
            "(install it, or put its folder on PYTHONPATH)",
        ),
        ("shop:Shoe", "--pd-target shop:Shoe: module shop has no 'Shoe'; did you mean Shop?"),
        (
            "shop:Driver",
            "--pd-target shop:Driver: <shop.Driver object at *> is no target: "
            "subclass pd_testkit.contract.Target and give an instance",
        ),
    ],
)
def test_a_wrong_target_name_says_what_there_is(
    repository: Repository, name: str, line: str
) -> None:
    result = repository.run(target=name)
    error_line(result)
    result.stderr.fnmatch_lines(f"ERROR: {line}")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            "import os\n\nimport no_such_library\n",
            "importing broken raised ModuleNotFoundError: No module named 'no_such_library' "
            '({path}/broken.py:3); see it with: python -c "import broken"',
        ),
        (
            "def check():\n    raise RuntimeError('two\\nlines')\n\ncheck()\n",
            "importing broken raised RuntimeError: two lines ({path}/broken.py:2); "
            'see it with: python -c "import broken"',
        ),
        (
            "import json\njson.loads('{')\n",
            "importing broken raised JSONDecodeError: Expecting property name enclosed in double "
            "quotes: line 1 column 2 (char 1) ({path}/broken.py:2); "
            'see it with: python -c "import broken"',
        ),
        (
            "import sys\nsys.exit()\n",
            "importing broken raised SystemExit ({path}/broken.py:2); "
            'see it with: python -c "import broken"',
        ),
        (
            "def target():\n    return {}['port']\n",
            "calling broken:target raised KeyError: 'port' ({path}/broken.py:2)",
        ),
    ],
)
def test_a_target_that_raises_is_named_with_its_line(
    repository: Repository, module: str, line: str
) -> None:
    repository.pytester.makepyfile(broken=module)
    result = repository.run(target="broken:target")
    assert error_line(result) == f"--pd-target broken:target: {line.format(path=repository.path)}"


def test_a_syntax_error_in_the_target_is_named_with_its_line(repository: Repository) -> None:
    repository.pytester.makepyfile(broken="x = 1\ntarget = (\n")
    line = error_line(repository.run(target="broken:target"))
    assert line.startswith("--pd-target broken:target: importing broken raised SyntaxError: ")
    assert f"({repository.path}/broken.py:2)" in line


def test_an_adapter_without_a_driver_is_told_which(repository: Repository) -> None:
    repository.target("units = (Unit.AGGREGATOR, Unit.PROXY)")
    assert error_line(repository.run()) == (
        "--pd-target shop:Shop: target 'shop' has no driver 'proxy': "
        "define Shop.proxy(), or leave its unit out of `units`"
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "units = (Unit.AGGREGATOR)",
            "`units` is 'aggregator', which is no tuple: "
            "a comma makes one, as in (Unit.AGGREGATOR,)",
        ),
        (
            "capabilities = {'read_mode': True}",
            "`capabilities` is no Capabilities: "
            "give Capabilities(read_mode=True), with what it claims",
        ),
        (
            "known_failures = ('AGG-001',)",
            '`known_failures` is no tuple of KnownFailure: give (KnownFailure("AGG-001", "why"),)',
        ),
        (
            "known_failures = KnownFailure('AGG-001', 'why')",
            '`known_failures` is no tuple of KnownFailure: give (KnownFailure("AGG-001", "why"),)',
        ),
        (
            "def aggregator(self, workers): ...",
            "aggregator() cannot be called as the suites do: missing a required argument: "
            "'workers'; define aggregator(self, *, world_size, expected=None)",
        ),
    ],
    ids=["units", "capabilities", "known ids", "known alone", "signature"],
)
def test_what_is_of_a_wrong_type_is_told_with_the_right_one(
    repository: Repository, body: str, says: str
) -> None:
    repository.target(body)
    assert error_line(repository.run()) == f"--pd-target shop:Shop: target 'shop': {says}"


def test_a_known_failure_of_no_clause_is_an_error(repository: Repository) -> None:
    repository.target("known_failures = (KnownFailure('AGG-0001', 'counts twice'),)")
    line = error_line(repository.run())
    assert line.startswith(
        "--pd-target shop:Shop: target 'shop', known_failures: there is no clause 'AGG-0001'; "
        "nearest: AGG-001"
    )


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_a_limit_of_time_is_a_number_of_seconds(repository: Repository, given: str) -> None:
    line = error_line(repository.run(f"--pd-clause-timeout={given}"))
    assert line == f"--pd-clause-timeout {given}: not a number of seconds"


def test_a_missing_source_is_named(repository: Repository) -> None:
    result = repository.run("--pd-source", "/no/such/tree", target="atom")
    assert error_line(result) == "--pd-target atom: there is no folder /no/such/tree (--pd-source)"


def test_a_source_needs_a_target_that_takes_one(repository: Repository) -> None:
    assert error_line(repository.run("--pd-source", ".", target=None)) == (
        "--pd-source without --pd-target: name the target too"
    )
    assert error_line(repository.run("--pd-source", ".")) == (
        "--pd-target shop:Shop: the target shop:Shop takes no --pd-source"
    )
    assert error_line(repository.run("--pd-router", "x", target=None)) == (
        "--pd-router without --pd-target: say --pd-target router"
    )


NOT_HARDWARE = "is not rdma, gpus=N, gpu_memory=GIB or package=NAME[>=VERSION]"


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--pd-layer", "l1,l4", "there is no layer 'l4'; choose of l1,l2,l3"),
        ("--pd-layer", "", "there is no layer ''; choose of l1,l2,l3"),
        ("--pd-require", "rdma,tpu", f"'tpu' {NOT_HARDWARE}"),
        ("--pd-require", "gpus=0", f"'gpus=0' {NOT_HARDWARE}"),
        ("--pd-require", "gpus", f"'gpus' {NOT_HARDWARE}"),
        ("--pd-require", "gpu_memory=much", f"'gpu_memory=much' {NOT_HARDWARE}"),
        ("--pd-require", "package=", f"'package=' {NOT_HARDWARE}"),
        ("--pd-seed", "-1", "not a whole number from 0 on"),
        ("--pd-seed", "0x1", "not a whole number from 0 on"),
    ],
)
def test_a_bad_value_is_refused(repository: Repository, option: str, value: str, says: str) -> None:
    result = repository.run(f"{option}={value}", target=None)
    assert error_line(result) == f"{option} {value}: {says}"


def test_unknown_stand_ins_are_refused(repository: Repository) -> None:
    line = error_line(repository.run("--pd-stubs", "aiter,moori", target=None))
    assert line.startswith("--pd-stubs: there is no stand-in for 'moori'; choose of aiter, ")


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["serial", "xdist"])
def test_a_test_that_names_no_clause_stops_the_run(
    repository: Repository, workers: tuple[str, ...]
) -> None:
    repository.pytester.makepyfile(
        test_own="""
        import pytest

        @pytest.mark.pd_clause("AGG-9999")
        def test_something():
            pass
        """
    )
    result = repository.run_apart(*workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["!*test_own.py::test_something: there is no clause 'AGG-9999';*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_driver_that_lacks_a_member_stops_the_run_with_one_line(repository: Repository) -> None:
    repository.target("def aggregator(self, *, world_size, expected=None): return object()")
    repository.suite(
        """
        @clause("AGG-001")
        def test_one(self, make): make(world_size=2)

        @clause("AGG-002")
        def test_two(self, make): make(world_size=2)
        """
    )
    result = repository.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*lacks *step*"])
    assert "Error" not in result.stdout.str().replace("UsageError", "")
    assert "make_driver" not in result.stdout.str()


def test_a_target_that_does_not_open_stops_the_run_with_one_line(repository: Repository) -> None:
    repository.target("def open(self): raise OSError('no such device')")
    repository.suite('@clause("AGG-001")\ndef test_one(self): ...')
    result = repository.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        [f"*opening target shop raised OSError: no such device ({repository.path}/shop.py:*)*"]
    )
    assert "open_target" not in result.stdout.str()
