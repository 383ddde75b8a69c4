"""The contract, randomness, configuration and files that every other room stands on. Imports nothing of ours."""
