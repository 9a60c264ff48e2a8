from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crossdraft.core.config import from_mapping, load_yaml
from crossdraft.core.errors import SettingError


@dataclass(frozen=True)
class Plan:
    steps: int
    rate: float = 0.1
    names: list[str] = field(default_factory=list)


def test_reads_yaml_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("steps: 3\nnames: [a, b]\n")
    assert load_yaml(Plan, path, {"rate": 0.5}) == Plan(3, 0.5, ["a", "b"])


def test_an_unknown_key_is_one_line_whatever_it_is() -> None:
    with pytest.raises(SettingError, match=r"unknown key 'a\\nb\\x00'\.") as caught:
        from_mapping(Plan, {"a\nb\0": 1}, "here")
    assert "\n" not in str(caught.value)


def test_an_unknown_key_names_its_neighbour() -> None:
    with pytest.raises(SettingError, match="unknown key 'stepps'. Did you mean 'steps'"):
        from_mapping(Plan, {"stepps": 3})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(SettingError, match="here: missing steps"):
        from_mapping(Plan, {"rate": 1.0}, "here")


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n", "must hold a mapping"), ("a: [\n", "not valid YAML"), (None, "cannot read")]
)
def test_files_that_are_no_settings(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "plan.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingError, match=message):
        load_yaml(Plan, path)
