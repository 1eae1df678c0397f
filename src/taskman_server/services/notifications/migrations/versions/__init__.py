"""The schema of the notification database, step by step."""
