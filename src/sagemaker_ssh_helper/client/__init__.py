"""
The user's machine: keys and trust on disk, and the tunnel that ssh speaks through.
"""
