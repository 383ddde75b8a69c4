"""inlearn: where does a sequence model keep what it learns: in its context, in its weights, or in a tool?"""

__version__ = "0.1.0"
