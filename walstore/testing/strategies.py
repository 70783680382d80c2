"""Hypothesis strategies of what a persistence is told: events and records, of few jobs and at instants that matter.

The module needs hypothesis: ``pip install 'walstore[test]'``.
"""

from __future__ import annotations

from walstore.model.events import Cancelled, Event, Finished, Restored, Scheduled, Started
from walstore.model.names import INSTANT_MAX_NS, QName
from walstore.model.records import FAILURES_MAX, SchedulerJobRecord, SchedulerJobStatus
from walstore.model.schedule import Cron, Manual, Once, Periodic, Schedule
from walstore.testing.model import NOW_NS

try:
    from hypothesis import strategies as st
except ImportError as missing:
    raise ImportError(f"{missing}: walstore.testing.strategies needs it, pip install 'walstore[test]'") from missing

__all__ = ["events", "instants_ns", "records", "schedules"]

_names = st.sampled_from(["ai.geo.tile", "ai.geo.Tile", "a.b", "größe.日本.🜁", "builtin." + "x" * 1016])
# Around the instants where something ends: the first and the last one, and the years 2026, 2040 and 2101.
_edges_ns = st.sampled_from([0, NOW_NS, 2_208_988_800 * 10**9, 4_133_980_800 * 10**9, INSTANT_MAX_NS])
instants_ns = st.integers(0, INSTANT_MAX_NS) | st.builds(
    lambda edge_ns, off_ns: min(max(edge_ns + off_ns, 0), INSTANT_MAX_NS), _edges_ns, st.integers(-9, 9)
)
_crons = [
    "* * * * * *",
    "0 30 9 * * Mon-Fri",
    "@yearly",
    "0 0 0 29 2 1",
    "0 0 0 30 2 ?",
    "@hourly",
    "0 0 0 1 1 * 2026-2039/13",
]
schedules: st.SearchStrategy[Schedule] = st.one_of(
    st.just(Manual()),
    st.builds(lambda at_ns: Once(at_ns=at_ns), instants_ns),
    st.builds(lambda every_ns: Periodic(every_ns=every_ns), st.integers(1, INSTANT_MAX_NS) | st.integers(1, 10)),
    st.sampled_from(_crons).map(Cron),
)


def records() -> st.SearchStrategy[SchedulerJobRecord]:
    """Return a hypothesis strategy of records that ``load_all`` may return."""
    kept = st.sampled_from([status for status in SchedulerJobStatus if status is not SchedulerJobStatus.CANCELLED])
    failures = st.integers(0, 3) | st.integers(FAILURES_MAX - 2, FAILURES_MAX)
    at_ns = st.none() | instants_ns
    return st.builds(SchedulerJobRecord, _names.map(QName.parse), kept, at_ns, at_ns, at_ns, failures, schedules)


def events(*, restored: bool = True) -> st.SearchStrategy[Event]:
    """Return a hypothesis strategy of events about few jobs, each ``Scheduled`` with its instant."""
    common: st.SearchStrategy[Event] = st.one_of(
        st.builds(Scheduled, _names, schedules, instants_ns),
        st.builds(Started, _names, instants_ns),
        st.builds(Finished, _names, instants_ns, st.booleans()),
        st.builds(Cancelled, _names),
    )
    return common | st.builds(Restored, records()) if restored else common
