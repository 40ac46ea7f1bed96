"""The table of provoked faults: what is done, what must be seen, what must be left, and what provokes and checks it.

Most rows are tests of the suite, which provoke the fault already and are named here; the rows of the group `writes` are
operations of tests.faults.operations, disturbed at every one of their writes; those of the last groups are scenarios of
tests.faults.scenarios, with whole processes, and of tests.faults.browsers, with the real server and Chromium.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.faults.browsers import VISITS
from tests.faults.operations import OPERATIONS
from tests.faults.scenarios import SCENARIOS

WAYS = {
    "kill": ("kill -9 before any write of a process that {done}", "no traceback; it can be done again"),
    "full": ("the disk is full from any write on, while a process {done}", "one sentence; it can be done again"),
    "power": ("the power fails behind any write of a process that {done}", "no traceback; it can be done again"),
}


class Fault(NamedTuple):
    """check: "file::test" below tests/, "operation:way" in the group `writes`, or "scenario:name"."""

    group: str
    done: str
    seen: str
    left: str
    check: str


def _writes() -> tuple[Fault, ...]:
    rows = []
    for operation in OPERATIONS:
        for way, (done, seen) in WAYS.items():
            check = f"{operation.name}:{way}"
            rows.append(Fault("writes", done.format(done=operation.done), seen, operation.left, check))
    return tuple(rows)


def _of(group: str, file: str, *rows: tuple[str, str, str, str]) -> tuple[Fault, ...]:
    """Rows of one file: test, done, seen, left."""
    return tuple(Fault(group, done, seen, left, f"{file}::test_{test}") for test, done, seen, left in rows)


RUNS = (
    *_of(
        "runs",
        "runs/test_runner.py",
        ("a_killed_worker_ends_its_run_and_not_the_app", "kill -9 of a worker", "the signal, by name", "the app alive"),
        ("a_crash_while_loading_is_told", "a crash while a model is loaded", "the signal and the log", "the app alive"),
        ("a_signal_with_advice_is_retried_once", "a signal that an option avoids", "one retry, with it", "the result"),
        ("cancel_ends_a_worker_that_does_not_listen", "a worker that hangs is stopped", "stopped", "no process"),
        ("cancel_keeps_what_was_measured", "a stop in the middle", "stopped", "what was measured"),
        (
            "a_run_whose_folder_is_taken_away_stops_and_blocks_no_other",
            "the folder of a run that is going is taken away",
            "that it is not there",
            "the next run",
        ),
        ("no_process_is_left_behind", "the app ends, or is killed, during a run", "nothing", "no process"),
        ("two_runs_at_once_are_refused", "a second run in the same app", "who is measuring", "the first run"),
        ("a_second_process_is_refused_as_well", "two apps on one data folder", "who is measuring", "the first run"),
        ("bad_requests_are_refused_before_anything_is_loaded", "bad requests", "one sentence each", "no run"),
        ("a_prompt_too_long_is_one_sentence", "a prompt longer than the context", "one sentence", "the worker"),
        ("a_model_larger_than_memory_is_said_before_loading", "a model larger than memory", "its sizes", "no run"),
        (
            "a_full_disk_ends_the_run_with_its_reason",
            "a disk that fills up in a run",
            "the reason",
            "what was measured",
        ),
        ("a_dying_worker_leaves_no_moment_in_which_its_run_looks_abandoned", "a worker dies", "its end", "the run"),
    ),
    *_of(
        "runs",
        "runs/test_foreign.py",
        ("a_bundle_that_unpacks_to_gigabytes_is_refused_before_it_does", "a zip bomb", "its limit", "nothing"),
        ("an_id_that_is_no_plain_name_is_refused", "ids with slashes, NUL, 300 characters", "one sentence", "nothing"),
        ("a_damaged_zip_is_one_sentence", "400 damaged zips", "one sentence each", "nothing half imported"),
        ("a_run_whose_events_contradict_each_other_is_not_imported", "absurd events", "one sentence", "nothing"),
        (
            "whatever_its_events_say_a_run_is_a_row_and_can_be_deleted",
            "300 runs with values replaced at random",
            "a row each, damaged or not",
            "each can be deleted",
        ),
        ("a_folder_that_is_no_run_is_a_row", "folders that are no runs", "a damaged row each", "the other runs"),
        (
            "ceilings_that_came_along_are_a_machines_or_left_out",
            "a bundle whose ceilings name a machine with a path in it, or absurd speeds",
            "its run",
            "the files outside",
        ),
        (
            "names_that_are_no_utf8_and_links_take_no_list_down",
            "a run folder whose name is no UTF-8, and links in its place",
            "the other runs",
            "what the links lead to",
        ),
        (
            "what_a_newer_version_has_written_says_so",
            "runs and bundles of a newer version of Roofscope",
            "that it is newer",
            "what is known of it",
        ),
        ("history_needs_no_index", "an index that is damaged, a folder, or cannot be written", "the table", "the runs"),
        ("a_run_of_another_container_goes_on_while_it_writes", "two containers, one folder", "running", "its run"),
    ),
    *_of(
        "runs",
        "runs/test_store.py",
        ("events_are_read_incrementally_and_damage_is_passed_over", "half a line of events", "the others", "the run"),
        ("a_half_written_folder_is_a_row_and_not_a_crash", "a folder half written", "a row", "the other runs"),
        (
            "a_bundle_cannot_write_outside_the_store",
            "a zip with paths that lead out",
            "one sentence",
            "the files outside",
        ),
        ("history_indexes_finished_runs_and_survives_a_lost_index", "a lost index", "the table", "the runs"),
        ("an_unknown_run_is_one_sentence", "the id of no run", "one sentence", "the runs"),
        (
            "a_data_folder_that_was_moved_away_begins_anew",
            "the data folder is renamed under a living process",
            "an empty list",
            "the runs, where they are",
        ),
    ),
    *_of(
        "runs",
        "runs/test_owner.py",
        ("a_number_given_to_another_process_is_not_it", "a process number given away", "interrupted", "the run"),
        ("a_step_of_the_clock_changes_nothing", "the clock steps by years", "running", "the run"),
        ("a_process_of_another_container_lives_as_long_as_it_writes", "another container", "alive or gone", "the run"),
        (
            "a_process_is_alive_until_it_ends_however_long_it_says_nothing",
            "a process that says nothing for twenty minutes",
            "alive",
            "the run",
        ),
    ),
    *_of(
        "runs",
        "runs/test_measuring.py",
        (
            "a_bench_refuses_runs_and_ceilings_and_its_death_frees_the_machine",
            "a process dies that held the machine",
            "who held it, then nobody",
            "the machine free",
        ),
        ("a_run_that_lost_the_race_says_so", "two runs begin at the same moment", "one sentence", "one run"),
    ),
    *_of(
        "runs",
        "runs/test_screens.py",
        ("the_note_of_a_dead_worker_is_removed", "a worker dies while screens rest", "the screen", "no note"),
        ("a_damaged_note_asks_for_nothing", "a damaged note of rest", "the screen", "the app"),
    ),
)
WORKERS = (
    *_of(
        "workers",
        "worker/test_silence.py",
        ("what_never_rests_does_not_stop_the_run", "a machine that is never quiet", "a disturbed result", "the run"),
        ("a_stop_while_it_waits_and_a_failure_remove_the_note", "a stop while it waits", "stopped", "no note"),
    ),
    *_of(
        "workers",
        "worker/test_transform.py",
        (
            "a_training_that_is_stopped_goes_on_and_leaves_no_half_model_and_no_process",
            "a training is stopped, and the app ends during another one",
            "it goes on",
            "no half model, no process",
        ),
        ("a_training_that_is_killed_leaves_the_app_alive_and_no_model", "kill -9 of a training", "why", "no model"),
        ("a_name_that_is_no_folder_is_refused", "names of models that lead elsewhere", "one sentence", "no model"),
    ),
    *_of(
        "workers",
        "worker/test_session_client.py",
        ("a_crash_is_told_as_a_workers_is", "the reference's process crashes", "the signal", "the worker"),
        ("a_death_in_the_middle_of_a_forward", "it dies in the middle of a forward", "the signal", "the worker"),
        ("it_dies_with_its_parent", "kill -9 of the worker beside a reference", "nothing", "no process"),
        (
            "what_cannot_be_opened_is_said_and_leaves_no_process",
            "a reference that cannot be opened",
            "why",
            "no process",
        ),
    ),
    *_of(
        "workers",
        "studies/test_studies.py",
        ("an_interrupted_study_goes_on_where_it_was", "a study is interrupted", "it goes on", "all its runs"),
        ("a_damaged_ledger_begins_anew", "a damaged ledger", "it begins anew", "the runs"),
        ("a_run_of_another_process_is_waited_for", "a run of another process", "it waits", "both"),
    ),
    *_of(
        "workers",
        "studies/test_sweep.py",
        (
            "killed_at_any_write_every_cell_counts_once",
            "kill -9 of a sweep at any write",
            "it goes on",
            "each cell once",
        ),
        (
            "a_study_of_any_model_has_a_folder_of_its_own_that_is_listed",
            "a study of a model with a slash in its id",
            "the study in the list",
            "the other studies",
        ),
        (
            "a_plan_of_somebody_else_writes_into_no_other_folder",
            "a plan of a sweep whose name is a path",
            "one sentence",
            "the files outside",
        ),
    ),
)
MODELS = (
    *_of(
        "models",
        "models/test_artifacts.py",
        ("a_crash_leaves_nothing", "a crash while a model is converted", "why", "nothing half made"),
        ("a_full_disk_is_said_and_cleaned_up", "a full disk while it is converted", "the sizes", "nothing half made"),
        (
            "a_killed_build_is_swept_away_and_done_again",
            "kill -9 while it is converted",
            "it is done again",
            "it whole",
        ),
        ("a_half_deleted_artifact_is_made_again", "half of a deletion", "it is made again", "it whole"),
        ("damage_is_said_before_building", "a damaged source", "one sentence", "nothing"),
    ),
    *_of(
        "models",
        "models/test_gguf_file.py",
        ("each_fault_is_one_sentence_with_its_cause", "GGUF headers that are wrong", "one sentence each", "the app"),
        (
            "a_mutated_header_is_read_or_refused_in_a_sentence",
            "headers mutated at random",
            "one sentence each",
            "the app",
        ),
    ),
    *_of(
        "models",
        "models/test_safetensors_file.py",
        ("each_fault_is_one_sentence_with_its_cause", "safetensors that are wrong", "one sentence each", "the app"),
        (
            "a_mutated_safetensors_header_is_read_or_refused_in_a_sentence",
            "headers of safetensors mutated at random",
            "one sentence each",
            "the app",
        ),
        (
            "a_mutated_index_is_read_or_refused_in_a_sentence",
            "an index mutated at random",
            "one sentence each",
            "the app",
        ),
    ),
    *_of(
        "models",
        "models/test_spec.py",
        ("each_fault_is_one_sentence", "configurations that are wrong", "one sentence each", "the app"),
        (
            "any_value_in_any_field_is_read_or_refused_in_a_sentence",
            "any value in any field",
            "one sentence",
            "the app",
        ),
        ("a_damaged_gguf_is_one_sentence", "a GGUF that is cut off", "one sentence", "the app"),
    ),
    *_of(
        "models",
        "models/test_catalogue.py",
        ("strange_things_never_stop_the_listing", "strange files in every place", "the list", "every good model"),
        ("each_fault_is_one_sentence_and_a_next_step", "models that are damaged", "one sentence each", "the others"),
    ),
    *_of(
        "models",
        "models/test_names.py",
        (
            "names_that_can_be_nowhere_are_refused_in_a_sentence",
            "names that no file can have",
            "one sentence",
            "the app",
        ),
        ("a_prompt_that_is_no_utf8_is_refused", "a prompt that is no UTF-8", "one sentence", "no run"),
    ),
    *_of(
        "models",
        "models/test_precision.py",
        (
            "an_expression_without_an_end_is_given_up",
            "an endless regular expression in a quantization configuration",
            "one sentence",
            "the app",
        ),
    ),
    *_of(
        "models",
        "tokenizers/test_chat.py",
        ("a_hostile_or_broken_template_is_one_sentence", "hostile chat templates", "one sentence each", "the app"),
    ),
)
BOUNDS = (
    *_of(
        "input",
        "test_bounds.py",
        ("the_way_of_a_page", "any setting of any plugin at its edges, NaN, wrong kinds", "one sentence", "no run"),
        ("the_way_of_the_command_line", "the same, typed", "one sentence, exit status 2", "no run"),
        ("a_request_out_of_bounds", "threads, seeds, temperatures and ids out of bounds", "one sentence", "no run"),
        ("a_data_folder_that_is_a_file_is_one_sentence", "a data folder that is a file", "one sentence", "the file"),
        ("json_that_is_deep_or_no_object_is_one_sentence", "JSON 200,000 levels deep", "one sentence", "the app"),
    ),
    *_of(
        "input",
        "test_storage.py",
        ("what_a_process_has_open_stays", "freeing what a process has open", "which process", "it"),
        (
            "what_is_going_on_keeps_what_it_needs",
            "freeing what a run needs that is going",
            "that it goes on",
            "all of it",
        ),
        ("what_cannot_be_made_again_goes_after_a_yes_only", "freeing what is precious", "a question", "all of it"),
        ("a_full_disk_lets_them_give_way_too", "a full disk, and old converted files", "nothing", "what is needed"),
        ("a_model_that_was_moved_away_when_its_process_died_comes_back", "kill -9 between two renames", "it", "it"),
    ),
    *_of(
        "input",
        "test_strange_files.py",
        (
            "every_list_is_shown_and_every_reader_has_a_sentence",
            "a pipe, a device, deep or odd content in the place of every file",
            "every list",
            "the app",
        ),
        (
            "and_everything_that_is_no_setting_can_be_freed",
            "freeing what lies there, whatever it is",
            "that it is gone",
            "the settings",
        ),
        (
            "names_that_are_no_utf8_take_no_list_down",
            "folders of every kind whose names are no UTF-8",
            "every list",
            "the app",
        ),
    ),
    *_of(
        "input",
        "service/test_guard.py",
        (
            "what_is_refused_before_any_route",
            "a bad Origin, a Content-Length of 5,000 digits, wrong keys",
            "why, in a sentence",
            "the service",
        ),
        (
            "a_key_may_have_any_letters",
            "a key with an umlaut, and ones that are nearly it",
            "the answer for it, 401 for the others",
            "the service",
        ),
        (
            "raw_requests_are_answered_or_refused",
            "raw requests that no client's library sends",
            "an answer, or why not",
            "the service",
        ),
        (
            "a_client_that_goes_in_the_middle_of_its_body_is_no_failure",
            "a client that goes in the middle of its body",
            "nothing",
            "the service",
        ),
    ),
    *_of(
        "input",
        "service/test_patience.py",
        ("connections_that_never_ask_are_closed", "connections that never ask", "that they are closed", "the service"),
        (
            "a_client_that_never_reads_is_dropped",
            "clients that never read their answer",
            "that they are dropped",
            "the service",
        ),
        (
            "a_byte_now_and_then_does_not_keep_a_connection",
            "clients that send a byte now and then",
            "that they are closed",
            "the service",
        ),
    ),
    *_of(
        "input",
        "cli/test_cli.py",
        ("ctrl_c_keeps_what_was_measured_and_says_so_to_the_shell", "Ctrl-C", "exit status 130", "what was measured"),
        (
            "ctrl_c_while_a_command_is_imported",
            "Ctrl-C in the first moments of a command",
            "exit status 130, no traceback",
            "nothing",
        ),
        ("a_request_that_cannot_run_ends_with_status_2", "a request that cannot run", "exit status 2", "no run"),
        ("a_run_that_failed_ends_with_status_1", "a run that fails", "exit status 1", "its run"),
    ),
)
PAGES = (
    *_of(
        "pages",
        "pages/test_hostile.py",
        ("names_in_the_address_are_words", "hostile query parameters on every page", "words", "the app"),
        ("names_in_runs_are_words", "hostile runs on every page", "words", "the app"),
    ),
    *_of(
        "pages",
        "pages/test_pages.py",
        (
            "page_with_runs_and_with_nonsense_in_its_address",
            "nonsense in the address of every page",
            "the page",
            "the app",
        ),
        ("damaged_run_folders", "damaged runs on every page", "the page", "the app"),
    ),
    *_of(
        "pages",
        "pages/test_run_page.py",
        ("a_crash_is_one_sentence_and_the_app_lives", "a worker crashes under the page", "one sentence", "the app"),
        ("a_run_is_found_again_and_a_second_one_is_refused", "a second tab runs, too", "who runs", "the first run"),
    ),
    *_of(
        "pages",
        "pages/test_rest.py",
        (
            "a_tab_that_hung_up_is_not_waited_for_long",
            "a browser that closes before the timing",
            "the run",
            "its timing",
        ),
    ),
    *_of(
        "pages",
        "pages/test_storage_page.py",
        (
            "a_data_folder_that_is_a_file_takes_no_page_down",
            "a data folder that is a file, under every page",
            "one sentence",
            "the app",
        ),
        ("an_id_that_no_run_can_have_is_a_notice", "an id of 5,000 characters in the address", "a notice", "the app"),
    ),
)
TESTS = (*RUNS, *WORKERS, *MODELS, *BOUNDS, *PAGES)
STAGED = tuple(Fault(s.group, s.done, s.seen, s.left, f"scenario:{s.name}") for s in (*SCENARIOS, *VISITS))
TABLE = (*_writes(), *TESTS, *STAGED)
GROUPS = tuple(dict.fromkeys(fault.group for fault in TABLE))
