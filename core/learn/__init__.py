"""What is taught: terms, what the literature reports, and lessons. Data and pure functions; nothing here draws."""
