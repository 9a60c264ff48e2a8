"""Where the figures came from."""

from markupsafe import Markup

from crossdraft._version import __version__
from crossdraft.report import blocks, words
from crossdraft.report.gather import Gathered, reading


def provenance(gathered: Gathered) -> Markup:
    """Every record with its date, commit and command line; every machine with its versions."""
    records, places = [], dict[str, list[str]]()
    for found in gathered.records:
        with reading(found):
            own = found.body.get("provenance") or {}
            command = " ".join(own.get("command", []))
            told = [own.get("date"), own.get("commit"), command or None]
            records.append([found.name, found.kind, *(words.short(value, 300) for value in told)])
            if own:
                versions = {"python": own["python"], **own["versions"]}
                place = ", ".join(str(value) for value in own["machine"].values())
                places.setdefault(f"{place}; {words.short(versions, 400)}", []).append(found.name)
    return blocks.together([
        blocks.text(f"Made by crossdraft {__version__}. What a command printed has no provenance.", "note"),
        blocks.rows(("record", "kind", "date", "commit", "command"), records),
        *(Markup('<p class="note"><strong>{}</strong>: {}</p>').format(place, ", ".join(names))
          for place, names in places.items()),
    ])  # fmt: skip
