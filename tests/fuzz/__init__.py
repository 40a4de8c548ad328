"""
Fuzzing of everything that reads the network.

=============  ===============================================================================
module         what it holds
=============  ===============================================================================
``targets``    a target for each parser: what it is fed, which errors may come out, what it covers
``seeds``      what the official peers sent, and what is hard to guess
``mutate``     a small mutator without packages, for the short run in the tests
``libfuzzer``  the process that atheris drives: one target, guided by coverage
``branches``   how many branches of the parsers a corpus reaches
``__main__``   ``make fuzz``: all targets, then the table
=============  ===============================================================================
"""
