"""The command line: options, jobs and exit codes. Nothing behind it knows of Hydra."""
