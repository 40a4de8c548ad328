"""
The command ``sm-ssh``: arguments in, one call, output. One module per command.
"""
