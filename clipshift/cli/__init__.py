"""The command line: configuration, jobs and exit codes. Only this room may import Hydra."""
