"""The connector as pd-testkit sees it. The connector itself does not import this."""

from my_connector.completions import Completions

from pd_testkit.contract import Aggregator, Capabilities, Target, Unit, WorkerReport


class AggregatorDriver(Aggregator):
    def __init__(self, world_size):
        self._completions = Completions(world_size)

    def step(self, reports):
        done = {"sent": [], "received": []}
        for worker, report in enumerate(reports):
            for kind, finished in done.items():
                for request in getattr(report, kind):
                    if self._completions.done(worker, kind, request):
                        finished.append(request)
        return WorkerReport.of(**done)

    def pending(self):
        return len(self._completions)


class MyTarget(Target):
    name = "mine"
    units = (Unit.AGGREGATOR,)
    capabilities = Capabilities(read_mode=True)

    def version(self):
        return "0.1.0"

    def aggregator(self, *, world_size, expected=None):
        return AggregatorDriver(world_size)


target = MyTarget()
