"""Benchmarks, run against any model: problems → prompts → replies → verdicts → scores → a report."""
