"""pd-testkit: proves a prefill/decode disaggregated serving stack right, on a plain CPU.

Importing this package imports nothing heavy: the rooms (``fabric``, ``stubs``, ``contract``,
``suites``, ``targets``, ``reference``) are imported by whoever needs them.
"""

__version__ = "0.1.0"
