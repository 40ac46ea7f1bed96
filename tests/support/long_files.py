"""The files of tests that take long, as `--processor-times` tells it: they are begun first. A guess is good enough."""

from __future__ import annotations

EACH_S = 0.2  # of a test in any other file, seconds of processor time
LONG_S = {
    "tests/browser/test_browser.py": 86.0,
    "tests/models/test_case_runs.py": 70.0,
    "tests/browser/test_axe.py": 69.0,
    "tests/browser/test_clicks.py": 40.0,
    "tests/evals/test_perplexity.py": 40.0,  # or here
    "tests/browser/test_silence.py": 40.0,
    "tests/browser/test_planning.py": 37.0,
    "tests/worker/test_one_engine.py": 34.0,
    "tests/test_docs.py": 32.0,
    "tests/browser/test_lessons.py": 32.0,
    "tests/runs/test_ray.py": 31.0,  # most of it waiting, and in processes that Ray starts
    "tests/contract/test_transforms.py": 27.0,
    "tests/models/test_onnx_export.py": 23.0,
    "tests/contract/test_strategies.py": 22.0,
    "tests/transforms/test_onnx_quantize.py": 22.0,  # the ONNX export of the embedded model, for all
    "tests/pages/test_making.py": 21.0,
    "tests/backends/test_depth.py": 20.0,
    "tests/pages/test_pages.py": 18.0,
    "tests/transforms/test_prune.py": 17.0,
    "tests/decoding/test_padded_vocabularies.py": 16.0,
    "tests/transforms/test_structured.py": 16.0,
    "tests/studies/test_divided.py": 15.0,  # most of it waiting
    "tests/backends/test_fused.py": 15.0,
    "tests/evals/test_divergence.py": 15.0,
    "tests/runs/test_runner.py": 15.0,
    "tests/studies/test_search.py": 15.0,
    "tests/models/test_brought_folders.py": 14.0,
    "tests/models/test_families.py": 14.0,
    "tests/backends/test_pytorch.py": 14.0,
    "tests/backends/test_grouped.py": 14.0,
    "tests/worker/test_disturbed.py": 14.0,
    "tests/test_lanes.py": 13.0,
    "tests/pages/test_run_page.py": 12.0,
    "tests/test_strange_files.py": 12.0,
    "tests/transforms/test_training_transforms.py": 11.0,
    "tests/models/test_spec.py": 10.0,
    "tests/evals/test_harness.py": 10.0,
    "tests/transforms/test_dequantize.py": 10.0,
    "tests/runs/test_foreign.py": 10.0,
    "tests/backends/test_tree.py": 10.0,
    "tests/browser/test_report.py": 10.0,
    "tests/studies/test_benchmark.py": 9.0,
    "tests/studies/test_studies.py": 9.0,
    "tests/cli/test_cli.py": 9.0,
    "tests/worker/test_session_client.py": 9.0,
    "tests/training/test_training.py": 9.0,
    "tests/models/test_brought_headers.py": 8.0,
}
