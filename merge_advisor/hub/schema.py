"""The tables of a hub folder's catalogue, and how a file of an older version becomes one of the newest."""

from __future__ import annotations

from merge_advisor.checked_sqlite import CheckedFile, FileKind

ENTRY_COLUMNS = (
    "number", "base", "fingerprint", "kind", "rank", "modules", "licence", "size", "source", "revision", "place",
    "card", "languages", "data_sets", "tags", "template", "notes", "added",
)  # fmt: skip
"""Of an entry, in the order of the table."""
CATALOGUE_COLUMNS = {
    "bases": ("digest", "id", "revision", "architecture", "place"),
    "entries": ENTRY_COLUMNS,
    "names": ("base", "id", "version", "entry", "added", "current"),
    "scores": ("entry", "task", "task_digest", "metric", "evaluator", "value", "lower", "upper", "rows", "added"),
    "spaces": ("number", "digest", "fields"),
    "deltas": ("space", "entry", "delta"),
    "runs": ("folder", "added", "tasks", "verdict"),
    "costs": ("folder", "cost"),
    "judged": ("id", "kind", "model", "against", "tasks", "outcome", "added", "cost"),
}
"""Of each table whose rows have a checksum, the columns under it."""
_TABLES = """
bases (digest TEXT PRIMARY KEY, id TEXT NOT NULL, revision TEXT, architecture TEXT NOT NULL, place TEXT NOT NULL,
    checksum BLOB) WITHOUT ROWID;
entries (number INTEGER PRIMARY KEY, base TEXT NOT NULL, fingerprint TEXT NOT NULL, kind TEXT NOT NULL,
    rank INTEGER NOT NULL, modules TEXT NOT NULL, licence TEXT, size INTEGER NOT NULL, source TEXT NOT NULL,
    revision TEXT, place TEXT NOT NULL, card TEXT NOT NULL, languages TEXT NOT NULL, data_sets TEXT NOT NULL,
    tags TEXT NOT NULL, template TEXT NOT NULL, notes TEXT NOT NULL, added TEXT NOT NULL, checksum BLOB,
    UNIQUE (base, fingerprint));
names (base TEXT, id TEXT, version INTEGER, entry INTEGER NOT NULL, added TEXT NOT NULL, current INTEGER NOT NULL,
    checksum BLOB, PRIMARY KEY (base, id, version)) WITHOUT ROWID;
scores (entry INTEGER, task TEXT, task_digest TEXT, metric TEXT, evaluator TEXT, value REAL NOT NULL,
    lower REAL NOT NULL, upper REAL NOT NULL, rows INTEGER NOT NULL, added TEXT NOT NULL, checksum BLOB,
    PRIMARY KEY (entry, task, task_digest, metric, evaluator)) WITHOUT ROWID;
spaces (number INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL, fields TEXT NOT NULL, checksum BLOB);
deltas (row INTEGER PRIMARY KEY AUTOINCREMENT, space INTEGER NOT NULL, entry INTEGER NOT NULL, delta BLOB NOT NULL,
    checksum BLOB, UNIQUE (space, entry));
removed (row INTEGER PRIMARY KEY, space INTEGER NOT NULL);
runs (folder TEXT PRIMARY KEY, added TEXT NOT NULL, tasks TEXT NOT NULL, verdict TEXT NOT NULL, checksum BLOB)
    WITHOUT ROWID;
counters (last INTEGER NOT NULL)
"""
_INDEXES = (
    "names_by_entry ON names (entry, current)",
    "names_by_id ON names (id)",
    "entries_by_modules ON entries (base, kind, modules)",
    "entries_by_template ON entries (base, template)",
    "deltas_by_space ON deltas (space)",
    "deltas_by_entry ON deltas (entry)",
    "scores_by_task ON scores (task)",
)


def _make_tables(file: CheckedFile) -> None:
    for table in _TABLES.split(";"):
        file.run(f"CREATE TABLE {table.strip()}")
    for index in _INDEXES:
        file.run(f"CREATE INDEX {index}")
    file.run("INSERT INTO counters VALUES (0)")
    file.run("CREATE VIRTUAL TABLE texts USING fts5 (name, card, tags, tokenize = 'unicode61 remove_diacritics 2')")


def _keep_costs(file: CheckedFile) -> None:
    file.run("CREATE TABLE costs (folder TEXT PRIMARY KEY, cost TEXT NOT NULL, checksum BLOB) WITHOUT ROWID")


def _keep_judged(file: CheckedFile) -> None:
    file.run(
        "CREATE TABLE judged (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, "
        "model TEXT NOT NULL, against TEXT NOT NULL, tasks TEXT NOT NULL, outcome TEXT NOT NULL, added TEXT NOT NULL, "
        "cost TEXT, checksum BLOB)"
    )


CATALOGUE_KIND = FileKind(
    "hub catalogue", "name another `hub`", "its models can be added again; scores and versions in it are lost",
    CATALOGUE_COLUMNS, (_make_tables, _keep_costs, _keep_judged),
    repair="`merge-advisor hub check --repair` drops it",
)  # fmt: skip
