"""``python -m clipshift`` is the command ``clipshift``."""

from clipshift.cli.main import main

if __name__ == "__main__":
    main()
