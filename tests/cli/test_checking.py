"""roofscope check: what runs here says so with its kernels, what does not says what to do."""

import json

import pytest
from click.testing import CliRunner

from core import plugins
from core.cli import cli


def test_a_backend_that_is_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.cli.checking.BACKENDS", ("fake",))
    monkeypatch.setattr(type(plugins.get("backend", "fake")), "unavailable", lambda self: "Install it.")
    done = CliRunner().invoke(cli, ["check", "--json"])
    (row,) = json.loads(done.stdout)
    assert (row["runs"], row["what to do"], row["tok_per_s"]) == ("no", "Install it.", None)
    assert done.exit_code == 1


@pytest.mark.model
@pytest.mark.usefixtures("unrepeated")
def test_a_backend_that_runs_tells_what_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.cli.checking.BACKENDS", ("llama_cpp",))
    done = CliRunner().invoke(cli, ["check", "--json"])
    (row,) = json.loads(done.stdout)
    assert row["runs"] == "yes" and row["tok_per_s"] > 0 and "llama-cpp-python" in row["uses"] and not row["what to do"]
    assert done.exit_code == 0
