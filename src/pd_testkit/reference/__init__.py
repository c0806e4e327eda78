"""The embedded P/D implementation: the contract in its simplest correct code.

It knows neither the contract nor the suites; `pd_testkit.targets.reference` adapts it.
"""
