"""The schema of the task database, step by step."""
