"""python -m core: one JSON value on stdout, progress on stderr, honest exit statuses."""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.cli.group import MODULES
from core.cli.options import pairs
from core.cli.running import beforehand, summary, template_values
from core.paths import data_dir
from core.runs.recording import Recording
from core.runs.resolve import resolve
from core.runs.store import Store
from core.runs.summarize import summarize
from core.types import Generate, Request, Step, Unrest

ROOT = Path(__file__).parents[2]
FIELDS = {
    *("run_id", "text", "n_prompt_tokens", "n_new_tokens", "n_forward", "ttft_s", "tpot_s", "tok_per_s"),
    *("load_s", "peak_memory_bytes", "layers", "setup", "host", "warnings"),
}


FAKE = ("run", "--model", "smollm2-135m", "--backend", "fake", "--max-new-tokens", "4")


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def core(*args: str) -> Done:
    """What `python -m core` says and how it ends, without a process of its own."""
    found = CliRunner().invoke(cli, args, prog_name="python -m core")
    crash = found.exception if not isinstance(found.exception, SystemExit) else None
    assert crash is None, "".join(traceback.format_exception(crash))
    return Done(found.exit_code, found.stdout, found.stderr)


def run_fake(*args: str) -> Done:
    return core(*FAKE, *args)


def process(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_run_prints_the_result_and_nothing_else() -> None:
    done = process(*FAKE, "--prompt", "Hello", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) >= FIELDS
    assert result["n_new_tokens"] == 4 and len(result["text"]) == 4
    assert {"name", "kind", "seconds", "flops", "bytes"} <= set(result["layers"][0])
    assert "loading" in done.stderr
    listed = json.loads(core("runs", "--json").stdout)
    assert [r["run_id"] for r in listed] == [result["run_id"]]


def test_a_file_is_found_from_where_the_command_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has another current folder: `--param path=mine.jsonl` found nothing, or somebody else's."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine.jsonl", "sql"):
        (tmp_path / name).write_text('{"prompt": "a"}')
    given = pairs(("path=mine.jsonl", "domain=sql", "n=5", "text=none.txt"))
    assert given == {"path": str(tmp_path / "mine.jsonl"), "domain": "sql", "n": 5, "text": "none.txt"}
    refused = CliRunner().invoke(cli, ["eval", "own", "--backend", "fake", "--param", "path=mine.jsonl"])
    assert refused.exit_code == 2 and "has no answer" in refused.stderr, "before a model is opened"


def test_the_table_of_commands_is_what_the_modules_add() -> None:
    for file in (ROOT / "core" / "cli").glob("[a-z]*.py"):
        importlib.import_module(f"core.cli.{file.stem}")
    assert {name: f"core.cli.{module}" for name, module in MODULES.items()} == {
        name: command.callback.__module__ for name, command in cli.commands.items() if command.callback
    }
    assert core("no-such-command").returncode == 2
    listed = core("--help").stdout
    assert all(f"\n  {name} " in listed for name in cli.commands)


def test_a_command_does_not_wait_for_the_imports_of_others() -> None:
    code = """
import sys
from core.cli import cli
cli(["strategies"], standalone_mode=False)
print(sorted(name for name in sys.modules if name.startswith("core.cli.") or name in ("altair", "core.studies")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['core.cli.group', 'core.cli.listings', 'core.cli.terminal']"


def test_ctrl_c_keeps_what_was_measured_and_says_so_to_the_shell() -> None:
    command = [sys.executable, "-m", "core", *FAKE[:-1], "2000", "--prompt", "Hi", "--option", "delay_s=0.05", "--json"]
    store = Store(data_dir())
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as going:
        while not any(isinstance(event, Step) for run in store.runs() for event in run.events()):
            assert going.poll() is None
            time.sleep(0.05)
        going.send_signal(signal.SIGINT)
        told, said = going.communicate(timeout=60)
    assert going.returncode == 130, said
    result = json.loads(told)
    assert result["status"] == "cancelled" and "Traceback" not in said


@pytest.mark.parametrize("name", ["core.cli", "click", "msgspec", "core.types", "core.cli.running", "core.runs.store"])
def test_ctrl_c_while_a_command_is_imported(name: str) -> None:
    """Pressed when this module is looked for."""
    code = f"""
import os, runpy, signal, sys
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Pressed())
sys.argv = ["core", "run", "--help"]
runpy.run_module("core", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, "Stopped.\n", "")


def test_a_command_in_the_background_of_a_shell_hears_no_ctrl_c() -> None:
    code = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
class Pressed:
    def find_spec(self, name, path=None, target=None):
        os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Pressed())
sys.argv = ["core", "strategies"]
runpy.run_module("core", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "jacobi" in done.stdout, done.stderr


def test_a_second_ctrl_c_while_it_leaves_changes_nothing() -> None:
    code = """
import atexit, os, signal, sys
from core.cli import main
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["roofscope", "no-such-command"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


def test_ctrl_c_outside_a_run_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("core.cli.listings.data_dir", interrupted)
    done = core("runs")
    assert done.returncode == 130 and done.stderr == "Stopped.\n"


def test_a_long_run_says_beforehand_what_it_writes_and_about_how_long_it_takes(tmp_path: Path) -> None:
    """A 7B configuration that declares 4 bits and has no weights: they are drawn in fp16, 2 bytes each."""
    config = {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
        "max_position_embeddings": 32768, "torch_dtype": "float16", "quantization": {"group_size": 64, "bits": 4},
    }  # fmt: skip
    path = tmp_path / "seven" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config))
    task = Generate(prompt_tokens=10, max_new_tokens=101)
    wanted = resolve(Request(model=str(path), backend="llama_cpp", task=task, profilers=(), warmup=1, repeats=3))
    assert wanted.spec.weight_bytes == 2 * 7_615_616_512
    first, second = beforehand(wanted, Store(tmp_path))
    assert first.startswith("First 15.2 GB are written to the disk (random weights)")
    # 3 passes of 101 forwards: 14.1 GB read at 10 GB/s, 14 GFLOP at 50 GFLOP/s: 1.7 s each; loading takes 30 s
    assert second.startswith("The run takes about 9 min by a rough guess, with 3 passes") and "Ctrl-C" in second
    short = resolve(Request(model="smollm2-135m", backend="llama_cpp", task=Generate(prompt="Hello"), profilers=()))
    assert beforehand(short, Store(tmp_path)) == []


def test_prompt_tokens_ask_for_exactly_that_many() -> None:
    result = json.loads(
        run_fake("--prompt-tokens", "33", "--batch", "2", "--repeats", "2", "--retries", "0", "--json").stdout
    )
    assert (result["n_prompt_tokens"], result["n_new_tokens"], result["batch"]) == (33, 4, 2)
    assert result["disturbance"]["n_passes"] == 2 and 1 <= len(result["ttft_samples_s"]) <= 2


def test_a_disturbed_run_says_so_below_its_numbers() -> None:
    result = summarize("r", Recording(Request(model="m", backend="fake"), []), "done")
    told = Unrest(disturbed=True, sentence="Disturbed while it was timed: its steps came in bursts.")
    assert "disturbed" not in summary(result)
    assert told.sentence in summary(msgspec.structs.replace(result, disturbance=told))


def test_how_full_a_batch_was_stands_among_its_numbers() -> None:
    result = summarize("r", Recording(Request(model="m", backend="fake"), []), "done")
    assert "batch " not in summary(result)
    assert "batch       4, 38% full" in summary(msgspec.structs.replace(result, batch=4, batch_filled=0.375))


def test_export_writes_every_format(tmp_path: Path) -> None:
    run_id = json.loads(run_fake("--prompt", "Hello", "--json").stdout)["run_id"]
    assert json.loads(core("export", run_id).stdout)["result"]["run_id"] == run_id
    assert core("export", run_id, "--format", "layers.csv").stdout.startswith("name,kind,phase,seconds")
    assert core("export", run_id, "--format", "steps.csv").stdout.startswith("t_s,pass_no,phase,seconds")
    bundle = tmp_path / "run.zip"
    assert core("export", run_id, "--format", "zip", "--output", str(bundle)).returncode == 0
    assert bundle.read_bytes()[:2] == b"PK"


@pytest.mark.parametrize(
    "args",
    [
        ["--prompt", ""],
        ["--prompt", "x", "--model", "no-such-model"],
        ["--prompt", "x", "--backend", "abacus"],
        ["--prompt", "x", "--strategy", "guess"],
        ["--prompt", "x", "--option", "novalue"],
        ["--prompt", "x", "--max-new-tokens", "100000"],
        ["--prompt", "x", "--max-new-tokens", "many"],
    ],
)
def test_a_request_that_cannot_run_ends_with_status_2(args: list[str]) -> None:
    done = run_fake(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip() and "Traceback" not in done.stderr


def test_a_run_that_failed_ends_with_status_1() -> None:
    done = process(*FAKE, "--prompt", "x", "--option", "crash=SIGKILL")
    assert done.returncode == 1 and "memory" in done.stderr and "Traceback" not in done.stderr
    refused = process("export", "nope")
    assert refused.returncode == 2 and refused.stdout == "" and "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", ["models", "backends", "strategies", "devices"])
def test_listings_are_json_and_tables(command: str) -> None:
    rows = json.loads(core(command, "--json").stdout)
    assert len(rows) >= 3
    assert core(command).stdout.count("\n") >= 4


def test_unknown_run_and_unwritable_place(tmp_path: Path) -> None:
    assert core("export", "nope").returncode == 2
    run_id = json.loads(run_fake("--prompt", "Hello", "--json").stdout)["run_id"]
    assert core("export", run_id, "--output", str(tmp_path / "no" / "such" / "folder")).returncode == 2


def test_runs_are_shown_and_deleted_damaged_ones_too(store: Store) -> None:
    run_id = json.loads(run_fake("--prompt", "Hello", "--json").stdout)["run_id"]
    told = core("runs", "show", run_id)
    assert told.stdout.startswith("smollm2-135m in Fake\n") and f"run         {run_id} (done)" in told.stdout
    damaged = store.folder / "20990101-000000-abcdef"
    damaged.mkdir()
    for refused in (("show", damaged.name), ("show", "none"), ("delete", run_id), ("delete", run_id, "none", "--yes")):
        done = core("runs", *refused)
        assert done.returncode == 2 and done.stderr, refused
    assert set(store.ids()) == {run_id, damaged.name}, "nothing goes without --yes, or where one is none"
    assert core("runs", "delete", run_id, damaged.name, "--yes").returncode == 0
    assert not store.ids()


def test_a_template_is_given_what_json_or_python_write() -> None:
    given = ("a=false", "b=False", "c=None", 'd=["x"]', "e=high", "f==")
    assert template_values(given) == {"a": False, "b": False, "c": None, "d": ["x"], "e": "high", "f": "="}


def test_work_of_a_preset_and_of_a_config(tmp_path: Path) -> None:
    done = json.loads(core("work", "--model", "gpt2", "--tokens", "1024", "--json").stdout)
    assert done["n_params"] == 124_439_808
    assert sum(layer["flops"] for layer in done["layers"]) == pytest.approx(done["flops"])
    config = tmp_path / "config.json"
    shape = {"n_layer": 2, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
    config.write_text(json.dumps({"model_type": "gpt2", **shape}))
    small = json.loads(core("work", "--config", str(config), "--json").stdout)
    assert 0 < small["n_params"] < done["n_params"]
    bare = config.with_name("small.json")
    bare.write_text(config.read_text())
    for path, name in ((bare, "small"), (config, tmp_path.name)):
        assert json.loads(core("work", "--model", str(path), "--json").stdout)["model"] == name
    config.write_text("{not json")
    assert core("work", "--config", str(config)).returncode == 2
    assert core("work").returncode == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no config.json in"),
        (b"{not json", "is not JSON (line 1"),
        (b"\xff\xfe\x00model", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1, 2]", "does not hold a JSON object"),
        (b"null", "does not hold a JSON object"),
        (b"{}", "model_type"),
        (b'{"model_type": 5}', "model_type|architecture"),
        (b'{"model_type": "llama"}', "has no '"),
        (b'{"model_type": "llama", "quantization_config": [1]}', "has no '"),
    ],
)
@pytest.mark.parametrize("command", [("work",), ("predict", "--device", "RTX 4090")])
def test_a_configuration_that_is_none_is_one_sentence(
    command: tuple[str, ...], content: bytes | None, words: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    if content is not None:
        config.write_bytes(content)
    done = core(*command, "--config", str(config))
    assert done.returncode == 2 and done.stdout == "" and re.search(words.replace("(", r"\("), done.stderr), done.stderr
    assert "Errno" not in done.stderr and len(done.stderr.strip().splitlines()) == 2, "a sentence and the next step"


def test_a_folder_without_a_configuration_and_names_that_are_none(tmp_path: Path) -> None:
    for name in (
        str(tmp_path),
        str(tmp_path / ("x" * 5000)),
        "~nobody-here/config.json",
        str(tmp_path / "a\udcff.json"),
    ):
        done = core("work", "--config", name)
        assert done.returncode == 2 and "Errno" not in done.stderr and len(done.stderr) < 800
        assert len(done.stderr.strip().splitlines()) == 2
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 100, "n_positions": 64}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **shape}))
    assert core("work", "--config", str(tmp_path), "--json").returncode == 0, "a folder that has one is read"


def test_predict_gives_intervals_with_their_assumptions() -> None:
    args = ("--model", "llama-2-7b", "--device", "RTX 4090", "--weights", "q4_0")
    found = json.loads(core("predict", *args, "--json").stdout)
    for name in ("ttft_s", "tpot_s", "prefill_tok_per_s", "decode_tok_per_s", "peak_memory_bytes"):
        figure = found[name]
        assert figure["low"] <= figure["calibrated"] <= figure["high"]
    assert found["fits"] is True and found["bound_by"] == "memory" and found["assumptions"]
    assert "fits: yes" in core("predict", *args).stdout
    assert core("predict", "--model", "llama-2-7b", "--device", "abacus").returncode == 2
    assert core("predict", *args, "--prompt-tokens", "0").returncode == 2
