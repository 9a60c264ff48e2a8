import argparse
import errno
import os
import subprocess
import sys

import pytest

from crossdraft.cli import main as cli
from crossdraft.core.errors import DataError


def run_with(monkeypatch: pytest.MonkeyPatch, action) -> None:
    """Let the command ``doctor`` do ``action`` instead."""
    whole = cli.parser

    def parser() -> argparse.ArgumentParser:
        made = whole()
        made.parse_args = lambda argv=None, namespace=None: argparse.Namespace(  # type: ignore[method-assign]
            run=action, debug="--debug" in (argv or [])
        )
        return made

    monkeypatch.setattr(cli, "parser", parser)


def raising(error: BaseException):
    def action(_: argparse.Namespace) -> int:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("a.npy:\n is cut"), 2, "crossdraft: error: a.npy: is cut"),
        (OSError(errno.ENOSPC, "No space left on device", "out.npz"), 2, "the disk is full while writing out.npz"),
        (OSError(errno.EDQUOT, "quota"), 2, "the disk is full; free some space"),
        (RuntimeError("boom"), 1, "unexpected RuntimeError: boom"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "unexpected PermissionError"),
        (KeyboardInterrupt(), 130, "crossdraft: interrupted"),
    ],
)
def test_every_error_is_one_line_and_a_code(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(monkeypatch, raising(error))
    assert cli.main([]) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [DataError("bad"), RuntimeError("boom"), OSError(errno.ENOSPC, "full")])
def test_debug_lets_the_error_through(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with(monkeypatch, raising(error))
    with pytest.raises(type(error)):
        cli.main(["--debug"])


@pytest.mark.parametrize(
    "argv", [[], ["nonsense"], ["generate"], ["generate", "--prompt"], ["data"], ["demo", "--clips", "many"]]
)
def test_wrong_usage_is_one_line_and_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("crossdraft: error: ")
    assert err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "import sys; from crossdraft.cli.main import main; sys.exit(main(['list']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["generate", "--help"], ["list"], ["list", "--json"]])
def test_looking_around_imports_nothing_heavy(argv: list[str]) -> None:
    script = (
        "import sys; from crossdraft.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'transformers', 'av', 'h5py', 'rich'} & set(sys.modules); "
        "sys.exit(str(sorted(heavy)) if heavy or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, crossdraft; assert crossdraft.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
