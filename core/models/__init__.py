"""Find models, read their architecture, derive the files a backend needs."""
