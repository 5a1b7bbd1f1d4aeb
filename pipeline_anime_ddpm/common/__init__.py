"""What every folder here builds on: one-sentence errors, files that are whole or absent, reading of foreign text."""
