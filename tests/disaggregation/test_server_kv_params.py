"""The server clauses against the chosen target."""

from pd_testkit.suites.server import ServerSuite


class TestServer(ServerSuite):
    """The engine's OpenAI server and its ``kv_transfer_params``."""
