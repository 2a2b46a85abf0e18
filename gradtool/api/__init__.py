"""What gradtool does, as functions: the only place where names meet implementations."""
