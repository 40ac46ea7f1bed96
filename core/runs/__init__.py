"""One run from request to result: check, runner, worker, store, summarize."""
