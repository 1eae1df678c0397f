"""The version of both wheels, written here and nowhere else."""

from __future__ import annotations

__version__ = "2.0.0.dev0"
