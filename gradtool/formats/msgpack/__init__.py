"""MessagePack documents, read without a library and without their data."""
