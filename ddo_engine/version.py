"""Version of the engine, as checkpoints record it."""

ENGINE_VERSION = "0.1.0"
