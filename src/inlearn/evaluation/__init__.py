"""Predictions, measures, distances to ideal learners, and rollouts."""
