"""The files of tests that take long, as `--processor-times` tells it: they are begun first. A guess is good enough."""

from __future__ import annotations

EACH_S = 0.2  # of a test in any other file, seconds of processor time
LONG_S = {
    "tests/test_docs.py": 75.0,
    "tests/evals/test_perplexity.py": 70.0,
    "tests/browser/test_browser.py": 65.0,
    "tests/pages/test_pages.py": 60.0,
    "tests/browser/test_axe.py": 50.0,
    "tests/backends/test_depth.py": 50.0,
    "tests/transforms/test_training_transforms.py": 45.0,
    "tests/transforms/test_structured.py": 40.0,
    "tests/worker/test_one_engine.py": 40.0,
    "tests/models/test_onnx_export.py": 35.0,
    "tests/contract/test_strategies.py": 35.0,
    "tests/browser/test_planning.py": 35.0,
    "tests/training/test_training.py": 30.0,
    "tests/transforms/test_prune.py": 30.0,
    "tests/studies/test_benchmark.py": 30.0,
    "tests/browser/test_silence.py": 30.0,
    "tests/pages/test_run_page.py": 30.0,
    "tests/pages/test_making.py": 30.0,
    "tests/backends/test_tree.py": 30.0,
    "tests/runs/test_ray.py": 25.0,
    "tests/worker/test_transform.py": 25.0,
    "tests/studies/test_studies.py": 20.0,
    "tests/evals/test_harness.py": 20.0,
    "tests/contract/test_transforms.py": 20.0,
    "tests/models/test_onnx_blocks.py": 15.0,
    "tests/studies/test_search.py": 15.0,
}
