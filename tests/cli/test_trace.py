from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from walstore.cli import trace as trace_module
from walstore.cli.trace import Call, Trace, TraceEvent, read_trace

KTH = Path(trace_module.__file__).parent / "data" / "KTH-SP2-1996-2.1-cln.swf.gz"
START_S = 1_000
SECOND_NS = 10**9
HOUR = ("periodic", 3_600 * SECOND_NS)
MANUAL = ("manual",)


def job_line(number: int, submit: int, wait: int, run: int, status: int) -> str:
    return f"  {number} {submit} {wait} {run} 4 -1 -1 4 60 -1 {status} 12 12 -1 -1 -1 -1 -1\n"


def write(directory: Path, *lines: str, name: str = "Some-Trace.swf", start: str = "; UnixStartTime: 1000\n") -> Path:
    path = directory / name
    path.write_text(start + "".join(lines))
    return path


def events_of(directory: Path, *lines: str) -> list[TraceEvent]:
    return list(read_trace(write(directory, *lines)).events())


def at(seconds: int) -> int:
    return (START_S + seconds) * SECOND_NS


@pytest.fixture(scope="module")
def kth() -> Trace:
    return read_trace(KTH)


def test_the_trace_of_the_package_has_the_jobs_that_the_archive_counts(kth: Trace) -> None:
    assert len(kth.jobs) == 27_992
    assert Counter(job.status for job in kth.jobs) == {1: 20_483, 0: 7_509}
    assert kth.namespace == "kth"
    assert kth.acknowledgement == "Lars Malinowsky"
    assert "KTH" in kth.installation


def test_the_trace_of_the_package_gives_ordered_events(kth: Trace) -> None:
    events = list(kth.events())
    assert Counter(event.call for event in events) == dict.fromkeys(list(Call)[:3], 27_992)
    assert sum(event.success is True for event in events) == 20_483
    assert [event[:2] for event in events] == sorted(event[:2] for event in events)
    # The first line of the file: job 15, submitted 599,850 s after the header's UnixStartTime.
    assert events[0] == TraceEvent((843_480_031 + 599_850) * SECOND_NS, Call.SCHEDULED, "kth.job15", MANUAL)


def test_columns_become_calls(tmp_path: Path) -> None:
    assert events_of(tmp_path, job_line(7, 10, 5, 20, 1)) == [
        TraceEvent(at(10), Call.SCHEDULED, "some.job7", MANUAL),
        TraceEvent(at(15), Call.STARTED, "some.job7"),
        TraceEvent(at(35), Call.FINISHED, "some.job7", success=True),
    ]


@pytest.mark.parametrize("status", [0, 2, 3, 4, -1])
def test_every_status_but_1_is_a_failure(tmp_path: Path, status: int) -> None:
    assert events_of(tmp_path, job_line(7, 10, 5, 20, status))[-1].success is False


def test_even_jobs_are_periodic(tmp_path: Path) -> None:
    assert events_of(tmp_path, job_line(8, 10, 5, 20, 1))[0].schedule == HOUR


def test_unknown_spans_count_as_none(tmp_path: Path) -> None:
    assert [event.at_ns for event in events_of(tmp_path, job_line(7, -1, -1, -1, 1))] == [at(0)] * 3


def test_a_job_that_was_cancelled_while_it_ran_is_cancelled_at_its_end(tmp_path: Path) -> None:
    assert events_of(tmp_path, job_line(7, 10, 5, 20, 5))[1:] == [
        TraceEvent(at(15), Call.STARTED, "some.job7"),
        TraceEvent(at(35), Call.FINISHED, "some.job7", success=False),
        TraceEvent(at(35), Call.CANCELLED, "some.job7"),
    ]


@pytest.mark.parametrize("run", [0, -1])
def test_a_job_that_was_cancelled_before_it_ran_never_starts(tmp_path: Path, run: int) -> None:
    assert events_of(tmp_path, job_line(7, 10, 5, run, 5))[1:] == [TraceEvent(at(15), Call.CANCELLED, "some.job7")]


def test_events_are_ordered_by_time_then_kind_then_line(tmp_path: Path) -> None:
    lines = [job_line(3, 20, 0, 0, 1), job_line(2, 0, 0, 20, 5), job_line(1, 20, 0, 5, 1)]
    assert [(event.at_ns, event.call, event.id) for event in events_of(tmp_path, *lines)] == [
        (at(0), Call.SCHEDULED, "some.job2"),
        (at(0), Call.STARTED, "some.job2"),
        (at(20), Call.SCHEDULED, "some.job3"),
        (at(20), Call.SCHEDULED, "some.job1"),
        (at(20), Call.STARTED, "some.job3"),
        (at(20), Call.STARTED, "some.job1"),
        (at(20), Call.FINISHED, "some.job3"),
        (at(20), Call.FINISHED, "some.job2"),
        (at(20), Call.CANCELLED, "some.job2"),
        (at(25), Call.FINISHED, "some.job1"),
    ]


def test_compression_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    plain = write(tmp_path, job_line(7, 10, 5, 20, 1), name="x-plain.gz")
    packed = tmp_path / "x-packed.swf"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_trace(plain).events()) == list(read_trace(packed).events())


def test_blank_lines_notes_and_dos_line_ends_are_fine(tmp_path: Path) -> None:
    path = write(tmp_path, ";\n", "; Acknowledge: A\n", "; Acknowledge: B\n", "\n", job_line(7, 10, 5, 20, 1))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    trace = read_trace(path)
    assert (len(trace.jobs), trace.acknowledgement) == (1, "A; B")


@pytest.mark.parametrize("name", ["-.swf", "_7.swf", "é.swf"])
def test_a_name_without_a_word_still_gives_ids(tmp_path: Path, name: str) -> None:
    assert read_trace(write(tmp_path, job_line(7, 10, 5, 20, 1), name=name)).namespace == "trace"


@pytest.mark.parametrize(
    "line",
    [
        "1 2 3 4 5 6\n",
        "hello\n",
        job_line(1, 2, 3, 4, 1).replace("3", "x"),
        job_line(1, 2, 3, 4, 1).replace("2", "2.5", 1),
        job_line(-1, 2, 3, 4, 1),
        job_line(1, -2, 3, 4, 1),
        job_line(1, 2, 3, 4, 1).replace("2", "9" * 5_000, 1),
        "\x00\x01\x02",
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, job_line(7, 10, 5, 20, 1), line)
    with pytest.raises(ValueError, match=r"line 3: not a job") as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_beyond_the_last_instant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: job 1 ends after the year 2262"):
        read_trace(write(tmp_path, job_line(1, 2, 3, 10**12, 1)))


@pytest.mark.parametrize("start", ["", "; UnixStartTime: soon\n", "; UnixStartTime: -5\n"])
def test_a_trace_without_a_start_is_refused(tmp_path: Path, start: str) -> None:
    with pytest.raises(ValueError, match="UnixStartTime"):
        read_trace(write(tmp_path, job_line(1, 2, 3, 4, 1), start=start))


@pytest.mark.parametrize("content", [b"", b"; UnixStartTime: 5\n", b"\n\n"])
def test_a_file_without_jobs_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.swf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="without a single job"):
        read_trace(path)


def test_a_long_binary_file_is_refused_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "binary.swf"
    path.write_bytes(bytes(1_000_000))
    with pytest.raises(ValueError, match="line 1: not a job"):
        read_trace(path)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:30] + b"\xff" * 30 + data[60:]])
def test_damaged_gzip_data_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cut.swf.gz"
    path.write_bytes(damage(gzip.compress(b"; UnixStartTime: 5\n" + job_line(1, 2, 3, 4, 1).encode() * 50)))
    with pytest.raises(ValueError, match=r"cut\.swf\.gz") as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.swf", "."])
def test_what_can_not_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        read_trace(tmp_path / name)
