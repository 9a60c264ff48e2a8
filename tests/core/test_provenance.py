import json

from crossdraft._version import __version__
from crossdraft.core.provenance import provenance


def test_says_where_a_figure_came_from_and_fits_a_record() -> None:
    body = json.loads(json.dumps(provenance()))
    assert body["versions"]["crossdraft"] == __version__
    assert body["machine"]["cores"] >= 1
    assert set(body) == {"date", "commit", "command", "python", "versions", "machine"}
