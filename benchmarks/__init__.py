"""How fast gradtool is, beside its peers; see README.md."""
