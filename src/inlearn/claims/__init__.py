"""Published results as executable checks: what to run, what to measure, and the band it must fall in."""
