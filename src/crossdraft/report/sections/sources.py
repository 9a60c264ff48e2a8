"""Where the figures came from."""

from markupsafe import Markup

from crossdraft._version import __version__
from crossdraft.report import blocks, words
from crossdraft.report.gather import Found, Gathered, reading


def provenance(gathered: Gathered) -> Markup:
    """Every record with its date, commit, command line, versions and machine."""
    table = []
    for found in gathered.records:
        with reading(found):
            table.append(_row(found))
    header = ("record", "kind", "date", "commit", "command", "versions", "machine")
    told = f"Made by crossdraft {__version__}. Records without provenance are outputs that a command printed."
    return blocks.together([blocks.text(told, "note"), blocks.rows(header, table)])


def _row(found: Found) -> list[str]:
    own = found.body.get("provenance") or {}
    versions = {"python": own["python"], **own["versions"]} if own else None
    machine = own.get("machine") or {}
    return [
        found.path, found.kind, words.short(own.get("date")), words.short(own.get("commit")),
        words.short(" ".join(own.get("command", [])) or None, 300), words.short(versions, 300),
        words.short(", ".join(str(value) for value in machine.values()) or None, 200),
    ]  # fmt: skip
