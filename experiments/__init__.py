"""Programs: flags -> config -> objects -> the library."""
