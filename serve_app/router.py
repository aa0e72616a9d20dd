"""Routing over pools, behind the `Pool` protocol."""
