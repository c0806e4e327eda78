"""L1: the connector metadata of the target under test."""

from pd_testkit.suites.metadata import MetadataSuite


class TestMetadata(MetadataSuite):
    """The clauses META-*."""
