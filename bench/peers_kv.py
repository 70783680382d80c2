"""Peers that store keys and values: lmdb, RocksDB, LevelDB. Records are packed by msgpack, keys are the ids."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Final

import msgpack

from bench.target import POWER_LOSS, PROCESS_DEATH, Target
from bench.workloads import State

__all__ = ["KV_PEERS", "LmdbWritemap", "PlyvelUnsynced", "RocksUnsynced"]

_MAP_BYTES: Final = 1 << 33
_MEMTABLE_BYTES: Final = 64 << 20


class _Lmdb(Target):
    writemap: ClassVar[bool] = False
    synced: ClassVar[bool] = False

    def __init__(self, directory: Path) -> None:
        # One process, so it can do without its own lock, which makes it a third faster.
        self._db = import_module("lmdb").open(
            str(directory),
            map_size=_MAP_BYTES,
            writemap=self.writemap,
            sync=self.synced,
            metasync=self.synced,
            lock=False,
        )
        self._pack = msgpack.Packer().pack
        self._begin = self._db.begin

    def record(self, job: str, state: State) -> None:
        transaction = self._begin(write=True)
        transaction.put(job.encode(), self._pack(state))
        transaction.commit()

    def forget(self, job: str) -> None:
        transaction = self._begin(write=True)
        transaction.delete(job.encode())
        transaction.commit()

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        pack = self._pack
        with self._begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti([(job.encode(), pack(state)) for job, state in rows])

    def sync(self) -> None:
        self._db.sync(True)

    def close(self) -> None:
        self._db.close()


class LmdbSync(_Lmdb):
    """lmdb as it comes: each transaction is synced."""

    name = "lmdb sync"
    survives = POWER_LOSS
    synced = True


class LmdbNosync(_Lmdb):
    """lmdb that leaves syncing to the kernel."""

    name = "lmdb nosync"
    survives = PROCESS_DEATH


class LmdbWritemap(_Lmdb):
    """lmdb that leaves syncing to the kernel and writes into its map."""

    name = "lmdb nosync writemap"
    survives = PROCESS_DEATH
    writemap = True


class _Rocks(Target):
    synced: ClassVar[bool]

    def __init__(self, directory: Path) -> None:
        rocksdict = import_module("rocksdict")
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(_MEMTABLE_BYTES)
        self._db = rocksdict.Rdict(str(directory), options)
        self._new_batch = rocksdict.WriteBatch
        self._how = rocksdict.WriteOptions()
        self._how.sync = self.synced
        self._pack = msgpack.Packer().pack
        self._put = self._db.put

    def record(self, job: str, state: State) -> None:
        self._put(job.encode(), self._pack(state), self._how)

    def forget(self, job: str) -> None:
        self._db.delete(job.encode(), self._how)

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        pack, batch = self._pack, self._new_batch(raw_mode=True)
        put = batch.put
        for job, state in rows:
            put(job.encode(), pack(state))
        self._db.write(batch, self._how)

    def sync(self) -> None:
        self._db.flush_wal(True)

    def close(self) -> None:
        self._db.close()


class RocksUnsynced(_Rocks):
    """RocksDB with its log, unsynced."""

    name = "rocksdict WAL unsynced"
    survives = PROCESS_DEATH
    synced = False


class RocksSync(_Rocks):
    """RocksDB with its log, synced for each write."""

    name = "rocksdict WAL sync"
    survives = POWER_LOSS
    synced = True


class _Plyvel(Target):
    synced: ClassVar[bool]

    def __init__(self, directory: Path) -> None:
        self._db = import_module("plyvel").DB(str(directory), create_if_missing=True, write_buffer_size=_MEMTABLE_BYTES)
        self._pack = msgpack.Packer().pack
        self._put = self._db.put

    def record(self, job: str, state: State) -> None:
        self._put(job.encode(), self._pack(state), sync=self.synced)

    def forget(self, job: str) -> None:
        self._db.delete(job.encode(), sync=self.synced)

    def record_many(self, rows: Sequence[tuple[str, State]]) -> None:
        pack = self._pack
        with self._db.write_batch(sync=self.synced) as batch:
            for job, state in rows:
                batch.put(job.encode(), pack(state))

    def sync(self) -> None:
        # A synced write takes all before it along.
        self._db.put(b"", b"", sync=True)

    def close(self) -> None:
        self._db.close()


class PlyvelUnsynced(_Plyvel):
    """LevelDB with its log, unsynced."""

    name = "plyvel unsynced"
    survives = PROCESS_DEATH
    synced = False


class PlyvelSync(_Plyvel):
    """LevelDB with its log, synced for each write."""

    name = "plyvel sync"
    survives = POWER_LOSS
    synced = True


KV_PEERS: Final[tuple[type[Target], ...]] = (
    LmdbWritemap,
    LmdbNosync,
    LmdbSync,
    RocksUnsynced,
    RocksSync,
    PlyvelUnsynced,
    PlyvelSync,
)
"""All of them."""
