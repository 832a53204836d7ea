"""One run by several processes of one machine. Torch is imported by its modules, not here: see ``launch``."""
