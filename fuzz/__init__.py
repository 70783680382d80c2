"""Harnesses that try to make a store lose a job: see docs/reliability.md."""
