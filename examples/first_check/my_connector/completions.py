"""Which transfers all workers of an engine are through with."""


class Completions:
    """Counts down the workers that still have to say so."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"an engine of {workers} workers")
        self._workers = workers
        self._left: dict[tuple[str, str], int] = {}

    def done(self, worker: int, kind: str, request: str) -> bool:
        """The worker is through with it. True: and it was the last one to be."""
        if not 0 <= worker < self._workers:
            raise ValueError(f"worker {worker} of {self._workers}")
        left = self._left.get((kind, request), self._workers) - 1
        if left > 0:
            self._left[kind, request] = left
            return False
        self._left.pop((kind, request), None)
        return True

    def __len__(self) -> int:
        """Transfers that some workers are through with, and some are not."""
        return len(self._left)
