"""Where the figures came from."""

from markupsafe import Markup

from crossdraft._version import __version__
from crossdraft.report import blocks, words
from crossdraft.report.gather import Gathered, reading


def provenance(gathered: Gathered) -> Markup:
    """Every record with its date, commit and command line; every machine with its versions."""
    records, places = [], dict[tuple[str, str], list[str]]()
    for found in gathered.records:
        with reading(found):
            own = found.body.get("provenance") or {}
            command, date = " ".join(own.get("command", [])), own.get("date")
            told = [date and date[:16].replace("T", " "), own.get("commit"), command or None]
            records.append([found.name, found.kind, *(words.short(value, 300) for value in told)])
            if own:
                machine, versions = own["machine"], {"python": own["python"], **own["versions"]}
                place = f"{machine['cpu']}, {words.short(machine['cores'])} cores, {machine['system']}"
                places.setdefault((place, words.short(versions, 400)), []).append(found.name)
    machines = [[place, versions, ", ".join(names)] for (place, versions), names in places.items()]
    return blocks.together([
        blocks.text(f"Made by crossdraft {__version__}. What a command printed has no provenance.", "note"),
        blocks.rows(("record", "kind", "date (UTC)", "commit", "command"), records),
        blocks.rows(("machine", "versions", "records"), machines),
    ])  # fmt: skip
