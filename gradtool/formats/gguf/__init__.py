"""GGUF's header, field by field."""
