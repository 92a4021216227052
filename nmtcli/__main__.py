"""Run `nmt` as `python -m nmtcli`."""

from nmtcli.cli import main

if __name__ == "__main__":
    main()
