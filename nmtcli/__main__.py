"""`python -m nmtcli` is `nmt`."""

from nmtcli.cli import main

if __name__ == "__main__":
    main()
