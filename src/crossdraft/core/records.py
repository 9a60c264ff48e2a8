"""JSON records with a schema version; written whole or not at all. Standard library only."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from crossdraft.core.errors import CrossdraftError, DataError

SCHEMA = 1


def write_record(path: str | Path, kind: str, body: dict[str, Any]) -> Path:
    """Write {"schema", "kind", **body} to ``path`` through a temporary file and a rename.

    Raises CrossdraftError with the cause when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    text = json.dumps({"schema": SCHEMA, "kind": kind, **body}, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """All of ``data`` under ``path``, or nothing changed. Raises CrossdraftError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> CrossdraftError:
    """One line for a file that could not be written: the cause, and what mends it."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return CrossdraftError(f"cannot write {path}: a file stands where a folder is needed; choose another place")
    cure = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another place"
    return CrossdraftError(f"cannot write {path}: {error.strerror or error}; {cure}")


def read_record(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a record of ``kind``. DataError when it is missing, damaged, of another kind or a newer schema."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file; give a '{kind}' record")
    try:
        body = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"no such record: {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a readable record: {error}") from error
    if not isinstance(body, dict) or body.get("kind") != kind or type(body.get("schema")) is not int:
        raise DataError(f"{path} is not a '{kind}' record")
    if body["schema"] > SCHEMA:
        raise DataError(f"{path} has schema {body['schema']}, this version reads up to {SCHEMA}; update crossdraft")
    return body
