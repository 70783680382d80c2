"""``PostgresPersistence`` on a real server that is killed, over a network that breaks, with rivals that take over.

Each thread counts on a job of its own, so what is found tells how many of its calls are there, whether one is missing
or there twice, and the history tells whether they are in order. After each disturbance all that was acknowledged must
be there, once, and of a pair that was recorded together both or none.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from fuzz.harness import Deadline, Tally, main
from fuzz.postgres_proxy import CuttingProxy
from fuzz.postgres_server import MissingError, PostgresServer, installed_programs, running_server
from walstore.errors import FencedError, StoreLockedError
from walstore.model.events import Finished
from walstore.options import Durability

try:
    import psycopg

    from walstore.backends.postgres import PostgresPersistence
except ImportError as missing:
    _missing = str(missing)
else:
    _missing = ""

__all__ = ["run"]

_ROUNDS: Final = 10
"""Disturbances in the life of a store."""
_RACES: Final = 4
"""Races for its place afterwards."""


class _Worker:
    """Counts on a job of its own, and on a second one in pairs."""

    def __init__(self, number: int) -> None:
        self.job = f"thread{number}.single"
        self.pair = (f"thread{number}.left", f"thread{number}.right")
        self.singles = 0
        self.pairs = 0

    def begin(self, store: PostgresPersistence) -> None:
        for job in (self.job, *self.pair):
            store.record_started(job, 0)

    def work(self, store: PostgresPersistence, calls: int, choice: random.Random) -> None:
        """Make calls; a count goes up when its call has returned."""
        for _ in range(calls):
            what = choice.randrange(20)
            if what == 0:
                store.sync()
            elif what == 1:
                self.check({str(job.id): job.consecutive_failures for job in store.load_all()}, 0, 0)
            elif what < 8:
                store.record_many([Finished(job, self.pairs + 1, False) for job in self.pair])
                self.pairs += 1
            else:
                store.record_finished(self.job, self.singles + 1, False)
                self.singles += 1

    def check(self, found: dict[str, int], lost_max: float, more_max: int) -> None:
        """Check what was found: at most so many calls fewer than were acknowledged, and so many more."""
        left, right = (found[job] for job in self.pair)
        assert left == right, f"half of a batch is there: {left} and {right} of {self.pairs}"
        for what, count, acknowledged in (("singles", found[self.job], self.singles), ("pairs", left, self.pairs)):
            assert acknowledged - lost_max <= count <= acknowledged + more_max, (
                f"{acknowledged} {what} were acknowledged, {count} are there"
            )
        self.singles, self.pairs = found[self.job], left


class _Life:
    """One store, from its founding on."""

    def __init__(self, server: PostgresServer, schema: str, choice: random.Random, tally: Tally) -> None:
        self._server = server
        self._schema = schema
        self._choice = choice
        self._tally = tally
        self._level = choice.choice(list(Durability))
        self._workers = [_Worker(number) for number in range(choice.choice([1, 2, 4]))]

    def live(self) -> None:
        with CuttingProxy(self._server.socket) as proxy:
            self._proxy = proxy
            store = self._open()
            try:
                for worker in self._workers:
                    worker.begin(store)
                for _ in range(_ROUNDS):
                    store = self._round(store)
                    self._tally.points += 1
                store.close()
            finally:
                # A store that a finding has left open would wait for its server in the end of the process.
                store._finalizer.detach()
        with PostgresPersistence(self._server.dsn, schema=self._schema, read_only=True) as reader:
            found = {str(job.id): job.consecutive_failures for job in reader.load_all()}
        for worker in self._workers:
            worker.check(found, 0, 0)
        self._check_history(found)
        for _ in range(_RACES):
            self._race()
            self._tally.points += 1

    def _open(self, *, takeover: bool = False, direct: bool = False) -> PostgresPersistence:
        dsn = self._server.dsn if direct else self._proxy.dsn
        return PostgresPersistence(dsn, schema=self._schema, durability=self._level, takeover=takeover, history=True)

    def _round(self, store: PostgresPersistence) -> PostgresPersistence:
        """Let the threads work, disturb them, and check; returns the store to go on with."""
        disturb = self._choice.choice([self._cut, self._cut, self._break, self._terminate, self._kill, None])
        if disturb is None:
            return self._take_over(store)
        with ThreadPoolExecutor(len(self._workers) + 1) as pool:
            done = [pool.submit(worker.work, store, 25, self._branch()) for worker in self._workers]
            disturb()
            for future in done:
                future.result()
        found = {str(job.id): job.consecutive_failures for job in store.load_all()}
        for worker in self._workers:
            worker.check(found, 0, 0)
        return store

    def _branch(self) -> random.Random:
        return random.Random(self._choice.getrandbits(64))

    def _pause(self) -> None:
        threading.Event().wait(self._choice.choice([0.0, 0.005, 0.02, 0.05]))

    def _cut(self) -> None:
        self._proxy.cut_after(self._choice.randrange(1, 6_000))

    def _break(self) -> None:
        self._pause()
        self._proxy.cut_now()

    def _terminate(self) -> None:
        self._pause()
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            connection.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'walstore%'"
            )

    def _kill(self) -> None:
        self._pause()
        self._server.kill()
        self._server.start()

    def _take_over(self, old: PostgresPersistence) -> PostgresPersistence:
        """Let two race for the place of a writer at work: one of them gets it, and the old one changes nothing more."""
        with ThreadPoolExecutor(len(self._workers) + 2) as pool:
            done = [pool.submit(worker.work, old, 10_000, self._branch()) for worker in self._workers]
            self._pause()
            # The first ends the session of the old writer, and the second comes as one who stands by.
            new = self._open(takeover=True, direct=True)
            with suppress(StoreLockedError):
                self._open(direct=True).close()
                raise AssertionError("two writers were let in")
            for future in done:
                with suppress(FencedError):
                    future.result()
                    raise AssertionError("a writer whose place was taken went on")
        with suppress(FencedError):
            old.close()
        found = {str(job.id): job.consecutive_failures for job in new.load_all()}
        # What was buffered by the old one may be lost, and what was in the middle of a call may be there.
        lost_max = float("inf") if self._level is Durability.BUFFERED else 0
        for worker in self._workers:
            worker.check(found, lost_max, 1)
        new.close()
        return self._open()

    def _race(self) -> None:
        """Let two come at once where nobody is."""
        start = threading.Barrier(2)

        def enter(_: int) -> PostgresPersistence | None:
            start.wait()
            with suppress(StoreLockedError):
                return self._open(direct=True)
            return None

        with ThreadPoolExecutor(2) as pool:
            winners = [store for store in pool.map(enter, range(2)) if store is not None]
        for winner in winners:
            winner.close()
        assert len(winners) == 1, f"{len(winners)} of two that came at once got the place"

    def _check_history(self, found: dict[str, int]) -> None:
        with psycopg.connect(self._server.dsn, autocommit=True) as connection:
            connection.execute(f"SET search_path TO {self._schema}".encode())
            told = connection.execute(
                b"SELECT id, array_agg(at_ns ORDER BY epoch, sequence, position) FROM history WHERE event = 'finished' "
                b"GROUP BY id"
            ).fetchall()
        for job, instants in told:
            # A call is numbered by what was there before it, so each number comes once and in order.
            assert instants == list(range(1, found[job] + 1)), f"{job}: not in order, or not once: {instants}"


def run(seconds: float, seed: int) -> Tally:
    """Let one store after another live on one server. The schedule of the threads is not drawn from the seed."""
    tally = Tally("postgres")
    if _missing:
        tally.skipped = _missing
        return tally
    programs = installed_programs()
    try:
        with running_server(programs=random.Random(seed).choice(programs) if programs else None) as server:
            deadline = Deadline(seconds)
            while not deadline.passed() and not tally.failures:
                name = f"postgres {seed} {tally.runs}"
                try:
                    _Life(server, f"life{tally.runs}", random.Random(name), tally).live()
                except Exception as error:  # noqa: BLE001  # Whatever comes out of a store here is a finding.
                    tally.failures.append(f"life {name!r}: {type(error).__name__}: {error}"[:600])
                tally.runs += 1
            tally.seconds = deadline.elapsed()
    except MissingError as missing:
        tally.skipped = str(missing)
    return tally


if __name__ == "__main__":
    main(run, __doc__ or "")
