"""Trackers show a run's numbers elsewhere while it trains. The folder stays the truth, and none can end a run.

choice.py              which trackers a run has
wandb_mirror.py        tells a process of its own (wandb_process.py, by feed.py) what to log
tensorboard_mirror.py  event files in `<run>/tensorboard/`
scalars.py             the names under which numbers appear in both
guarded.py             a tracker that fails costs one warning
"""
