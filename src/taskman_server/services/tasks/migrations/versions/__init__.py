"""The revisions of the task database."""
