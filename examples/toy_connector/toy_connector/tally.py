"""Which of an engine's transfers all of its workers are through with."""


class Tally:
    """Hears of one worker, one transfer at a time.

    Args:
        workers: how many workers the engine has.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"an engine of {workers} workers")
        self._workers = workers
        self._heard: dict[tuple[str, str], set[int]] = {}

    def hear(self, worker: int, kind: str, request: str) -> bool:
        """The worker is through with it. True: and it was the last one to be.

        Raises:
            ValueError: there is no such worker.
        """
        if worker not in range(self._workers):
            raise ValueError(f"worker {worker} of {self._workers}")
        heard = self._heard.setdefault((kind, request), set())
        heard.add(worker)
        if len(heard) < self._workers:
            return False
        del self._heard[kind, request]
        return True

    def __len__(self) -> int:
        """Transfers that some workers are through with, and some are not."""
        return len(self._heard)
