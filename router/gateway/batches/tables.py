"""The tables, as they are now; `migrations` leads there from whatever a database has.

Times are Unix times in seconds. A file's content is its chunks, or, of a batch's output and errors,
the results of that batch's lines: so no result is ever written twice.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)


class Line(IntEnum):
    """What becomes of a line; from `DONE` on it has its result."""

    WAITING = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3
    EXPIRED = 4


class Status(StrEnum):
    """Of a batch, by OpenAI's names."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


# Of batches in which something is still to be done.
OPEN = (Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING)
# Tokens, of a line and of all of a batch.
USAGE = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")

metadata = MetaData()

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("ready", Integer, nullable=False),  # 0 while it is being sent
    Column("batch", String(64)),  # whose results it has, and which: output or errors
    Column("kind", String(8)),
    Index("files_by_age", "tenant", "created_at", "id"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("file", String(64), ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("key", String(64), nullable=False),  # the hash of the client's, whose rights it has
    Column("endpoint", String(64), nullable=False),
    Column("input_file", String(64), nullable=False),
    Column("window", String(32), nullable=False),  # as the client said it
    Column("metadata", Text),
    Column("status", String(16), nullable=False),
    Column("owner", String(64)),  # the runner that looks at its lines
    Column("model", Text),
    Column("errors", Text),
    Column("output_file", String(64)),
    Column("error_file", String(64)),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("finalizing_at", Double),
    Column("completed_at", Double),
    Column("failed_at", Double),
    Column("expired_at", Double),
    Column("cancelling_at", Double),
    Column("cancelled_at", Double),
    *(Column(name, BigInteger, nullable=False) for name in USAGE),
    Index("batches_by_age", "tenant", "created_at", "id"),
    Index("batches_by_status", "status"),
)

lines = Table(
    "lines",
    metadata,
    Column("batch", String(64), ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # in its file, from 1
    Column("offset", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("prefix", BigInteger, nullable=False),  # the same where prompts begin alike
    Column("tokens", Integer, nullable=False),  # most output tokens that it asks for, 0: unlimited
    Column("custom_id", Text, nullable=False),
    Column("model", Text),  # that it is planned for, where it is not its batch's
    Column("state", Integer, nullable=False),
    Column("owner", String(64)),  # the runner that has it
    Column("result", LargeBinary),  # a line of the output or error file
    *(Column(name, Integer, nullable=False) for name in USAGE),
    Index("lines_by_state", "batch", "state", "number"),
    Index("lines_by_owner", "owner"),
)

# Whoever sends lines; what one has that has not been heard of in time is given to others.
runners = Table(
    "runners",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("until", Double, nullable=False),
)
