"""Replay of a long log, against nothing but unpacking the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import msgpack

from bench.growth import restart
from bench.stage import Stage
from bench.stores import BATCH, EXPLICIT
from bench.timing import settle
from bench.workloads import job_ids, mix
from walstore import Durability, WalPersistence
from walstore.format.codec import JobCodec
from walstore.model.events import EventForm, event_of

__all__ = ["FRAMES", "LOADING", "OPENING", "REPLAY", "UNPACKB", "measure_replay"]

REPLAY: Final = "replay"
UNPACKB: Final = "floor: unpackb of the same bytes"
OPENING: Final = "walstore: opening"
LOADING: Final = "walstore: load_all"
FRAMES: Final = {BATCH: f"{BATCH} events a frame", 1: "1 event a frame"}
_JOBS: Final = 10_000


def measure_replay(stage: Stage) -> None:
    """Write a log of events of 10,000 jobs, open it and load it; and unpack the same payloads."""
    events = mix(job_ids(min(_JOBS, stage.scale.replay_events // 10)), stage.scale.replay_events)
    for per_frame, metric in FRAMES.items():
        stage.say(f"Replay: writing a log, {metric}")
        groups = [events[begin : begin + per_frame] for begin in range(0, len(events), per_frame)]
        path = stage.root / f"replay-{per_frame}"
        _write_log(path, groups)
        encode = JobCodec().encode_events
        payloads = [encode(group) for group in groups]
        del groups
        figures: dict[str, list[float]] = {UNPACKB: [], OPENING: [], LOADING: []}
        for number in range(stage.scale.rounds):
            stage.say(f"Replay, {metric}, round {number + 1} of {stage.scale.rounds}")
            figures[UNPACKB].append(_unpack(payloads))
            # Opening for writing leaves a segment and a watermark, so each round gets the log as it was.
            copy = stage.root / "replay"
            shutil.copytree(path, copy)
            open_s, load_s = restart(copy, EXPLICIT)
            figures[OPENING].append(open_s)
            figures[LOADING].append(load_s)
            shutil.rmtree(copy)
        shutil.rmtree(path)
        for subject, values in figures.items():
            stage.results.add(REPLAY, subject, metric, "s", values)


def _write_log(path: Path, groups: Sequence[Sequence[EventForm]]) -> None:
    with WalPersistence(path, durability=Durability.PROCESS, options=EXPLICIT) as store:
        for group in groups:
            store.record_many([event_of(event) for event in group])


def _unpack(payloads: Sequence[bytes]) -> float:
    unpackb = msgpack.unpackb
    settle()
    start = perf_counter()
    for payload in payloads:
        unpackb(payload, use_list=False)
    return perf_counter() - start
