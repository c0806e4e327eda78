import pytest
from my_connector import pd

from pd_testkit.suites.aggregator import AggregatorSuite


class TestAggregator(AggregatorSuite):
    @pytest.fixture
    def target(self):
        return pd.target
