"""A database of rows of one label that understands five statements, word for word, and no other.

What it does to the rows was seen in uni-db: a property that is set to null is gone, ``MERGE`` takes every row that
matches, rows come in any order, and a statement that fails has changed nothing. ``on_unidb.py`` holds the real one to
the same tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

READ_ALL = (
    "MATCH (j:_BackgroundJob) RETURN j.qname AS qname, j.status AS status, j.next_fire_at_ns AS next_fire_at_ns, "
    "j.last_started_at_ns AS last_started_at_ns, j.last_finished_at_ns AS last_finished_at_ns, "
    "j.consecutive_failures AS consecutive_failures, j.schedule AS schedule"
)
READ_SOME = READ_ALL.replace(" RETURN", " WHERE j.qname IN $qnames RETURN")
MERGE = (
    "UNWIND $rows AS row MERGE (j:_BackgroundJob {qname: row.qname}) SET j.status = row.status, "
    "j.next_fire_at_ns = row.next_fire_at_ns, j.last_started_at_ns = row.last_started_at_ns, "
    "j.last_finished_at_ns = row.last_finished_at_ns, j.consecutive_failures = row.consecutive_failures, "
    "j.schedule = row.schedule"
)
DELETE = "UNWIND $gone AS qname MATCH (j:_BackgroundJob {qname: qname}) DETACH DELETE j"
MERGE_AND_DELETE = f"{MERGE} WITH count(*) AS merged {DELETE}"
COLUMNS = [column.partition(" AS ")[2] for column in READ_ALL.partition("RETURN ")[2].split(", ")]

Properties = dict[str, object]


class LabelInMemory:
    """The rows, and the statements that were run on them."""

    def __init__(self, rows: Iterable[Properties] = ()) -> None:
        self.rows = [dict(row) for row in rows]
        self.statements: list[str] = []

    def execute(self, cypher: str, parameters: Mapping[str, object]) -> list[Properties]:
        self.statements.append(cypher)
        given = {name: value for name, value in parameters.items() if isinstance(value, list)}
        if cypher == READ_ALL:
            return [{column: row.get(column) for column in COLUMNS} for row in reversed(self.rows)]
        if cypher == READ_SOME:
            found = [row for row in self.rows if row["qname"] in given["qnames"]]
            return [{column: row.get(column) for column in COLUMNS} for row in found]
        assert cypher in {MERGE, DELETE, MERGE_AND_DELETE}, f"a statement that nobody has tried on uni-db: {cypher}"
        if cypher != DELETE:
            for row in given["rows"]:
                self.merge(row)
        if cypher != MERGE:
            self.rows = [row for row in self.rows if row["qname"] not in given["gone"]]
        return []

    def merge(self, properties: Properties) -> None:
        matching = [row for row in self.rows if row["qname"] == properties["qname"]]
        if not matching:
            matching = [{}]
            self.rows += matching
        for row in matching:
            row.update(properties)
            for name in [name for name, value in row.items() if value is None]:
                del row[name]
