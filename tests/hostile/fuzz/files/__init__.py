"""Files as their writers leave them, in parts that can be changed and put together again."""
