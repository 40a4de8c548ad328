"""
The container side: set-up, agent, sessions. Standard library and this package only; Python 3.8.
"""
