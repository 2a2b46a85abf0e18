"""Steps of a run together: a row for each, and what they say as a whole."""
