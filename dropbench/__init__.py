"""dropbench: which dropout strategy, at which rate, for this model and this data, and is the difference real?"""

__version__ = "0.1.0"
