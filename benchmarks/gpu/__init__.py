"""The torch backend on a GPU."""
