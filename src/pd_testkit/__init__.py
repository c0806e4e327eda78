"""pd-testkit: proves a prefill/decode disaggregated serving stack right, on a plain CPU.

Importing this package imports nothing heavy: the rooms (``fabric``, ``stubs``, ``contract``,
``suites``, ``targets``, ``reference``) are imported by whoever needs them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pd-testkit")
except PackageNotFoundError:  # sources on the path, not installed
    __version__ = "0+unknown"

pytest_plugins = ("pd_testkit.plugin",)
"""This package is the pytest11 entry point, and the plugin comes from here. That way it is loaded
once, also where ``-p pd_testkit.plugin`` names it a second time."""
