"""Models behind a server: what it says of itself, a client that counts right, and what its answers tell."""
