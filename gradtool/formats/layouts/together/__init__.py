"""Files that make up one checkpoint because their tensors stay apart, or may not."""
