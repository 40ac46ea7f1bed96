"""The files of tests that take long, as `--processor-times` tells it: they are begun first. A guess is good enough."""

from __future__ import annotations

EACH_S = 0.2  # of a test in any other file, seconds of processor time
LONG_S = {
    "tests/browser/test_browser.py": 75.0,
    "tests/browser/test_axe.py": 68.0,
    "tests/transforms/test_onnx_quantize.py": 50.0,  # the ONNX export of the embedded model, for all
    "tests/transforms/test_training_transforms.py": 45.0,
    "tests/evals/test_perplexity.py": 44.0,  # or here
    "tests/test_docs.py": 40.0,
    "tests/browser/test_planning.py": 40.0,
    "tests/browser/test_lessons.py": 38.0,
    "tests/worker/test_one_engine.py": 36.0,
    "tests/browser/test_clicks.py": 35.0,
    "tests/models/test_onnx_export.py": 35.0,
    "tests/contract/test_strategies.py": 35.0,
    "tests/backends/test_depth.py": 32.0,
    "tests/training/test_training.py": 30.0,
    "tests/models/test_brought_folders.py": 16.0,
    "tests/models/test_brought_headers.py": 8.0,
    "tests/transforms/test_prune.py": 30.0,
    "tests/studies/test_benchmark.py": 30.0,
    "tests/transforms/test_structured.py": 27.0,
    "tests/browser/test_silence.py": 25.0,
    "tests/runs/test_ray.py": 25.0,  # most of it in processes that Ray starts
    "tests/studies/test_studies.py": 20.0,
    "tests/evals/test_harness.py": 20.0,
    "tests/contract/test_transforms.py": 20.0,
    "tests/pages/test_making.py": 18.0,
    "tests/pages/test_pages.py": 16.0,
    "tests/models/test_onnx_blocks.py": 15.0,
    "tests/studies/test_search.py": 15.0,
    "tests/runs/test_runner.py": 14.0,
    "tests/backends/test_tree.py": 12.0,
    "tests/worker/test_disturbed.py": 12.0,
    "tests/pages/test_run_page.py": 12.0,
    "tests/worker/test_session_client.py": 9.0,
    "tests/cli/test_cli.py": 9.0,
    "tests/runs/test_endpoint_runs.py": 8.0,
}
