"""Tests of adaptations."""
