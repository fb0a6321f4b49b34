"""dropbench: which dropout strategy, at which rate, for this model and this data, and is the difference real?"""

import os

#: Matrix products of MKL then do not round by where in memory their operands begin, so a run trains to the same bits in
#: any stack. Read when MKL is first used; it costs no time that could be measured.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"
