"""
The container's side: what makes a container reachable and carries its sessions.

Everything in this folder runs in the user's job, on any image: the standard library and this package only,
Python 3.8 and newer. Nothing is imported here, so that a module costs what it needs and no more.
"""
