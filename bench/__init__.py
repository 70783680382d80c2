"""Benchmarks of walstore against its peers and its floors: ``make bench`` runs them side by side into one report."""
