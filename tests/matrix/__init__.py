"""Real starts in containers of every kind; see ``__main__``."""
