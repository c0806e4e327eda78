"""The clauses' checks, one suite per unit, for a target to be run against.

Three ways to run them: ``pytest --pyargs pd_testkit.suites --pd-target my_pkg.pd:target``; a
subclass ``class TestAggregator(AggregatorSuite)`` in a test file of yours; or this project's
own ``tests/disaggregation``.
"""
